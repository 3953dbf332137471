"""The folder of a recommender: what was changed in it is noticed, and every table and model can be saved there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unitok.recommender.language.test_vocabulary import language_model, tokenizer
from tests.unitok.recommender.test_sequence_models import HISTORY, ITEMS, forget_digests, histories, ids, make
from unitok.recommender import (
    CausalRecommender,
    RQRecommender,
    SequenceRecommender,
    TokenTable,
    extend_vocabulary,
    saving,
)
from unitok.recommender.saving import HEAD, SETTINGS
from unitok.recommender.saving import ITEMS as TOKENS
from unitok.storage import saved as contract
from unitok.storage.digest import sealed
from unitok.storage.lock import only_writer


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have another thread hold a folder."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer("train", folder):
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved recommender of all files that there may be, but shards."""
    path = tmp_path_factory.mktemp("saved")
    recommender = make("rq", TokenTable.of(ids()))
    recommender.about = {"domains": {"books": ITEMS}, "scores": [0.25, None]}
    recommender.save_pretrained(path)
    return path


def changed(folder: Path, **settings: Any) -> None:
    """Change settings by hand, with the digest that they then have; `...` removes one."""
    now = {**json.loads((folder / SETTINGS).read_text()), **settings}
    del now["digest"]
    (folder / SETTINGS).write_text(json.dumps(sealed({k: v for k, v in now.items() if v is not ...})))


@contextmanager
def kept(*files: Path) -> Iterator[None]:
    whole = {file: file.read_bytes() for file in files}
    try:
        yield
    finally:
        for file, content in whole.items():
            file.write_bytes(content)


def test_a_flipped_bit_is_noticed_wherever_it_is(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} >= {SETTINGS, TOKENS, HEAD, "config.json", "model.safetensors"}
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        with kept(file):
            content = bytearray(file.read_bytes())
            # Every byte of the settings, which vouch for all the rest; some of each other file.
            step = 1 if file.name == SETTINGS else max(1, len(content) // 12)
            for place in range(0, len(content), step):
                content[place] ^= 1 << place % 8
                file.write_bytes(content)
                with pytest.raises(ValueError, match=r"^from_pretrained: directory must [^\n]+$"):
                    SequenceRecommender.from_pretrained(folder)
                content[place] ^= 1 << place % 8
    assert len(SequenceRecommender.from_pretrained(folder).table) == ITEMS


def test_what_was_checked_is_what_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each file is replaced as soon as its digest was taken: nothing may be read again.
    expected = SequenceRecommender.from_pretrained(folder).rank(histories(3, 5), 8, exclude_seen=False)
    files = [file for file in folder.iterdir() if file.name != SETTINGS and not file.name.startswith(".")]

    def digest(content: bytes) -> str:
        for file in files:
            if file.read_bytes() == content:
                file.write_bytes(b"other")
        return found(content)

    found = saving.digest
    with kept(*files):
        monkeypatch.setattr(saving, "digest", digest)
        loaded = SequenceRecommender.from_pretrained(folder)
        assert all(file.read_bytes() == b"other" for file in files)
    assert torch.equal(loaded.rank(histories(3, 5), 8, exclude_seen=False), expected)


@pytest.mark.parametrize("name", ["kind", "history", "beam", "about", "vocab_size", "start", "pad"])
@pytest.mark.parametrize("value", [..., None, [1]])
def test_a_setting_that_is_missing_or_odd_is_named(
    name: str, value: Any, folder: Path, refuses: Callable[..., Any]
) -> None:
    with kept(folder / SETTINGS):
        changed(folder, **{name: value})
        with refuses("from_pretrained", "directory") as caught:
            SequenceRecommender.from_pretrained(folder)
    assert name in str(caught.value) or (name, value) == ("kind", ...)  # by which UniTok's file is known


@pytest.mark.parametrize(
    "settings",
    [{"history": 0}, {"beam": -1}, {"start": 10**9}, {"pad": -1}, {"vocab_size": 3}, {"files": [1]}, {"format": "2"}],
)
def test_settings_that_no_recommender_has_are_refused(
    settings: dict[str, Any], folder: Path, refuses: Callable[..., Any]
) -> None:
    with kept(folder / SETTINGS):
        changed(folder, **settings)
        with refuses("from_pretrained", "directory"):
            SequenceRecommender.from_pretrained(folder)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"vocab_size": 10**9}, "config.json says that wte.weight is (1000000000, 16)"),
        ({"n_layer": 300}, "config.json says num_hidden_layers = 300"),
        ({"n_inner": 10**9}, "config.json says that h.0.mlp.c_fc.weight is"),
        ({"model_type": "none"}, "config.json describes no model"),
    ],
)
def test_sizes_of_other_weights_are_refused_before_anything_is_built(
    sizes: dict[str, Any], why: str, folder: Path, refuses: Callable[..., Any]
) -> None:
    file = folder / "config.json"
    with kept(file, folder / SETTINGS):
        forget_digests(folder)  # an older release vouched for no file
        file.write_text(json.dumps({**json.loads(file.read_text()), **sizes}))
        with refuses("from_pretrained", "directory") as caught:
            SequenceRecommender.from_pretrained(folder)
    assert why in str(caught.value)


