"""Shards: the IDs and suffixes of one table, whatever the parts, the block and the interruptions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from unitok import SemanticIds, Tokenizer, UniTokConfig
from unitok.ids.table import IdTable
from unitok.sharded.shards import Shards
from unitok.sharded.suffixes import hashed, repeated, suffixes
from unitok.storage.lock import BusyError, only_writer
from unitok_kernels import backends

if not backends.available()["cpu"]:
    pytest.skip("the native module is not built", allow_module_level=True)
serving = pytest.importorskip("unitok.serving")
tokenizing = pytest.importorskip("unitok.sharded.tokenizing")
UNFINISHED, tokenize_shards = tokenizing.UNFINISHED, tokenizing.tokenize_shards

WIDTH, ROWS = 12, 700


def items() -> tuple[NDArray[Any], list[str]]:
    """Embeddings so coarse that many have one ID, and names whose order is not that of the rows."""
    g = np.random.default_rng(0)
    x = g.normal(size=(40, WIDTH))[g.integers(40, size=ROWS)] + 0.05 * g.normal(size=(ROWS, WIDTH))
    return x.astype(np.float16), [f"ä{number}" for number in g.permutation(ROWS).tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, _ = items()
    config = UniTokConfig(
        codebook_size=8, num_levels=3, codebook_dim=6, encoder_widths=(16,), epochs=2, batch_size=64, num_experts=1
    )
    path = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.fit({"coarse": x.astype(np.float32)}, config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> SemanticIds:
    """The IDs as one process assigns them to all items at once."""
    x, names = items()
    return Tokenizer.from_pretrained(folder).tokenize(x.astype(np.float32)).assign(names)


def write(folder: Path, parts: int) -> Shards:
    """Write the items into so many shards of unequal sizes, some of which may be empty."""
    x, names = items()
    folder.mkdir()
    cuts = np.sort(np.random.default_rng(parts).integers(ROWS + 1, size=parts - 1)).tolist()
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, ROWS], strict=True)):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(x[start:end].ravel()), WIDTH)
        pq.write_table(pa.table({"source_id": names[start:end], "embedding": rows}), folder / f"{number:03}.parquet")
    return Shards.of(folder)


def read(shards: Shards, out: Path, tokenizer: Tokenizer) -> list[IdTable]:
    return [IdTable.read(out / file.name, tokenizer.fingerprint(), "suffix") for file in shards.files]


def bytes_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if not file.name.startswith(".")}


@pytest.mark.parametrize("parts", [1, 2, 7, 64])
def test_ids_and_suffixes_are_those_of_one_table(parts: int, folder: Path, whole: SemanticIds, tmp_path: Path) -> None:
    shards, out, server = write(tmp_path / "shards", parts), tmp_path / "out", serving.load(folder)
    steps: list[tuple[int, int, str]] = []
    report = lambda *step: steps.append(step)  # noqa: E731
    found = tokenize_shards(server, shards, out, domain="coarse", rows_at_once=50, progress=report)
    assert found == {"items": ROWS, "shared": int((whole.suffix > 0).sum())}
    assert found["shared"] > 50
    tables = read(shards, out, Tokenizer.from_pretrained(folder))
    assert torch.cat([table.ids.tokens() for table in tables if len(table.ids)]).equal(whole.tokens())
    assert [name for table in tables for name in table.source_ids] == items()[1]
    numbers = [number for table in tables for number in table.table["item_id"].to_pylist()]
    assert numbers == list(range(ROWS))
    assert not (out / UNFINISHED).exists()
    assert steps[0] == (0, ROWS, "encoding")
    assert steps[-1] == (ROWS, ROWS, "writing")
    assert [done for done, _, what in steps if what == "encoding"][-1] == ROWS


@pytest.mark.parametrize("at_once", [30, 200])
def test_suffixes_do_not_depend_on_how_many_rows_are_compared_at_a_time(
    at_once: int, whole: SemanticIds, tmp_path: Path
) -> None:
    shards = write(tmp_path / "shards", 5)
    rows = np.split(whole.tokens()[:, :-1].numpy().astype(np.uint16), np.cumsum(shards.rows)[:-1])
    found = suffixes(rows, shards.names, at_once)
    assert np.concatenate(found).tolist() == whole.suffix.tolist()


@pytest.mark.parametrize("stop", [0, 3, 9])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    stop: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, server = write(tmp_path / "shards", 7), serving.load(folder)
    tokenize_shards(server, shards, tmp_path / "straight", domain="coarse")
    calls = 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop + 1:
            raise KeyboardInterrupt
        return serving.ServingTokenizer.tokenize(server, *args)

    out = tmp_path / "out"
    monkeypatch.setattr(server, "tokenize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(server, shards, out, domain="coarse", rows_at_once=64)
    assert not bytes_of(out)
    kept = len(list((out / UNFINISHED).glob("*.codes.npy")))
    tokenize_shards(server, shards, out, domain="coarse", rows_at_once=ROWS)
    assert calls - stop - 1 == sum(rows > 0 for rows in shards.rows[kept:])  # what was finished is not done again
    assert bytes_of(out) == bytes_of(tmp_path / "straight")


def test_an_interruption_between_tables_leaves_whole_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, server, out = write(tmp_path / "shards", 4), serving.load(folder), tmp_path / "out"

    def stop(done: int, total: int, what: str) -> None:
        if what == "writing" and done >= shards.rows[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(server, shards, out, domain="coarse", progress=stop)
    begun = bytes_of(out)
    assert 0 < len(begun) < 4
    tokenize_shards(server, shards, out, domain="coarse")
    after = bytes_of(out)
    assert len(after) == 4
    assert {name: after[name] for name in begun} == begun
    with pytest.raises(FileExistsError, match="a table is there already"):
        tokenize_shards(server, shards, out, domain="coarse")


def interrupted(folder: Path, shards: Shards, out: Path, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Begin, and be stopped after so many shards."""
    server = serving.load(folder)
    calls = iter(range(after + 1))

    def tokenize(*args: Any) -> Any:
        if next(calls) == after:
            raise KeyboardInterrupt
        return serving.ServingTokenizer.tokenize(server, *args)

    monkeypatch.setattr(server, "tokenize", tokenize)
    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(server, shards, out, domain="coarse", rows_at_once=ROWS)


