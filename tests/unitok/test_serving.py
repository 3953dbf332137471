"""Serving without torch gives the IDs of the torch path, and refuses what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unitok import Tokenizer
from unitok.config import PRESETS
from unitok.ids.table import IdTable
from unitok.numerics import embeddings, softmax, top_experts
from unitok.storage.digest import sealed
from unitok.storage.pair import SETTINGS, WEIGHTS
from unitok_kernels import backends

if not backends.available()["cpu"]:
    pytest.skip("the native module is not built", allow_module_level=True)
serving = pytest.importorskip("unitok.serving")

EVERY = [(preset, top_k, None) for preset in PRESETS for top_k in (1, 2)]
EVERY += [(preset, 1, 0) for preset in PRESETS]


@pytest.fixture(params=EVERY, ids=lambda p: f"{p[0]}-top{p[1]}" + ("" if p[2] is None else "-single-codebook"))
def saved(request: pytest.FixtureRequest, fitted: Callable[..., Tokenizer], tmp_path: Path) -> tuple[Tokenizer, Path]:
    preset, top_k, num_experts = request.param
    tokenizer = copy.deepcopy(fitted(preset=preset, top_k=top_k, num_experts=num_experts))
    tokenizer.save_pretrained(tmp_path)
    return tokenizer, tmp_path


@pytest.fixture(scope="module")
def x(small_domains: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(small_domains.values()))


@pytest.fixture
def plain(fitted: Callable[..., Tokenizer], tmp_path: Path) -> Path:
    """The folder of one tokenizer."""
    fitted(preset="normalised").save_pretrained(tmp_path)
    return tmp_path


def assert_equal(found: Any, expected: Any) -> None:
    for name in ("codes", "experts", "shared_codes", "slot_codes"):
        one, two = getattr(found, name), getattr(expected, name)
        assert (one is None) == (two is None), name
        if one is not None:
            assert one.dtype == np.int64
            assert np.array_equal(one, two.numpy()), name
    assert found.to_text() == expected.to_text()


def test_the_ids_are_those_of_the_tokenizer(saved: tuple[Tokenizer, Path], x: Tensor, make_items) -> None:
    tokenizer, folder = saved
    server, strangers = serving.load(folder), make_items(300, seed=11)
    for rows in (x, strangers, x[:1], x[:17], x[:0], 3 * x, 1e-4 * x, x.half()):
        for domain in (None, "games"):
            assert_equal(server.tokenize(rows.numpy(), domain), tokenizer.tokenize(rows, domain))


def test_the_ids_of_added_domains_are_those_of_the_tokenizer(
    saved: tuple[Tokenizer, Path], x: Tensor, make_items
) -> None:
    tokenizer, folder = saved
    strangers = make_items(300, seed=11)
    grows = tokenizer.model.router is not None and not tokenizer.model.preset.dense
    modes = ["frozen", "new_expert"] if grows else ["frozen"]
    for mode in modes:
        tokenizer.add_domain(mode, strangers, mode=mode)
    tokenizer.save_pretrained(folder, force=True)
    server = serving.load(folder)
    for domain in (None, "books", *modes):
        for rows in (strangers, x, strangers[:1]):
            assert_equal(server.tokenize(rows.numpy(), domain), tokenizer.tokenize(rows, domain))


def test_an_item_has_the_same_id_alone_and_with_any_number_of_threads(saved: tuple[Tokenizer, Path], x: Tensor) -> None:
    rows = x.numpy()
    ids = serving.load(saved[1], threads=1).tokenize(rows)
    server = serving.load(saved[1], threads=2)
    parts = [server.tokenize(rows[places]) for places in ([*range(400)], [*range(400, 799)], [799])]
    for name in ids._fields:
        whole, pieces = getattr(ids, name), [getattr(part, name) for part in parts]
        assert whole is None or np.array_equal(whole, np.concatenate(pieces))


def test_the_router_decides_alike_where_logits_tie_or_nearly_do() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (500, 7), generator=generator).double()
    logits[250:] *= 1 + 2**-52 * torch.randint(0, 3, (250, 7), generator=generator)
    logits[0], logits[1] = 0.0, torch.tensor([-0.0, 0.0] * 3 + [0.0])
    order = logits.sort(dim=1, descending=True, stable=True).indices
    assert np.array_equal(top_experts(logits.numpy(), 3), order[:, :3].numpy())
    assert (top_experts(logits.numpy(), 1)[:2] == 0).all()


def test_probabilities_are_the_softmax_and_no_row_depends_on_another() -> None:
    logits = 30 * torch.randn(301, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 0] = 1e4
    probs = softmax(logits.numpy())
    np.testing.assert_allclose(probs, logits.softmax(1), rtol=1e-13, atol=1e-300)
    for rows in ([5], [300, 2, 77], [*range(100, 108)]):
        assert np.array_equal(softmax(logits.numpy()[rows]), probs[rows])


def test_inputs_of_every_kind_give_the_same_ids(plain: Path, x: Tensor, tmp_path: Path) -> None:
    server, rows = serving.load(plain), x.half().numpy()
    np.save(tmp_path / "x.npy", rows)
    expected = server.tokenize(rows.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for value in (rows, rows.astype(np.float64), rows.astype(">f4"), mapped, np.asfortranarray(rows), rows[::-1][::-1]):
        assert np.array_equal(server.tokenize(value).codes, expected.codes)
    assert embeddings("tokenize", "x", x.numpy()).ctypes.data == x.numpy().ctypes.data  # no needless copy


def test_what_does_not_fit_is_refused_in_the_words_of_the_tokenizer(plain: Path, x: Tensor) -> None:
    server, tokenizer = serving.load(plain), Tokenizer.from_pretrained(plain)
    rows, bad = x.numpy(), x.numpy().copy()
    bad[41, 3] = np.nan
    for value in (bad, rows[:, :-1], rows[0], rows.astype(np.int64), np.full((2, rows.shape[1]), 1e300)):
        with pytest.raises((ValueError, TypeError)) as expected:
            tokenizer.tokenize(value)
        with pytest.raises(type(expected.value)) as found:
            server.tokenize(value)
        assert str(found.value) == str(expected.value)
    with pytest.raises(TypeError, match=r"^tokenize: x must be rows of numbers, all of one length, got list\. "):
        server.tokenize([["a"]])
    with pytest.raises(ValueError, match=r"^tokenize: domain must be one of books, games, toys, got 'typo'\. "):
        server.tokenize(rows, "typo")
    with pytest.raises(ValueError, match=r"^load: threads must be at least 1, got 0\. "):
        serving.load(plain, threads=0)


def _reseal(folder: Path, state: dict[str, Tensor]) -> None:
    save_file(state, folder / WEIGHTS)
    _change(folder, weights=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def _change(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / SETTINGS).read_text()) | changes
    del settings["digest"]
    (folder / SETTINGS).write_text(json.dumps(sealed(settings)))


BREAKS: dict[str, Callable[[Path], object]] = {
    "settings: empty": lambda f: (f / SETTINGS).write_text(""),
    "settings: no object": lambda f: (f / SETTINGS).write_text("[1, 2]"),
    "settings: later format": lambda f: _change(f, format=3),
    "settings: wrong setting": lambda f: _change(f, config={"preset": "papre"}),
    "settings: wrong domain": lambda f: _change(f, domains=[{"title": "books"}]),
    "settings: other width": lambda f: _change(f, input_dim=33),
    "settings: other experts": lambda f: _change(f, router_experts=2),
    "weights: truncated": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-10]),
    "weights: of another": lambda f: _reseal(f, {"a": torch.zeros(2)}),
    "weights: doubles": lambda f: _reseal(f, {k: v.double() for k, v in load_file(f / WEIGHTS).items()}),
    "weights: another rank": lambda f: _reseal(f, {k: v[None] for k, v in load_file(f / WEIGHTS).items()}),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_folder_is_refused_in_one_line(how: str, plain: Path) -> None:
    BREAKS[how](plain)
    with pytest.raises(ValueError, match=r"^load: directory must hold a whole tokenizer, got [^\n]*\.$") as caught:
        serving.load(plain)
    assert type(caught.value) is ValueError


def test_ids_are_decoded_as_the_tokenizer_does(saved: tuple[Tokenizer, Path], x: Tensor, make_items) -> None:
    tokenizer, folder = saved
    strangers = make_items(30, seed=11)
    if tokenizer.model.router is not None and not tokenizer.model.preset.dense:
        tokenizer.add_domain("new", strangers)
        tokenizer.save_pretrained(folder, force=True)
    server = serving.load(folder)
    assert server.domains == tuple(tokenizer.domains)
    for rows, domain in ((x, None), (x[:0], None), (strangers, list(tokenizer.domains)[-1])):
        ids, expected = server.tokenize(rows.numpy(), domain), tokenizer.tokenize(rows, domain)
        np.testing.assert_allclose(server.decode(ids), tokenizer.decode(expected), rtol=1e-4, atol=1e-5)
        texts = ids.to_text()
        np.testing.assert_allclose(server.decode(texts), tokenizer.decode(texts), rtol=1e-4, atol=1e-5)


def test_assigned_ids_are_those_of_the_table(plain: Path, x: Tensor, tmp_path: Path, refuses) -> None:
    tokenizer = Tokenizer.from_pretrained(plain)
    rows = x[:5].repeat(2, 1)  # each twice: IDs that only their suffix tells apart
    assigned = tokenizer.tokenize(rows).assign(range(10))
    for ending in (".parquet", ".csv", ".jsonl"):
        file = tmp_path / f"ids{ending}"
        IdTable.of(["books"] * 10, range(10), assigned).write(file, tokenizer.fingerprint())
        server = serving.load(plain, ids=file)
        texts = server.assigned.texts("books", [9, 3])
        assert texts == [assigned.to_text()[9], assigned.to_text()[3]]
        assert {text.count("<") for text in texts} == {server.config.num_levels + 2}
        assert server.assigned.items([texts[0].replace("><", "> <"), "<a_0>"]) == [("books", 9), None]
        np.testing.assert_allclose(server.decode(texts), tokenizer.decode(texts), rtol=1e-4, atol=1e-5)
    assert len(server.assigned) == 10
    with refuses("texts", "items") as caught:
        server.assigned.texts("games", [3])
    assert "of domain 'games', got 3" in str(caught.value)
    for call in (
        lambda: server.assigned.texts("books", "12"),
        lambda: server.assigned.texts("books", [1.7]),
        lambda: server.assigned.texts("books", [True]),
        lambda: server.assigned.texts("books", [None]),
        lambda: server.assigned.texts("books", 3),
        lambda: server.assigned.items(texts[0]),
        lambda: server.assigned.items([3]),
    ):
        with pytest.raises(TypeError, match=r"^(texts|items): (items|texts) must be a sequence of "):
            call()
    assert serving.load(plain).assigned is None
    other = copy.deepcopy(tokenizer)
    other.model.router.bias.data += 1
    IdTable.of(["books"] * 10, range(10), assigned).write(tmp_path / "ids.parquet", other.fingerprint())
    with pytest.raises(ValueError, match=r"ids\.parquet: IDs must be of tokenizer"):
        serving.load(plain, ids=tmp_path / "ids.parquet")
    unresolved = tokenizer.tokenize(rows)
    IdTable.of(["books"] * 10, range(10), unresolved).write(tmp_path / "ids.parquet", tokenizer.fingerprint(), "none")
    with pytest.raises(ValueError, match=r"IDs must be distinct, got \d+ in 10 rows"):
        serving.load(plain, ids=tmp_path / "ids.parquet")


def test_what_is_no_id_is_not_decoded(plain: Path) -> None:
    server = serving.load(plain)
    for ids, kind in (("<a_1>", TypeError), (None, TypeError), (["<a_1>"], ValueError), (["<a_1><b_0>"], ValueError)):
        with pytest.raises(kind, match=r"^decode: "):
            server.decode(ids)
    with pytest.raises(
        ValueError, match=r"^decode: ids must be of codes below \d+ and experts below 3, got '.*' in row 0"
    ):
        server.decode(["".join(f"<{letter}_9999>" for letter in "abcdefgh"[: server.config.num_levels + 1])])


def test_a_missing_file_is_named(plain: Path) -> None:
    (plain / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^load: directory must hold {WEIGHTS}, got "):
        serving.load(plain)


def test_what_a_crash_between_the_renames_left_is_read(plain: Path, x: Tensor) -> None:
    expected = serving.load(plain).tokenize(x.numpy())
    (plain / SETTINGS).rename(plain / "tokenizer.json.partial")  # as an older release called it
    (plain / "tokenizer.json").write_text(json.dumps({"format": 1, "weights": "of the pair before"}))
    assert np.array_equal(serving.load(plain).tokenize(x.numpy()).codes, expected.codes)


def test_a_new_process_serves_without_torch(plain: Path, x: Tensor, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x.numpy())
    code = f"""
import sys, numpy as np, unitok.serving
ids = unitok.serving.load({str(plain)!r}).tokenize(np.load({str(tmp_path / "x.npy")!r}))
print(sorted({{"torch", "pyarrow", "rich", "typer", "matplotlib"}} & set(sys.modules)))
print(*ids.to_text())
"""
    for instructions in backends.instruction_sets():
        environment = {**os.environ, "UNITOK_CPU": instructions}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        loaded, told = done.stdout.splitlines()
        assert loaded == "[]"
        assert told.split() == Tokenizer.from_pretrained(plain).tokenize(x).to_text()