def test_weights_in_several_files_are_one_model(tmp_path: Path) -> None:
    recommender = make("llama", TokenTable.of(ids()))
    save = recommender.model.save_pretrained
    recommender.model.save_pretrained = lambda *args, **options: save(*args, **options, max_shard_size="8KB")
    recommender.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    for forget in (False, True):
        if forget:
            forget_digests(tmp_path)
        loaded = SequenceRecommender.from_pretrained(tmp_path)
        assert torch.equal(
            loaded.rank(histories(3, 5), 8, exclude_seen=False),
            recommender.rank(histories(3, 5), 8, exclude_seen=False),
        )


def strided(table: TokenTable) -> TokenTable:
    """Equal tokens that lie otherwise in memory: a slice of the columns of a transposed copy."""
    twice = torch.cat([table.tokens, table.tokens], 1).t().contiguous().t()
    return TokenTable(twice[:, : table.width], table.vocab_size, groups=twice[:, 0])


@pytest.mark.parametrize("kind", ["gpt2", "t5", "rq", "hybrid"])
def test_tokens_and_weights_are_saved_however_they_lie(kind: str, tmp_path: Path) -> None:
    table = strided(TokenTable.of(ids()))
    assert not table.tokens.is_contiguous()
    make(kind, TokenTable.items(5)).save_pretrained(tmp_path)
    recommender = make(kind, table).within(torch.arange(2 * ITEMS)[::2][: ITEMS // 2].flip(0))
    parameter = next(value for value in recommender.model.parameters() if value.ndim == 2)
    parameter.data = parameter.data.t().contiguous().t()
    recommender.save_pretrained(tmp_path, force=True)
    loaded = SequenceRecommender.from_pretrained(tmp_path)
    assert torch.equal(loaded.table.tokens, table.tokens)
    assert loaded.table.groups is not None
    assert torch.equal(loaded.table.groups, table.tokens[:, 0])
    assert torch.equal(
        loaded.rank(histories(3, HISTORY), 8, exclude_seen=False),
        recommender.rank(histories(3, HISTORY), 8, exclude_seen=False),
    )


def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    recommender = RQRecommender.create(TokenTable.items(5))
    for about in ({"weights": torch.zeros(2)}, {("a", "b"): 1}):
        recommender.about = about
        with refuses("save_pretrained", "about", TypeError):
            recommender.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_holds_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., Any]
) -> None:
    monkeypatch.setattr(contract, "only_writer", lambda what, folder, wait: only_writer(what, folder))  # at once
    recommender = RQRecommender.create(TokenTable.items(5))
    with held(tmp_path), refuses("save_pretrained", str(tmp_path), OSError) as caught:
        recommender.save_pretrained(tmp_path)
    assert "got process " in str(caught.value)
    assert not (tmp_path / SETTINGS).exists()
    recommender.save_pretrained(tmp_path)