def test_unfinished_work_of_others_is_not_taken_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = write(tmp_path / "shards", 2), tmp_path / "out"
    interrupted(folder, shards, out, monkeypatch)
    with pytest.raises(FileExistsError, match="the unfinished work of another tokenizer or domain"):
        tokenize_shards(serving.load(folder), shards, out, domain="another")
    tokenize_shards(serving.load(folder), shards, out, domain="another", force=True)
    assert len(bytes_of(out)) == 2


def test_of_a_shard_that_changed_everything_is_done_again_and_of_others_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = write(tmp_path / "shards", 3), tmp_path / "out"
    interrupted(folder, shards, out, monkeypatch, after=2)
    kept = {file: file.stat().st_mtime_ns for file in (out / UNFINISHED).glob("*.codes.npy")}
    assert len(kept) == 2
    pq.write_table(pq.read_table(shards.files[0]).slice(1), shards.files[0])
    shards = Shards.of(tmp_path / "shards")
    interrupted(folder, shards, out, monkeypatch, after=1)
    assert [file.stat().st_mtime_ns == before for file, before in sorted(kept.items())] == [False, True]
    tokenize_shards(serving.load(folder), shards, out, domain="coarse")
    tokenize_shards(serving.load(folder), shards, tmp_path / "straight", domain="coarse")
    assert bytes_of(out) == bytes_of(tmp_path / "straight")


def test_codes_that_nothing_vouches_for_are_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = write(tmp_path / "shards", 2), tmp_path / "out"
    interrupted(folder, shards, out, monkeypatch, after=1)
    [kept] = (out / UNFINISHED).glob("*.codes.npy")
    np.save(kept, np.zeros_like(np.load(kept)))
    (out / UNFINISHED / "run.json").unlink()
    tokenize_shards(serving.load(folder), shards, out, domain="coarse")
    tokenize_shards(serving.load(folder), shards, tmp_path / "straight", domain="coarse")
    assert bytes_of(out) == bytes_of(tmp_path / "straight")


