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
from unitok.ids import table_files
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


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_table_of_no_rows_comes_back(tmp_path: Path, ending: str) -> None:
    table = IdTable.of([], [], make_ids(0, 0).assign([]))
    table.write(tmp_path / f"ids.{ending}", OWN)
    assert len(IdTable.read(tmp_path / f"ids.{ending}", OWN, "suffix").keys) == 0


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_note_beside_a_table_is_held_to_it(tmp_path: Path, ending: str) -> None:
    file, other = tmp_path / f"ids.{ending}", Fingerprint(**{**OWN, "base": "another"})
    note = tmp_path / f"ids.{ending}.unitok.json"
    a_table(5).write(file, OWN)
    a_table().write(file, OWN)  # replaced together
    assert IdTable.read(file, OWN).is_noted
    assert json.loads(note.read_text())["resolver"] == "suffix"
    for fingerprint, resolver, said in (
        (other, None, "IDs must be of tokenizer another with experts x, y, z, got those of b"),
        (OWN, "none", r"IDs must be resolved by none, got suffix\. Pass --resolver suffix\."),
    ):
        with pytest.raises(CatalogueError, match=said):
            IdTable.read(file, fingerprint, resolver)
    with file.open("ab") as grown:
        grown.write(b"\n")
    with pytest.raises(
        CatalogueError, match=rf"as it was written with {note.name}, got other bytes\. .* remove {note.name}"
    ):
        IdTable.read(file)
    note.unlink()
    read = IdTable.read(file, other)
    assert_same(read, a_table())
    assert not read.is_noted


def test_a_stop_between_table_and_note_leaves_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ids.csv"
    a_table(5).write(file, OWN)
    real = table_files.whole_file

    def stopped(path: Path) -> Any:
        if path.suffix == ".json":
            raise InterruptedError
        return real(path)

    monkeypatch.setattr(table_files, "whole_file", stopped)
    with pytest.raises(InterruptedError):
        a_table().write(file, OWN)
    assert_same(IdTable.read(file, OWN), a_table())


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_resolvers_are_told_without_a_note(tmp_path: Path, ending: str) -> None:
    for made, wanted, said in (
        ("none", "suffix", r"IDs must be resolved by suffix, got no suffix\. Pass --resolver none\.$"),
        ("suffix", "none", r"IDs must be resolved by none, got a suffix\. Pass the --resolver"),
    ):
        a_table(resolver=made).write(tmp_path / "noted.csv", OWN, made)
        table = IdTable.read(tmp_path / "noted.csv").table.replace_schema_metadata(None)
        if ending == "parquet":
            pq.write_table(table, tmp_path / "ids.parquet")
        else:
            a_table(resolver=made).write(tmp_path / f"ids.{ending}", OWN, made)
            (tmp_path / f"ids.{ending}.unitok.json").unlink()
        with pytest.raises(CatalogueError, match=said):
            IdTable.read(tmp_path / f"ids.{ending}", OWN, wanted)


@pytest.mark.parametrize(("ending", "kind"), [("csv", "CSV file"), ("jsonl", "file of JSON lines")])
def test_a_broken_table_is_called_what_it_is(tmp_path: Path, ending: str, kind: str) -> None:
    (tmp_path / f"ids.{ending}").write_bytes(b'{"a": \n"b,c\n')
    with pytest.raises(CatalogueError, match=rf"table must be a {kind} with domain, item_id, .*, got "):
        IdTable.read(tmp_path / f"ids.{ending}")


def named(names: dict[str, list[str | None]]) -> IdTable:
    domains = [domain for domain, each in names.items() for _ in each]
    ids = make_ids(len(domains), 3).assign(range(len(domains)))
    numbers = [row for each in names.values() for row in range(len(each))]
    return IdTable.of(domains, numbers, ids, [name for each in names.values() for name in each])


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_items_are_known_again_by_their_names(tmp_path: Path, ending: str) -> None:
    table = named({"a": ["007", "x", None, "gone", "late"], "b": ["x", "y"]})
    table.write(tmp_path / f"ids.{ending}", OWN)
    read = IdTable.read(tmp_path / f"ids.{ending}", OWN)
    assert_same(read, table)
    assert read.source_ids == ["007", "x", None, "gone", "late", "x", "y"]
    again = read.renumbered({"a": ["new", "007", "late", "x"], "c": ["x"]})
    # 2 is another item's now, and so is 3, whose item is gone; b isn't there.
    assert again.keys == ["a:1", "a:3", "a:-1", "a:-2", "a:2", "b:0", "b:1"]
    assert again.ids.equals(table.ids)
    assert again.renumbered({"a": ["x", "gone"]}).keys == ["a:-3", "a:0", "a:-1", "a:1", "a:2", "b:0", "b:1"]


def test_a_name_is_of_one_item(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"IdTable\.of: source_ids must be distinct within a domain, got a:x more than"
    ):
        named({"a": ["x", "x"]})
    with pytest.raises(ValueError, match=r"IdTable\.of: source_ids must be as many as ids, 1, got 0\. "):
        IdTable.of(["a"], [0], make_ids(1, 0).assign([0]), [])
    with pytest.raises(ValueError, match=r"renumbered: sources must be distinct within a domain, got a:x more than"):
        named({"a": ["x"]}).renumbered({"a": ["x", "x"]})
    twice = a_table().table.append_column("source_id", pa.array(["x"] * 20))
    pq.write_table(twice, tmp_path / "ids.parquet")
    with pytest.raises(CatalogueError, match=r"source_id must be distinct within a domain, got .*:x more than once"):
        IdTable.read(tmp_path / "ids.parquet")


def test_tables_with_and_without_names_are_joined() -> None:
    later = named({"a": ["x", "y"]})
    earlier = IdTable(later.table.drop_columns("source_id").slice(0, 1), 4, 3)
    assert earlier.append(later).source_ids == [None, "y"]
    assert earlier.append(later, renewed=["a:0"]).source_ids == ["x", "y"]
    assert later.append(earlier).source_ids == ["x", "y"]


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


@pytest.mark.parametrize(
    "name", ["ids.parquet", "ids.csv", "ids.csv.unitok.json", "ids.jsonl", "ids.jsonl.unitok.json"]
)
def test_no_flipped_bit_is_read_as_something_else(tmp_path: Path, name: str) -> None:
    table, file = a_table(), tmp_path / name
    ids = tmp_path / name.removesuffix(".unitok.json")
    table.write(ids, OWN)
    whole, same = file.read_bytes(), 0
    for place in range(0, len(whole), 29):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        try:
            read = IdTable.read(ids, OWN)
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
