"""Files of a domain that are odd, hostile or of another kind: one line that names them, soon and in little memory."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unitok.data.published import write_published
from unitok.data import CatalogueError, find_domains, import_domain, read_domain, read_interactions, write_domain
from unitok.data.embedding import embed_domain
from unitok.data.files import read_items
from unitok.data.folder import TEXT_TEMPLATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_domain(tmp_path / "made", np.ones((2, 4), np.float32), items={"title": ["a", "b"]})
    return tmp_path / "made"


def npy(header: str, version: int = 1, size: int | None = None, data: bytes = bytes(64)) -> bytes:
    text = header.encode()
    stated = len(text) if size is None else size
    return b"\x93NUMPY" + bytes([version, 0]) + stated.to_bytes(2 if version == 1 else 4, "little") + text + data


def shaped(shape: str, kind: str = "'<f4'") -> bytes:
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n")


HEADERS = {
    "negative": (shaped("(-2, 4)"), r"the shape \(-2, 4\)"),
    "twice negative": (shaped("(-2, -4)"), r"the shape \(-2, -4\)"),
    "booleans": (shaped("(True, 4)"), r"the shape \(True, 4\)"),
    "overflowing": (shaped("(4611686018427387904, 8)"), r"the shape \(4611686018427387904, 8\)"),
    "overflowing by a product": (shaped("(140737488355328, 131072)"), "the shape"),
    "beyond 64 bits": (shaped("(1180591620717411303424, 1)"), "the shape"),
    "longer than the file": (shaped("(200000000000, 4)"), "can't be read"),
    "no numbers": (shaped("('2', 4)"), "can't be read"),
    "no rank": (shaped("()"), r"got \(\)"),
    "structured": (shaped("(2, 2)", "[('a', '<f4')]"), r"got \[\('a', '<f4'\)\]"),
    "dates": (shaped("(2, 2)", "'<M8[s]'"), r"got datetime64\[s\]"),
    "swapped bytes": (shaped("(2, 2)", "'>f4'"), "got >f4"),
    "half a dictionary": (npy("'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }\n"), "can't be read"),
    "nested": (npy("-" * 9000 + "1"), "can't be read"),
    "a huge header": (npy("", 2, size=0xFFFFFFF0), "a header of 4294967280 bytes"),
    "an unknown version": (npy("{}", 9), "can't be read"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_odd_headers_are_refused_in_one_line(folder: Path, case: str) -> None:
    content, message = HEADERS[case]
    (folder / "embeddings.npy").write_bytes(content)
    with pytest.raises(CatalogueError, match=message) as caught:
        read_domain(folder)
    assert str(caught.value).startswith(f"{folder / 'embeddings.npy'}: embeddings must ")
    assert "\n" not in str(caught.value)


def test_headers_of_version_3_are_read(folder: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }\n"
    (folder / "embeddings.npy").write_bytes(npy(header, 3))
    assert read_domain(folder).embeddings.shape == (2, 8)


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("name", ["embeddings.npy", "embeddings.json", "items.parquet", "interactions.parquet"])
def test_pipes_and_devices_are_refused_at_once(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    make(folder / name)
    with pytest.raises(CatalogueError, match=f"{name}: .* must be .*, got a pipe or a device\\. [A-Z]"):
        (read_interactions if name == "interactions.parquet" else read_domain)(folder)


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("place", [0, 1])
def test_pipes_and_devices_are_not_imported(tmp_path: Path, place: int, make: Callable[[Path], None]) -> None:
    files = write_published(tmp_path, "yelp")
    make(files[place])
    with pytest.raises(CatalogueError, match=r"must be the .*json of Yelp, got a pipe or a device\. Write"):
        import_domain("yelp", *files)


def test_deep_nesting_in_embedding_info_is_refused(folder: Path) -> None:
    for content in ("[" * 100_000, '{"model": "' + "a" * (1 << 20) + '", "template": ""}'):
        (folder / "embeddings.json").write_text(content)
        with pytest.raises(CatalogueError, match=r"embeddings\.json: embedding info must be .*, got one that can't be"):
            read_domain(folder)


def embed_texts(folder: Path) -> object:
    return embed_domain(folder, lambda rows: np.ones((len(rows), 2)), "made", force=True)


def titles(folder: Path, column: Any) -> list[str] | None:
    pq.write_table(pa.table({"item_id": [0, 1], "title": column}), folder / "items.parquet")
    return read_domain(folder).titles


WORDS = pa.array(["a", None])
DAYS = pa.array([0, 17_719], pa.int32()).view(pa.date32())
NANOSECONDS = pa.array([1000, 10**18]).view(pa.timestamp("ns"))
TITLES: dict[str, tuple[Any, list[str]]] = {
    "large text": (WORDS.cast(pa.large_string()), ["a", ""]),
    "a view": (WORDS.cast(pa.string_view()), ["a", ""]),
    "categories": (WORDS.dictionary_encode(), ["a", ""]),
    "categories of numbers": (pa.array([7, 7]).dictionary_encode(), ["7", "7"]),
    "bytes": (WORDS.cast(pa.binary()), ["a", ""]),
    "nothing": (pa.nulls(2), ["", ""]),
    "numbers": ([1, 2.5], ["1.0", "2.5"]),
    "dates": (DAYS, ["1970-01-01", "2018-07-07"]),
    "whole microseconds": (NANOSECONDS, ["1970-01-01 00:00:00.000001", "2001-09-09 01:46:40"]),
}


@pytest.mark.parametrize("case", TITLES)
def test_titles_may_be_of_any_kind_of_text(folder: Path, case: str) -> None:
    column, expected = TITLES[case]
    assert titles(folder, column) == expected


BROKEN = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)
NO_TITLES: dict[str, tuple[Any, str]] = {
    "far dates": (pa.array([2**31 - 1, 0], pa.int32()).view(pa.date32()), r"got date32\[day\] \("),
    "far times": (pa.array([2**50, 0]).view(pa.timestamp("s")), r"got timestamp\[ms\] \("),
    "nanoseconds": (pa.array([1, 0]).view(pa.timestamp("ns")), r"got timestamp\[ns\] \("),
    "an unknown zone": (pa.array([1, 0]).view(pa.timestamp("s", "Nowhere/X")), r"got timestamp\[ms, tz=Nowhere/X\] \("),
    "lists": ([["a"], ["b"]], r"got list<.*>\. Make one text of each row, .*join"),
    "structures": ([{"a": 1}, {"a": 2}], r"got struct<.*>\. Make one text"),
    "no UTF-8": (BROKEN, r"got string \('utf-8' codec"),
    "bytes that are no text": (pa.array([b"\xff", b""]), r"got binary \("),
}


@pytest.mark.parametrize("case", NO_TITLES)
def test_titles_that_are_no_text_are_refused(folder: Path, case: str) -> None:
    column, message = NO_TITLES[case]
    with pytest.raises(CatalogueError, match=f"title must be text, {message}") as caught:
        titles(folder, column)
    assert str(caught.value).startswith(f"{folder / 'items.parquet'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.array(["a", None], pa.large_string()), ["a", ""]),
        (pa.array([7, 70]), ["7", "70"]),
        (pa.array([7.0, None]), None),  # what pandas made of integers
        (pa.array([["a"], ["b"]]), None),
    ],
)
def test_names_in_the_source_are_read_where_they_are_names(folder: Path, column: Any, read: list[str] | None) -> None:
    pq.write_table(pa.table({"item_id": [0, 1], "source_id": column}), folder / "items.parquet")
    assert read_domain(folder).source_ids == read


def test_a_column_twice_is_refused(folder: Path) -> None:
    table = pa.Table.from_arrays([pa.array([0, 1]), WORDS, WORDS], names=["item_id", "title", "title"])
    pq.write_table(table, folder / "items.parquet")
    for read in (read_domain, embed_texts):
        with pytest.raises(CatalogueError, match=r"items\.parquet: table must be .*, got title twice"):
            read(folder)


def test_a_column_whose_name_is_no_text_is_refused(folder: Path) -> None:
    file = folder / "items.parquet"
    pq.write_table(pa.table({"item_id": [0, 1], "more": ["a", "b"]}), file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"more", b"m\xffre"))
    with pytest.raises(CatalogueError, match=r"items\.parquet: table must be .*, got one that can't be read \('utf-8'"):
        read_domain(folder)


def test_other_columns_are_not_read(folder: Path) -> None:
    """What a domain doesn't need may be of any kind; it takes no memory."""
    pq.write_table(pa.table({"item_id": [1, 0], "title": ["b", "a"], "x": BROKEN}), folder / "items.parquet")
    assert read_domain(folder).titles == ["a", "b"]
    assert read_items(folder / "items.parquet", optional=("title",)).column_names == ["item_id", "title"]