def test_force_keeps_every_table_until_its_successor_is_whole(folder: Path, tmp_path: Path) -> None:
    shards, out = write(tmp_path / "shards", 3), tmp_path / "out"
    tokenize_shards(serving.load(folder), shards, out, domain="coarse")
    before = bytes_of(out)
    spoiled = pq.read_table(shards.files[2])
    pq.write_table(with_last(spoiled, [float("inf")] * WIDTH), shards.files[2])
    with pytest.raises(ValueError, match=r"002\.parquet: embeddings must be finite"):
        tokenize_shards(serving.load(folder), Shards.of(tmp_path / "shards"), out, domain="another", force=True)
    assert bytes_of(out) == before
    (out / "theirs.txt").write_text("kept")
    pq.write_table(spoiled, shards.files[2])
    shards = Shards.of(tmp_path / "shards")

    def stop(done: int, total: int, what: str) -> None:
        if what == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(serving.load(folder), shards, out, domain="another", force=True, progress=stop)
    begun = bytes_of(out)
    assert sorted(before[name] == begun[name] for name in before) == [False, True, True]
    tokenize_shards(serving.load(folder), shards, out, domain="another")
    assert all(before[name] != after for name, after in bytes_of(out).items() if name in before)
    assert (out / "theirs.txt").read_text() == "kept"


