"""ID tables: what is written is read back from every format, whoever saved it again, and a changed one is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unitok.ids.made import SIZES, make_ids
from unitok.data import CatalogueError
from unitok.ids.semantic_ids import AssignedIds, SemanticIds
from unitok.ids.table import Fingerprint, IdTable

OWN = Fingerprint(base="b", experts=["x", "y", "z"], num_levels=2, codebook_size=4)
DOMAINS = ['quoted "one", and a comma', "NA", "7", "two\nlines", "ünï"]


def a_table(rows: int = 20, resolver: str = "suffix") -> IdTable:
    ids = make_ids(rows, 3).assign(range(rows), resolver)
    return IdTable.of([DOMAINS[row % 5] for row in range(rows)], range(rows), ids)


def assert_same(read: IdTable, table: IdTable) -> None:
    assert read.table.equals(table.table)
    assert read.ids.equals(table.ids)
    assert read.keys == table.keys


@pytest.mark.parametrize("resolver", ["suffix", "none"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_every_format_comes_back(tmp_path: Path, ending: str, resolver: str) -> None:
    table = a_table(resolver=resolver)
    table.write(tmp_path / f"ids.{ending}", OWN, resolver)
    assert_same(IdTable.read(tmp_path / f"ids.{ending}", OWN, resolver), table)
    assert_same(IdTable.read(tmp_path / f"ids.{ending}"), table)
    content = (tmp_path / f"ids.{ending}").read_bytes()
    assert content.startswith({"parquet": b"PAR1", "csv": b'"domain","item_id",', "jsonl": b'{"domain": "'}[ending])


def test_a_name_that_says_no_format_is_refused(tmp_path: Path) -> None:
    for name in ("ids", "ids.txt", "ids.CSV"):
        with pytest.raises(ValueError, match=r"write: file must be named \*\.parquet, \*\.csv, \*\.jsonl, got .* Give"):
            a_table().write(tmp_path / name, OWN)
    assert not list(tmp_path.iterdir())


TEXT_KINDS = {
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "large dictionary": pa.dictionary(pa.int8(), pa.large_string()),
}
NUMBER_KINDS = {
    "int8": pa.int8(),
    "uint16": pa.uint16(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "float": pa.float32(),
}


@pytest.mark.parametrize("kind", [*TEXT_KINDS.values(), *NUMBER_KINDS.values()], ids=[*TEXT_KINDS, *NUMBER_KINDS])
def test_tables_that_others_saved_again_are_read(tmp_path: Path, kind: Any) -> None:
    table, is_text = a_table(), pa.types.is_string
    fields = [
        field.with_type(kind) if is_text(field.type) == (kind in TEXT_KINDS.values()) else field
        for field in table.table.schema
    ]
    pq.write_table(table.table.cast(pa.schema(fields)), tmp_path / "ids.parquet")  # without the note, too
    assert_same(IdTable.read(tmp_path / "ids.parquet", OWN, "suffix"), table)


@pytest.mark.parametrize("nothing", [pa.nulls(20), pa.array([None] * 20, pa.float64()), pa.array([np.nan] * 20)])
def test_a_suffix_of_nulls_is_none_in_any_type(tmp_path: Path, nothing: pa.Array) -> None:
    table = a_table(resolver="none")
    place = table.table.num_columns - 1
    pq.write_table(table.table.set_column(place, "suffix", nothing), tmp_path / "ids.parquet")
    assert IdTable.read(tmp_path / "ids.parquet", OWN).ids.equals(table.ids)


def read_with(folder: Path, name: str, values: Any, fingerprint: Fingerprint | None = OWN) -> str:
    """What is said of a table with another column."""
    table = a_table().table
    pq.write_table(table.set_column(table.column_names.index(name), name, values), folder / "ids.parquet")
    with pytest.raises(CatalogueError) as caught:
        IdTable.read(folder / "ids.parquet", fingerprint)
    assert str(folder / "ids.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition(": ")[2]


def test_other_types_are_refused_with_the_line_that_converts_them(tmp_path: Path) -> None:
    said = read_with(tmp_path, "domain", pa.array(range(20)))
    step = "Convert it; in pandas: table['domain'] = table['domain'].astype(str)."
    assert said == f"domain must be text in every row, got int64. {step}"
    assert "got bool. Convert it; in pandas: table['c0'] = " in read_with(tmp_path, "c0", pa.array([True] * 20))
    assert "must be an integer in every row, got Float value 1.5" in read_with(tmp_path, "c1", pa.array([1.5] * 20))
    assert "2 nulls" in read_with(tmp_path, "expert", pa.array([1] * 18 + [None] * 2))
    assert "not in range" in read_with(tmp_path, "suffix", pa.array([2**40] * 20))


@pytest.mark.parametrize("name", ["c0", "expert"])
@pytest.mark.parametrize("value", [2**20, 2**31 - 1])
def test_sizes_of_a_table_alone_are_bounded(tmp_path: Path, name: str, value: int) -> None:
    said = read_with(tmp_path, name, pa.array([value] * 20), None)
    assert f"must be below 1048576, got {value}. Pass the tokenizer's fingerprint, or check the file." in said


def test_numbers_and_texts_that_say_different_things_are_refused(tmp_path: Path) -> None:
    table = a_table()
    codes, written = table.table["c1"].to_pylist(), table.table["semantic_id"].to_pylist()
    codes[7] = (codes[7] + 1) % 4
    row = table.table.slice(7, 1).to_pylist()[0]
    other = f"<a_{row['c0']}><b_{codes[7]}><c_{row['expert']}><d_{row['suffix']}>"
    rule = "semantic_id must be the text of the numbers in its row"
    said = read_with(tmp_path, "c1", pa.array(codes))
    assert said.startswith(f"{rule}, {other}, got {written[7]!r} in row 7. ")
    said = read_with(tmp_path, "semantic_id", pa.array([*written[:7], other, *written[8:]]))
    assert said.startswith(f"{rule}, {written[7]}, got {other!r} in row 7. ")
    assert read_with(tmp_path, "suffix", pa.nulls(20, pa.int32())).startswith(rule)


def test_no_flipped_bit_is_read_as_something_else(tmp_path: Path) -> None:
    table, file = a_table(), tmp_path / "ids.parquet"
    table.write(file, OWN)
    whole, same = file.read_bytes(), 0
    for place in range(0, len(whole), 29):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        try:
            read = IdTable.read(file, OWN)
        except ValueError:
            continue
        assert_same(read, table)
        same += 1
    assert same < len(whole) // 29 // 2


@pytest.mark.parametrize(
    "note",
    [
        b"7",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"tokenizer": {"base": "b", "experts": "xyz"}, "resolver": "suffix"}',
        b'{"tokenizer": {"base": ["b"], "experts": ["x"]}, "resolver": "suffix"}',
        b'{"tokenizer": {"base": "b", "experts": [{}]}, "resolver": "suffix"}',
        b'{"tokenizer": {"base": "b", "experts": ["x"]}, "resolver": {"a": 1}}',
    ],
    ids=range(7),
)
def test_a_note_that_says_nothing_is_one_line(tmp_path: Path, note: bytes) -> None:
    table = a_table().table.replace_schema_metadata({b"unitok": note})
    pq.write_table(table, tmp_path / "ids.parquet")
    with pytest.raises(
        CatalogueError, match=r"^[^\n]{,400}the note 'unitok' in its metadata must be whole, got b'.*'\. "
    ):
        IdTable.read(tmp_path / "ids.parquet", OWN)


def test_an_item_is_there_once(tmp_path: Path) -> None:
    ids = make_ids(3, 0).assign(range(3))
    with pytest.raises(
        ValueError, match=r"IdTable\.of: items must be distinct within a domain, got a:1 more than once"
    ):
        IdTable.of(["a", "b", "a"], [1, 1, 1], ids)
    twice = IdTable(pa.concat_tables([a_table().table, a_table().table.slice(4, 1)]), 4, 3)
    for name, call in (("the table", lambda: twice.append(a_table())), ("later", lambda: a_table().append(twice))):
        with pytest.raises(ValueError, match=rf"append: {name} must be of distinct items, got ünï:4 more than once\. "):
            call()
    pq.write_table(twice.table, tmp_path / "ids.parquet")
    for fingerprint in (OWN, None):
        with pytest.raises(CatalogueError, match="items must be distinct, got ünï:4 more than once"):
            IdTable.read(tmp_path / "ids.parquet", fingerprint)


@pytest.mark.parametrize(
    ("domains", "items", "said"),
    [
        (["a"], [1.0], r"items must be integers, got float64\. Convert them with \.astype\('int64'\)\."),
        (["a"], np.array([1.5]), "items must be integers, got float64"),
        (["a"], ["1"], "items must be integers, got <U1"),
        ([7], [1], r"domains must be texts, got 7\. Convert them with str"),
    ],
)
def test_items_and_domains_of_other_types_are_refused(domains: Any, items: Any, said: str) -> None:
    with pytest.raises(TypeError, match=rf"^IdTable\.of: {said}"):
        IdTable.of(domains, items, make_ids(1, 0).assign([0]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said: list[str] = []

    def read(name: str) -> None:
        try:
            IdTable.read(tmp_path / name)
        except CatalogueError as error:
            said.append(str(error))

    for name, got in (("pipe", "a pipe or a device"), ("nowhere", "nothing there"), (".", "a folder")):
        thread = Thread(target=read, args=(name,), daemon=True)  # a pipe may block for ever
        thread.start()
        thread.join(timeout=20)
        assert said.pop().endswith(f", got {got}. Check the path.")


def test_renewed_items_get_their_new_rows_in_the_old_places() -> None:
    earlier, ids = a_table(10), make_ids(12, 5)
    domains = [DOMAINS[row % 5] for row in range(12)]
    keys = IdTable.of(domains, range(12), ids.assign(range(12))).keys
    existing = AssignedIds(earlier.keys, earlier.ids)
    later = IdTable.of(domains, range(12), ids.assign(keys, existing=existing, changed="renew"))
    moved = [keys[row] for row in ids.changed_rows(keys, existing)[:, 0].tolist()]
    joined = earlier.append(later, renewed=moved)
    assert joined.keys == keys
    for row, key in enumerate(keys):
        source = later if key in moved or row >= 10 else earlier
        assert joined.table.slice(row, 1).equals(source.table.slice(row, 1))
    assert len(set(joined.table["semantic_id"].to_pylist())) == 12
    assert SemanticIds.from_text(joined.ids.to_text(), num_levels=2, **SIZES).equals(joined.ids)


def test_the_note_is_as_it_was_before(tmp_path: Path) -> None:
    a_table().write(tmp_path / "ids.parquet", OWN)
    note = json.loads(pq.read_table(tmp_path / "ids.parquet").schema.metadata[b"unitok"])
    assert note == {"tokenizer": {"base": "b", "experts": ["x", "y", "z"]}, "resolver": "suffix"}
