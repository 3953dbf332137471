"""The contract of everything that is saved: one for tokenizers and recommenders, all of it whole or not there."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from unitok import Tokenizer
from unitok.data import EmbeddingInfo, embed_domain, find_domains, read_domain, write_domain
from unitok.ids.table import IdTable
from unitok.recommender import CausalRecommender, RQRecommender, SequenceRecommender, TokenTable, gpt2_config
from unitok.storage.digest import sealed
from unitok.storage.saved import RECOMMENDER, TOKENIZER, WEIGHTS, Kind


class Case(NamedTuple):
    """A kind of thing that is saved: how one and another are made, what loads it, and what tells two apart."""

    kind: Kind
    make: Callable[..., Any]
    load: Callable[..., Any]
    told_by: Callable[[Any], Any]


def a_tokenizer(fitted: Callable[..., Tokenizer], other: bool = False) -> Tokenizer:
    tokenizer = copy.deepcopy(fitted(preset="normalised", top_k=1))
    if other:
        tokenizer.embedding = EmbeddingInfo("another", "{title}")
    return tokenizer


def a_recommender(_: object, other: bool = False) -> SequenceRecommender:
    table = TokenTable.items(7)
    if other:
        return CausalRecommender.create(table, gpt2_config(16, 1, 2), history=5, beam=8)
    return RQRecommender.create(table, gpt2_config(16, 1, 2), history=4, beam=8)


CASES = {
    "tokenizer": Case(TOKENIZER, a_tokenizer, Tokenizer.from_pretrained, lambda found: found.embedding),
    "recommender": Case(RECOMMENDER, a_recommender, SequenceRecommender.from_pretrained, lambda found: found.history),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OWN = ("device", "tokenizer")  # a recommender's alone: where its model runs, and a language model's tokenizer


def test_arguments_are_the_same() -> None:
    for name in ("save_pretrained", "from_pretrained"):
        first, second = (inspect.signature(getattr(cls, name)) for cls in (Tokenizer, SequenceRecommender))
        shared = [parameter for parameter in second.parameters.values() if parameter.name not in OWN]
        assert list(first.parameters.values()) == shared


def test_an_occupied_folder_is_refused_without_force(
    case: Case, fitted: Callable[..., Tokenizer], tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    first, second = case.make(fitted), case.make(fitted, other=True)
    first.save_pretrained(tmp_path / "new" / "folder")
    (tmp_path / "new" / "folder" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with refuses("save_pretrained", "directory", FileExistsError):
        second.save_pretrained(tmp_path / "new" / "folder")
    assert contents(tmp_path) == before
    assert case.told_by(case.load(tmp_path / "new" / "folder")) == case.told_by(first)
    second.save_pretrained(str(tmp_path / "new" / "folder"), force=True)
    assert case.told_by(case.load(str(tmp_path / "new" / "folder"))) == case.told_by(second)
    assert (tmp_path / "new" / "folder" / "mine.txt").read_text() == "mine"
    second.save_pretrained(tmp_path / "clean")
    after = contents(tmp_path / "new" / "folder")
    assert after == {**contents(tmp_path / "clean"), "mine.txt": b"mine"}  # nothing of the first is left


@pytest.mark.parametrize("there", ["nothing", "empty", "a file"])
def test_a_missing_one_is_refused_with_what_to_run(
    there: str, case: Case, tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    folder = tmp_path / "folder"
    if there == "empty":
        folder.mkdir()
    elif there == "a file":
        folder.write_text("")
    with refuses("from_pretrained", "directory", FileNotFoundError) as caught:
        case.load(folder)
    assert f"must hold {case.kind.settings}" in str(caught.value)
    assert case.kind.made_by in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_refused(
    case: Case, fitted: Callable[..., Tokenizer], tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        with refuses("save_pretrained", "directory", FileExistsError):
            case.make(fitted).save_pretrained(tmp_path / "file", force=force)
    assert (tmp_path / "file").read_text() == "mine"


def test_another_kind_is_refused_by_name(
    case: Case, fitted: Callable[..., Tokenizer], tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    other = next(other for other in CASES.values() if other.kind != case.kind)
    other.make(fitted).save_pretrained(tmp_path)
    before = contents(tmp_path)
    for force in (False, True):
        with refuses("save_pretrained", "directory") as caught:
            case.make(fitted).save_pretrained(tmp_path, force=force)
        assert f"with a {other.kind.name}" in str(caught.value)
    with refuses("from_pretrained", "directory") as caught:
        case.load(tmp_path)
    assert f"it holds a {other.kind.name}. Load it with {other.kind.loaded_by}." in str(caught.value)
    assert contents(tmp_path) == before


HUGGING_FACE = json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
FOREIGN = {
    "a model of transformers": {"config.json": '{"model_type": "bert"}', "model-00001-of-00002.safetensors": "x"},
    "its tokenizer": {"tokenizer.json": HUGGING_FACE, "config.json": '{"architectures": ["A"]}', WEIGHTS: "x"},
    "weights alone": {WEIGHTS: "x"},
    "settings of another program": {"unitok.json": "{}", "tokenizer.json": HUGGING_FACE, "recommender.json": "[]"},
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_not_ours_is_never_replaced(
    foreign: str, case: Case, fitted: Callable[..., Tokenizer], tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    for name, content in FOREIGN[foreign].items():
        (tmp_path / name).write_text(content)
    before = contents(tmp_path)
    for force in (False, True):
        with refuses("save_pretrained", "directory"):
            case.make(fitted).save_pretrained(tmp_path, force=force)
    error = FileNotFoundError if foreign == "weights alone" else ValueError
    with refuses("from_pretrained", "directory", error):
        case.load(tmp_path)
    assert contents(tmp_path) == before


def test_what_a_save_does_not_touch_may_be_there(fitted: Callable[..., Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"lr": 1}')  # of the user's own experiment
    (tmp_path / "notes").mkdir()
    a_tokenizer(fitted).save_pretrained(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(HUGGING_FACE)  # of the language model that is extended
    a_recommender(None).save_pretrained(tmp_path / "other")
    assert (tmp_path / "config.json").read_text() == '{"lr": 1}'
    assert (tmp_path / "other" / "tokenizer.json").read_text() == HUGGING_FACE


def test_files_of_two_saves_are_no_recommender(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    for name, other in (("a", False), ("b", True)):
        a_recommender(None, other).save_pretrained(tmp_path / name)
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b" / "config.json")
    with refuses("from_pretrained", "directory") as caught:
        SequenceRecommender.from_pretrained(tmp_path / "b")
    assert "config.json isn't the one" in str(caught.value)


def test_a_recommender_of_another_class_is_refused_by_name(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    a_recommender(None).save_pretrained(tmp_path)
    assert isinstance(RQRecommender.from_pretrained(tmp_path), RQRecommender)
    with refuses("from_pretrained", "directory") as caught:
        CausalRecommender.from_pretrained(tmp_path)
    assert "it holds a RQRecommender. Load it with RQRecommender.from_pretrained." in str(caught.value)
    settings = json.loads((tmp_path / "recommender.json").read_text())
    del settings["digest"]
    (tmp_path / "recommender.json").write_text(json.dumps(sealed(settings | {"kind": "mine"})))
    with refuses("from_pretrained", "directory") as caught:
        SequenceRecommender.from_pretrained(tmp_path)
    assert "its kind 'mine' is none of" in str(caught.value)
    (tmp_path / "recommender.json").write_text(json.dumps(settings | {"format": 3}))
    with refuses("from_pretrained", "directory") as caught:
        SequenceRecommender.from_pretrained(tmp_path)
    assert "later release" in str(caught.value)


@pytest.mark.parametrize("step", ["fsync", "rename", "replace", "link", "unlink"])
def test_an_interrupted_save_leaves_one_that_is_whole(
    step: str, case: Case, fitted: Callable[..., Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = case.make(fitted), case.make(fitted, other=True)
    first.save_pretrained(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(KeyboardInterrupt):
            second.save_pretrained(tmp_path, force=True)
    whole = first if step in ("fsync", "rename") else second
    assert case.told_by(case.load(tmp_path)) == case.told_by(whole)
    with pytest.raises(FileExistsError):
        first.save_pretrained(tmp_path)
    first.save_pretrained(tmp_path, force=True)
    assert case.told_by(case.load(tmp_path)) == case.told_by(first)
    first.save_pretrained(tmp_path / "clean")
    assert contents(tmp_path / "clean").keys() == {name for name in contents(tmp_path) if "/" not in name}


# ---- permissions


def save_everything(out: Path) -> None:
    """Save a thing of every kind by what saves it."""
    from unitok import UniTokConfig
    from unitok.cli.app import app
    from unitok.data import generate_catalogue

    catalogue, fitted = str(out / "catalogue"), str(out / "tokenizer")
    generate_catalogue(out / "catalogue", items_per_domain=40, width=16, domains=["beauty"])
    write_domain(out / "bare", None, items={"text": ["a", "b"]})
    embed_domain(out / "bare", lambda texts: np.ones((len(texts), 4)), "made")
    sizes = ["--epochs", "2", "--levels", "2", "--codebook-size", "8", "--codebook-dim", "4", "--batch-size", "32"]
    for args in (
        ["fit", catalogue, "--out", fitted, *sizes],
        ["tokenize", fitted, catalogue, "--out", str(out / "ids.parquet")],
        ["decode", fitted, str(out / "ids.parquet"), "--out", str(out / "decoded.npy")],
        ["report", fitted, catalogue, "--plot", str(out / "report.png")],
    ):
        app(args, standalone_mode=False)
    x = torch.from_numpy(read_domain(out / "catalogue" / "beauty").embeddings.astype(np.float32))
    config = UniTokConfig(epochs=1, num_levels=2, codebook_size=8, codebook_dim=4, encoder_widths=(8,), batch_size=32)
    Tokenizer.fit({"beauty": x}, config, directory=out / "run")
    for name, other in (("rq", False), ("causal", True)):
        a_recommender(None, other).save_pretrained(out / name)
    from unitok.recommender import Histories, TrainingConfig, fit

    histories = Histories(torch.arange(0, 45, 4), torch.arange(44) % 7, torch.arange(11))
    fit(a_recommender(None), histories, TrainingConfig(epochs=1), directory=out / "recommender-run")


@pytest.mark.parametrize("umask", ["022", "027"])
def test_all_that_is_saved_has_the_permissions_of_the_umask(umask: str, tmp_path: Path) -> None:
    before = os.umask(int(umask, 8))
    try:
        save_everything(tmp_path)
    finally:
        os.umask(before)
    found = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*")}
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in found.items() if path.is_file()}
    assert {name.rpartition("/")[2] for name in modes} == {
        *("embeddings.npy", "embeddings.json", "items.parquet", "interactions.parquet", "SOURCE.md"),
        *(".embedded.npy", ".embedded.digests"),
        *("unitok.json", WEIGHTS, "history.jsonl", "report.json", "checkpoint.safetensors", "best.safetensors"),
        *("ids.parquet", "decoded.npy", "report.png"),
        *("recommender.json", "config.json", "generation_config.json", "items.safetensors", "head.safetensors"),
    }
    wanted = 0o666 & ~int(umask, 8)
    assert {name: oct(mode) for name, mode in modes.items() if mode != wanted} == {}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in found.values() if path.is_dir()}
    assert folders == {0o777 & ~int(umask, 8)}


# ---- layouts of tensors


def test_items_of_every_layout_come_back(tmp_path: Path) -> None:
    block = np.arange(2, 2 + 7 * 6, dtype=np.int64).reshape(7, 6)
    frame = np.asfortranarray(block)  # as pandas keeps a table
    tables = {
        "strided": TokenTable(torch.from_numpy(block[:, ::2]), 99, groups=torch.from_numpy(block[:, 0])),
        "transposed": TokenTable(torch.from_numpy(block.T.copy()).t(), 99),
        "of a frame": TokenTable(torch.from_numpy(frame[:, 1:4]), 99, groups=torch.from_numpy(frame[:, 1])),
        "shared": TokenTable(tokens := torch.from_numpy(block)[:, 1:2], 99, groups=tokens[:, 0]),
    }
    for name, table in tables.items():
        CausalRecommender.create(table, gpt2_config(16, 1, 2), history=4).save_pretrained(tmp_path / name)
        found = SequenceRecommender.from_pretrained(tmp_path / name).table
        assert torch.equal(found.tokens, table.tokens), name
        assert (found.groups is None) == (table.groups is None)
        assert table.groups is None or torch.equal(found.groups, table.groups), name


def test_weights_of_every_layout_come_back(fitted: Callable[..., Tokenizer], tmp_path: Path) -> None:
    tokenizer = a_tokenizer(fitted)
    for parameter in tokenizer.model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.transpose(0, 1).contiguous().transpose(0, 1)
            assert not parameter.is_contiguous()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = Tokenizer.from_pretrained(tmp_path / "tokenizer").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in tokenizer.model.state_dict().items())
    for kind, other in (("rq", False), ("causal", True)):
        recommender = a_recommender(None, other)
        for parameter in recommender.model.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.t().contiguous().t()
        recommender.save_pretrained(tmp_path / kind)
        weights = SequenceRecommender.from_pretrained(tmp_path / kind).model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in recommender.model.state_dict().items())
        a_recommender(None, other).save_pretrained(tmp_path / f"plain {kind}")
        sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in (kind, f"plain {kind}")]
        assert sizes[0] == sizes[1]  # tied weights are kept once
        assert "lm_head.weight" not in load_file(tmp_path / kind / WEIGHTS)


# ---- other things that are saved


def test_a_table_that_cannot_be_written_leaves_the_old_one(
    fitted: Callable[..., Tokenizer], small_domains: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = fitted(preset="normalised", top_k=1)
    x = small_domains["toys"]
    table = IdTable.of(["toys"] * len(x), range(len(x)), tokenizer.tokenize(x).assign(range(len(x))))
    table.write(tmp_path / "ids.parquet", tokenizer.fingerprint())
    before = contents(tmp_path)

    def half(_: object, file: Path, **__: object) -> None:
        Path(file).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="No space left"):
        table.write(tmp_path / "ids.parquet", tokenizer.fingerprint())
    assert contents(tmp_path) == before


def test_a_domain_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, info = tmp_path / "made", EmbeddingInfo("m", "t")
    write_domain(folder, np.ones((3, 4), np.float32), items={"title": ["a", "b", "c"]}, embedding=info, source="old")
    before = contents(folder)
    for step in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, _full)
            with pytest.raises(OSError, match="No space left"):
                write_domain(folder, np.zeros((2, 4), np.float32), force=True)
        assert contents(folder) == before
        assert list(find_domains(tmp_path)) == ["made"]
    for step in ("link", "replace"):  # after the new set was committed
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", _full)
            patch.setattr(os, step, _full)
            with pytest.raises(OSError, match="No space left"):
                write_domain(folder, np.zeros((2, 4), np.float32), force=True)
            assert list(find_domains(tmp_path)) == ["made"]
            found = read_domain(folder)
            assert (found.embeddings.shape, found.titles, found.embedding) == ((2, 4), None, None)
    write_domain(folder, np.zeros((2, 4), np.float32), force=True)
    assert contents(folder).keys() == {"embeddings.npy"}


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_embeddings_and_what_made_them_are_replaced_together(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    write_domain(folder, None, items={"text": ["a", "b", "c"]})
    encoded: list[int] = []

    def encode(value: float) -> Callable[[list[str]], Any]:
        return lambda texts: encoded.append(len(texts)) or np.full((len(texts), 4), value)

    embed_domain(folder, encode(1.0), "old", unit_length=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, _full)
        with pytest.raises(OSError, match="No space left"):
            embed_domain(folder, encode(2.0), "new", unit_length=False, force=True)
    domain = read_domain(folder)
    committed = step == "replace"
    assert domain.embedding is not None
    assert domain.embedding.model == f"{'new' if committed else 'old'}, lengths kept"
    assert (domain.embeddings == (2.0 if committed else 1.0)).all()
    embed_domain(folder, encode(2.0), "new", unit_length=False, force=True)  # nothing is embedded a second time
    assert encoded == [3, 3]
    kept = {".embedded.npy", ".embedded.digests"}  # what a later run takes rows from
    assert contents(folder).keys() == {"items.parquet", "embeddings.npy", "embeddings.json"} | kept