def test_shards_are_never_their_own_output(folder: Path, tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", 2)
    links = tmp_path / "links"
    links.mkdir()
    for file in shards.files:
        (links / file.name).symlink_to(file)
    before = bytes_of(tmp_path / "shards")
    for given in (shards, Shards.of(links)):
        with pytest.raises(ValueError, match="must be another folder than that of the shards"):
            tokenize_shards(serving.load(folder), given, tmp_path / "shards", domain="coarse", force=True)
    assert bytes_of(tmp_path / "shards") == before


def test_another_process_is_left_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, out = write(tmp_path / "shards", 2), tmp_path / "out"
    interrupted(folder, shards, out, monkeypatch, after=1)
    kept = sorted(file.name for file in (out / UNFINISHED).iterdir())
    with only_writer("another", out), ThreadPoolExecutor(1) as other:
        work = other.submit(tokenize_shards, serving.load(folder), shards, out, domain="coarse", force=True)
        with pytest.raises(BusyError):
            work.result()
    assert sorted(file.name for file in (out / UNFINISHED).iterdir()) == kept


def test_a_domain_with_views_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serving.load(folder)
    monkeypatch.setattr(server, "views", {"coarse": (0, [])})
    with pytest.raises(ValueError, match="must be one that was fitted without views"):
        tokenize_shards(server, write(tmp_path / "shards", 1), tmp_path / "out", domain="coarse")


def test_equal_names_have_equal_hashes_and_others_other_ones() -> None:
    g = np.random.default_rng(0)
    texts = sorted({"".join(map(chr, g.integers(32, 0x2FF, g.integers(0, 12)))) for _ in range(3000)})
    found = hashed(pa.array(texts))
    assert len(np.unique(found)) == len(texts)
    mixed = g.permutation(len(texts))
    assert np.array_equal(hashed(pa.array([texts[row] for row in mixed]).slice(5)), found[mixed][5:])
    assert len(hashed(pa.array([], pa.string()))) == 0


def test_names_with_equal_hashes_are_told_apart() -> None:
    names = [pa.array(["a", "b"]), pa.array(["c", "b"])]
    hashes = [np.array([1, 2], np.uint64), np.array([1, 2], np.uint64)]
    assert repeated(hashes, names.__getitem__) == ("b", [(0, 1), (1, 1)])
    hashes[1][1] = 1
    assert repeated(hashes, names.__getitem__) is None


@pytest.mark.parametrize("kind", ["float32", "float64", "list", "large_list", "integers"])
def test_other_types_of_the_columns_mean_the_same(kind: str, folder: Path, whole: SemanticIds, tmp_path: Path) -> None:
    shards, out = write(tmp_path / "shards", 1), tmp_path / "out"
    table, names = pq.read_table(shards.files[0]), items()[1]
    lists = {"list": pa.list_(pa.float16()), "large_list": pa.large_list(pa.float32())}
    wanted = lists.get(kind) or pa.list_(pa.float64() if kind == "float64" else pa.float32(), WIDTH)
    values = pa.array(table["embedding"].to_pylist(), pa.list_(pa.float32())).cast(wanted)
    numbers = [int(name[1:]) for name in names]
    source = pa.array(numbers) if kind == "integers" else pa.array(names, pa.large_string())
    pq.write_table(pa.table({"embedding": values, "source_id": source, "more": source}), shards.files[0])
    tokenize_shards(serving.load(folder), shards, out, domain="coarse")
    found = IdTable.read(out / shards.files[0].name)
    assert found.ids.codes.equal(whole.codes)
    if kind == "integers":  # which are in another order than their texts
        assert found.source_ids == [str(number) for number in numbers]
        whole = replace(whole, suffix=None).assign(numbers)
    assert found.ids.suffix.equal(whole.suffix)


def with_last(table: pa.Table, last: list[float] | None, kind: pa.DataType | None = None) -> pa.Table:
    """The table with another embedding in its last row."""
    column = pa.array([*table["embedding"].to_pylist()[:-1], last], kind or table["embedding"].type)
    return table.set_column(1, "embedding", column)


BAD: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no column": (lambda t: t.drop_columns("embedding"), "no embedding"),
    "another type": (lambda t: t.set_column(1, "embedding", t["source_id"]), "embedding of string"),
    "no name": (lambda t: t.set_column(0, "source_id", [[*t["source_id"].to_pylist()[:9], None]]), "none in row 9"),
    "a name twice": (
        lambda t: pa.concat_tables([t.slice(9, 1), t.slice(0, 9).set_column(0, "source_id", t["source_id"][1:])]),
        r"must be distinct, got '.*' in 000\.parquet, row 0 and 000\.parquet, row 9",
    ),
    "no embedding": (lambda t: with_last(t, None), "none in row 9"),
    "of another length": (lambda t: with_last(t, [1.0], pa.list_(pa.float32())), "1 beside 12 in row 9"),
    "no number": (lambda t: with_last(t, [None] * WIDTH), "null from row 0 on"),  # type: ignore[list-item]
    "NaN": (lambda t: with_last(t, [float("nan")] * WIDTH), "must be finite, got NaN or infinity in row 9"),
    "of another width": (
        lambda t: t.set_column(1, "embedding", pa.array([[1.0]] * 10, pa.list_(pa.float32()))),
        "block from row 0 on: x must be of width 12",
    ),
}


def tokenized(folder: Path, home: Path) -> None:
    tokenize_shards(serving.load(folder), Shards.of(home / "shards"), home / "out", domain="coarse")


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_with_its_shard(case: str, folder: Path, tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", 1)
    spoil, message = BAD[case]
    pq.write_table(spoil(pq.read_table(shards.files[0]).slice(0, 10)), shards.files[0])
    with pytest.raises(ValueError, match=message) as error:
        tokenized(folder, tmp_path)
    assert "000.parquet" in str(error.value)


def test_a_folder_without_shards_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder must hold Parquet files, got none"):
        Shards.of(tmp_path)
    (tmp_path / ".hidden.parquet").write_bytes(b"")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match="the folder must hold Parquet files, got none"):
        Shards.of(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet: shards must have the columns"):
        Shards.of(tmp_path)


def test_a_link_to_nothing_is_named_and_names_are_of_one_kind(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", 2)
    (tmp_path / "shards" / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"gone\.parquet"):
        Shards.of(tmp_path / "shards")
    (tmp_path / "shards" / "gone.parquet").unlink()
    table = pq.read_table(shards.files[1])
    pq.write_table(table.set_column(0, "source_id", pa.array(range(len(table)))), shards.files[1])
    with pytest.raises(ValueError, match=r"001\.parquet: source_id must be of one kind in all shards"):
        Shards.of(tmp_path / "shards")
