"""A flipped bit anywhere in a parquet file of ours is an error or changes nothing; files saved again are theirs."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unitok.storage.parquet import read_parquet, write_parquet

TABLE = pa.table(
    {
        "item_id": np.arange(12, dtype=np.int32),
        "title": [f"title {i % 5}" for i in range(12)],
        "suffix": pa.array([None, 1, 2] * 4, pa.int32()),
        "time": np.linspace(0, 1, 12),
        "flag": [True, None, False] * 4,
    },
    metadata={"template": "{title}"},
)
REFUSALS = (OSError, pa.ArrowException, ValueError)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_parquet(TABLE, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_a_table_comes_back(file: Path) -> None:
    assert read_parquet(file).equals(TABLE, check_metadata=True)


DAY = dt.datetime(2020, 1, 2)
TYPES = {
    "seconds": pa.array([DAY, None], pa.timestamp("s")),
    "nanoseconds": pa.array([1, None], pa.timestamp("ns", "UTC")),
    "date64": pa.array([DAY, None], pa.date64()),
    "date32": pa.array([DAY.date(), None]),
    "time": pa.array([1, None], pa.time32("s")),
    "duration": pa.array([1, None], pa.duration("ns")),
    "list": pa.array([["a"], None]),
    "large list": pa.array([[1, 2], []], pa.large_list(pa.int32())),
    "vectors": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "times": pa.array([[1], None], pa.list_(pa.timestamp("ns"))),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    "struct": pa.array([{"a": [1], "b": "x"}, None]),
    "bytes": pa.array([b"\xff", None]),
    "decimal": pa.array([Decimal("1.5"), None]),
    "large": pa.array([2**64 - 1, None], pa.uint64()),
    "halves": pa.array([1.5, None], pa.float16()),
    "categories": pa.array(["a", None]).dictionary_encode(),
    "nothing": pa.array([None, None]),
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_comes_back_and_other_values_have_other_digests(kind: str, tmp_path: Path) -> None:
    table = pa.table({"x": TYPES[kind]})
    for number, part in enumerate([table, table.slice(1), table.slice(0, 0), pa.concat_tables([table, table])]):
        write_parquet(part, tmp_path / f"{number}.parquet")
        assert read_parquet(tmp_path / f"{number}.parquet").num_rows == part.num_rows
    vouched = [json.loads(pq.read_metadata(tmp_path / f"{n}.parquet").metadata[b"unitok.digest"]) for n in (0, 1, 3)]
    assert len({found["columns"]["x"] for found in vouched}) == 3


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_slices_and_chunks_come_back(rows: int, tmp_path: Path) -> None:
    for number, table in enumerate([TABLE.slice(3, rows), pa.concat_tables([TABLE.slice(5, rows), TABLE.slice(1, 2)])]):
        write_parquet(table, tmp_path / f"{number}.parquet")
        assert read_parquet(tmp_path / f"{number}.parquet").equals(table, check_metadata=True)


def test_a_flipped_bit_is_an_error_or_changes_nothing(file: Path) -> None:
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    rng = np.random.default_rng(0)
    names = [whole.index(b"title", footer), whole.index(b"template", footer), whole.index(b"unitok.digest", footer)]
    places = np.concatenate([rng.integers(footer, len(whole), 700), rng.integers(0, footer, 100), names])
    refused = 0
    for place in places.tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(7))
        file.write_bytes(flipped)
        try:
            found = read_parquet(file)
        except REFUSALS:
            refused += 1
        else:
            assert found.equals(TABLE), place
            assert found.schema.metadata[b"template"] == b"{title}", place
    assert refused > 300


def test_some_columns_are_read_alone_and_checked(file: Path) -> None:
    seen = []
    found = read_parquet(file, lambda names: seen.extend(names) or ["title"])
    assert seen == TABLE.column_names
    assert found.equals(TABLE.select(["title"]))
    whole = file.read_bytes()
    place = whole.index(b"suffix", len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"))
    file.write_bytes(whole[:place] + b"t" + whole[place + 1 :])  # the name of another column
    with pytest.raises(REFUSALS):
        read_parquet(file, lambda names: ["title"])


def test_a_table_that_was_changed_and_saved_again_is_read(file: Path) -> None:
    with_notes = pq.read_table(file)
    assert b"unitok.digest" in with_notes.schema.metadata
    fewer = with_notes.slice(0, 5)
    pq.write_table(fewer, file)
    assert read_parquet(file).equals(TABLE.slice(0, 5))
    large = pa.schema([f.with_type(pa.large_string()) if f.name == "title" else f for f in TABLE.schema])
    pq.write_table(with_notes.cast(large), file)
    assert read_parquet(file)["title"].to_pylist() == TABLE["title"].to_pylist()