def test_a_note_that_is_no_text_is_refused(folder: Path) -> None:
    table = pa.table({"item_id": [0, 1], "text": ["a", "b"]}, metadata={TEXT_TEMPLATE: b"\xff{title}"})
    pq.write_table(table, folder / "items.parquet")
    with pytest.raises(CatalogueError, match=r"items\.parquet: the note unitok\.text_template must be UTF-8, got b'"):
        embed_texts(folder)


def test_hidden_folders_are_no_domains(folder: Path) -> None:
    write_domain(folder.parent / ".made", np.ones((2, 4), np.float32))
    assert list(find_domains(folder.parent)) == ["made"]
    assert list(find_domains(folder.parent / ".made")) == [".made"]


@pytest.mark.parametrize(
    ("module", "name", "file"), [(pq, "write_table", "items.parquet"), (np, "save", "embeddings.npy")]
)
def test_a_full_disk_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, file: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(module, name, full)
    message = rf"made.{file}: the output must be writable, got .*No space left on device\. Free space there"
    with pytest.raises(OSError, match=message):
        write_domain(folder, np.ones((1, 4), np.float32), items={"title": ["a"]}, force=True)
    assert read_domain(folder).titles == ["a", "b"]


HUNGRY = """
import resource, sys
from unitok.data import CatalogueError, import_domain
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    import_domain("amazon-2014", sys.argv[1], sys.argv[2], k_core=1)
except CatalogueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


def test_a_literal_of_one_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    """ast.literal_eval takes 500 bytes for each: 4 GiB for the 8 MiB that a line of JSON may have."""
    items, events = write_published(tmp_path, "amazon-2014")
    for literal, message in (
        ("{'a': [" + "0," * (2 << 20) + "0]}", "line 1 must be at most 1 MiB long, as it isn't JSON, got"),
        ("{'a': [" + "'',0," * 200_000 + "0]}", "line 1 must have asin, got 'a'"),
    ):
        items.write_bytes(gzip.compress(literal.encode(), 1))
        run = subprocess.run(
            [sys.executable, "-c", HUNGRY, str(items), str(events)], capture_output=True, text=True, check=True
        )
        line, peak = run.stdout.splitlines()
        assert message in line
        assert int(peak) < 300
