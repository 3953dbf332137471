"""Files that no save of ours wrote stay where they are."""

from __future__ import annotations

import pytest

from unitok.recommender import RQRecommender, TokenTable, gpt2_config


def test_parts_of_somebody_else_s_weights_are_not_removed(tmp_path):
    parts = tmp_path / "model-00001-of-00002.safetensors"
    parts.write_bytes(b"weights")
    recommender = RQRecommender.create(TokenTable.items(5), gpt2_config(width=8, layers=1, heads=1))
    for force in (False, True):
        with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors"):
            recommender.save_pretrained(tmp_path, force=force)
    assert parts.read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["model.safetensors.partial", "tokenizer.json.partial", "tokenizer.partial"])
def test_a_partial_file_of_another_program_is_not_removed(name, tmp_path, fitted):
    (tmp_path / name).write_text("kept")
    fitted().save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == "kept"
