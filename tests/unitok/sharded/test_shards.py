"""Shards: the IDs and suffixes of one table, whatever the parts, the block and the interruptions."""

from __future__ import annotations

from collections.abc import Callable
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
from unitok.sharded.suffixes import suffixes
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
    kept = len(list((out / UNFINISHED).glob("*.npy")))
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


def test_unfinished_work_of_others_is_not_taken_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, server, out = write(tmp_path / "shards", 2), serving.load(folder), tmp_path / "out"
    monkeypatch.setattr(server, "tokenize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(server, shards, out, domain="coarse")
    with pytest.raises(ValueError, match="the unfinished work of the same tokenizer, domain and shards"):
        tokenize_shards(server, shards, out, domain="another")
    pq.write_table(pq.read_table(shards.files[0]).slice(1), shards.files[0])
    with pytest.raises(ValueError, match="the unfinished work of the same"):
        tokenize_shards(serving.load(folder), Shards.of(tmp_path / "shards"), out, domain="coarse")


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
    if kind == "integers":
        assert found.source_ids == [str(number) for number in numbers]
    else:
        assert found.ids.suffix.equal(whole.suffix)


def with_last(table: pa.Table, last: list[float] | None, kind: pa.DataType | None = None) -> pa.Table:
    """The table with another embedding in its last row."""
    column = pa.array([*table["embedding"].to_pylist()[:-1], last], kind or table["embedding"].type)
    return table.set_column(1, "embedding", column)


BAD: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no column": (lambda t: t.drop_columns("embedding"), "no embedding"),
    "another type": (lambda t: t.set_column(1, "embedding", t["source_id"]), "embedding of string"),
    "no name": (lambda t: t.set_column(0, "source_id", [[*t["source_id"].to_pylist()[:9], None]]), "none in row 9"),
    "a name twice": (lambda t: pa.concat_tables([t.slice(3, 1), t.slice(0, 9)]), "more than once"),
    "no embedding": (lambda t: with_last(t, None), "none in row 9"),
    "of another length": (lambda t: with_last(t, [1.0], pa.list_(pa.float32())), "1 beside 12 in row 9"),
    "no number": (lambda t: with_last(t, [None] * WIDTH), "null from row 0 on"),  # type: ignore[list-item]
    "NaN": (lambda t: with_last(t, [float("nan")] * WIDTH), "the block from row 0 on"),
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
    assert "000.parquet" in str(error.value) or case == "a name twice"


def test_a_folder_without_shards_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder must hold Parquet files, got none"):
        Shards.of(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet: shards must have the columns"):
        Shards.of(tmp_path)
