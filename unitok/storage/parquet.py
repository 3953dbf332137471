"""Parquet files that are known again: a flipped bit anywhere in one of ours is an error, not another value.

Page checksums cover the pages alone. A bit of the footer may still give a column another name, or drop rows or notes,
without an error. So the notes hold digests of all columns. Whoever saves the table again, with pandas or polars or
Arrow, makes another file of it, whose rows are theirs: the digest says nothing there. Ours are told by a page index,
which Arrow doesn't write unless it is asked to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unitok.storage.digest import check_seal, digest, sealed

_NOTE = b"unitok.digest"
_TAIL = 8  # bytes at the end of the file: the length of the footer before it, and the format's name


def write_parquet(table: Any, partial: Path) -> None:
    """Write a table into a file that `whole_file` or `whole_files` gave.

    Args:
        table: a pyarrow table.
        partial: the file.
    """
    table = _as_read(table)
    notes = table.schema.metadata or {}
    columns = {name: _digest(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    vouched = sealed({"rows": table.num_rows, "notes": _digest_of_notes(notes), "columns": columns})
    marked = table.replace_schema_metadata({**notes, _NOTE: json.dumps(vouched)})
    pq.write_table(marked, partial, write_page_checksum=True, write_page_index=True)


def read_parquet(file: Path, choose: Callable[[list[str]], Sequence[str] | None] = lambda names: None) -> Any:
    """Read a table, and see that it is the one that was written if the file is one of ours.

    Args:
        file: the file.
        choose: is given the names of the columns, and gives those that are to be read; None reads all.

    Returns:
        A pyarrow table, its metadata without the digests.

    Raises:
        OSError, pyarrow.ArrowException: the file can't be read.
        ValueError: it isn't as it was written.
    """
    with pa.OSFile(str(file)) as opened:
        parquet = pq.ParquetFile(opened, page_checksum_verification=True)
        names = parquet.schema_arrow.names
        table = parquet.read(choose(names))
        ours = _is_ours(opened, parquet.metadata)
    notes = dict(table.schema.metadata or {})
    noted = notes.pop(_NOTE, b"")
    table = table.replace_schema_metadata(notes or None)
    if ours and not _is_as_written(table, names, noted):
        raise ValueError("it isn't as it was written: damaged, or changed and saved with the notes of what it was")
    return table


def _is_ours(file: Any, metadata: Any) -> bool:
    """Tell whether a file was written here: it has a page index, and the digests' name is among the footer's bytes.

    The bytes are searched, since one bit may hide all notes from the parser.
    """
    places = range(metadata.num_columns if metadata.num_row_groups else 0)
    if not any(metadata.row_group(0).column(place).has_offset_index for place in places):
        return False
    size = file.size()
    file.seek(size - _TAIL)
    file.seek(size - _TAIL - int.from_bytes(file.read(4), "little"))
    return _NOTE in file.read()


def _is_as_written(table: Any, names: list[str], noted: bytes) -> bool:
    """Compare what was read with the digests in the notes."""
    try:
        vouched = json.loads(noted)
        check_seal("", vouched)
        columns = vouched["columns"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    if vouched["rows"] != table.num_rows or vouched["notes"] != _digest_of_notes(table.schema.metadata or {}):
        return False
    read = zip(table.column_names, table.columns, strict=True)
    return names == list(columns) and all(_digest(column) == columns[name] for name, column in read)


def _digest_of_notes(notes: Mapping[bytes, bytes]) -> str:
    plain = sorted((key.hex(), value.hex()) for key, value in notes.items() if key != _NOTE)
    return digest(json.dumps(plain).encode())


def _digest(column: Any) -> str:
    """Return a digest of a column's type and values."""
    found = hashlib.sha256(str(column.type).encode())
    for chunk in [pa.array([], column.type)] if not column.num_chunks else [_whole(column)]:
        _update(found, chunk)
    return found.hexdigest()


def _whole(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _update(found: hashlib._Hash, array: Any) -> None:
    """Take an array's values into a digest, whatever lies between and around them in memory."""
    kind = array.type
    found.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).data)
    if pa.types.is_temporal(kind):
        array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
        kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found.update(np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).data)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        _update_by_texts(found, array)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        _update(found, pc.list_value_length(array))
        _update(found, array.flatten())
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            _update(found, part)
    else:
        found.update(json.dumps(array.to_pylist(), default=str).encode())


def _update_by_texts(found: hashlib._Hash, array: Any) -> None:
    texts = array.cast(pa.large_binary()).fill_null(b"")
    found.update(np.ascontiguousarray(pc.binary_length(texts).to_numpy(zero_copy_only=False)).data)
    _, offsets, content = texts.buffers()
    if content is not None and len(texts):
        ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        found.update(memoryview(content)[int(ends[0]) : int(ends[-1])])


def _as_read(table: Any) -> Any:
    """Give a table the types that it has when it is read again: parquet has no seconds, for one."""
    empty = pa.BufferOutputStream()
    with pq.ParquetWriter(empty, table.schema):
        pass
    return table.cast(pq.read_schema(pa.BufferReader(empty.getvalue())))