def test_paths_and_devices_that_are_none_are_refused(folder: Path, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses("from_pretrained", "directory", FileNotFoundError) as caught:
        SequenceRecommender.from_pretrained(tmp_path / "nowhere")
    assert "nowhere" in str(caught.value)
    for call in (SequenceRecommender.from_pretrained, RQRecommender.create(TokenTable.items(5)).save_pretrained):
        with refuses(call.__name__, "directory", TypeError):
            call(None)
    devices: list[Any] = ["nowhere", 1.5, *([] if torch.cuda.is_available() else ["cuda"])]
    for device in devices:
        with refuses("from_pretrained", "device"):
            SequenceRecommender.from_pretrained(folder, device)
        with refuses("to", "device"):
            RQRecommender.create(TokenTable.items(5)).to(device)


def of_language() -> tuple[CausalRecommender, Any]:
    """A language model that names items, and its tokenizer."""
    words, model = tokenizer(bos_token="<s>"), language_model("gpt2", 7)
    return CausalRecommender(model, extend_vocabulary(words, model, ids(9)), history=4), words


def test_somebodys_tokenizer_is_never_replaced(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    recommender, words = of_language()
    mine = tokenizer(bos_token="<s>", eos_token="</s>", additional_special_tokens=["<mine>"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder = tmp_path / name
        mine.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name != name:
                file.unlink()
        before = (folder / name).read_bytes()
        for beside in (False, True):  # a recommender that was saved without a tokenizer
            if beside:
                recommender.save_pretrained(folder)
            for force in (beside, True):
                with refuses("save_pretrained", "directory") as caught:
                    recommender.save_pretrained(folder, force=force, tokenizer=words)
                assert f"with the file {name}, which isn't a recommender's" in str(caught.value)
                assert (folder / name).read_bytes() == before
        words.save_pretrained(folder)
        recommender.save_pretrained(folder, force=True, tokenizer=words)  # nothing is lost
        mine.save_pretrained(tmp_path / "other")
        recommender.save_pretrained(folder, force=True, tokenizer=mine)  # now it is the recommender's
        assert (folder / name).read_bytes() == before


def test_a_recommender_saved_again_keeps_its_tokenizer(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    recommender, words = of_language()
    recommender.save_pretrained(tmp_path, tokenizer=words)
    of_words = {file.name: file.read_bytes() for file in tmp_path.glob("tokenizer*")}
    assert of_words
    (tmp_path / "notes.txt").write_text("mine")
    for beam in (3, 4):
        loaded = SequenceRecommender.from_pretrained(tmp_path)
        loaded.beam = beam
        loaded.within(torch.arange(5)).save_pretrained(tmp_path, force=True)
        assert {file.name: file.read_bytes() for file in tmp_path.glob("tokenizer*")} == of_words
        assert SequenceRecommender.from_pretrained(tmp_path).beam == beam
    with kept(tmp_path / "tokenizer.json"):
        (tmp_path / "tokenizer.json").write_bytes(b"{}")
        with refuses("from_pretrained", "directory"):  # the settings vouch for it still
            SequenceRecommender.from_pretrained(tmp_path)
    with kept(tmp_path / "tokenizer_config.json"), kept(tmp_path / "tokenizer.json"):
        before = SequenceRecommender.from_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text('{"changed": "by the user"}')
        before.save_pretrained(tmp_path, force=True)
        assert (tmp_path / "tokenizer_config.json").read_text() == '{"changed": "by the user"}'
    recommender.save_pretrained(tmp_path / "again", tokenizer=words)
    make("gpt2", TokenTable.items(9)).save_pretrained(tmp_path / "again", force=True)  # whose tokens are others
    assert not list((tmp_path / "again").glob("tokenizer*"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
