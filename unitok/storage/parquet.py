"""Parquet files that are known again: a flipped bit anywhere in one of ours is an error, not another value.

Page checksums cover the pages alone. A bit of the footer may still give a column another name, or drop rows or notes,
without an error. So the notes hold a digest of the whole table. Whoever saves the table again, with pandas or polars or
Arrow, makes another file of it, whose rows are theirs: the digest says nothing there. Ours are told by a page index,
which Arrow doesn't write unless it is asked to.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NOTE = b"unitok.digest"
_TAIL = 8  # bytes at the end of the file: the length of the footer before it, and the format's name


def write_parquet(table: Any, partial: Path) -> None:
    """Write a table into a file that `whole_file` or `whole_files` gave.

    Args:
        table: a pyarrow table.
        partial: the file.
    """
    notes = {**(table.schema.metadata or {}), _NOTE: _digest(table)}
    marked = table.replace_schema_metadata(notes)
    pq.write_table(marked, partial, write_page_checksum=True, write_page_index=True)


def read_parquet(file: Path) -> Any:
    """Read a table, and see that it is the one that was written if the file is one of ours.

    Args:
        file: the file.

    Returns:
        A pyarrow table, its metadata without the digest.

    Raises:
        OSError, pyarrow.ArrowException: the file can't be read.
        ValueError: it isn't as it was written.
    """
    with pa.OSFile(str(file)) as opened:
        parquet = pq.ParquetFile(opened, page_checksum_verification=True)
        table = parquet.read()
        ours = _is_ours(opened, parquet.metadata)
    notes = dict(table.schema.metadata or {})
    noted = notes.pop(_NOTE, None)
    table = table.replace_schema_metadata(notes or None)
    if ours and noted != _digest(table):
        raise ValueError("it isn't as it was written: the file is damaged")
    return table


def _is_ours(file: Any, metadata: Any) -> bool:
    """Tell whether a file was written here: it has a page index, and the digest's name is among the footer's bytes.

    The bytes are searched, since one bit may hide all notes from the parser.
    """
    places = range(metadata.num_columns if metadata.num_row_groups else 0)
    if not any(metadata.row_group(0).column(place).has_offset_index for place in places):
        return False
    size = file.size()
    file.seek(size - _TAIL)
    file.seek(size - _TAIL - int.from_bytes(file.read(4), "little"))
    return _NOTE in file.read()


def _digest(table: Any) -> bytes:
    """Return a digest of a table's columns, by name, type and value, and of its metadata."""
    notes = sorted((key.hex(), value.hex()) for key, value in (table.schema.metadata or {}).items() if key != _NOTE)
    found = hashlib.sha256(json.dumps([notes, table.num_rows]).encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        found.update(json.dumps([name, str(column.type)]).encode())
        found.update(np.packbits(column.is_null().to_numpy()).data)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            found.update(np.ascontiguousarray(column.fill_null(0).to_numpy()).data)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            texts = pa.concat_arrays(
                [pa.array([], pa.large_binary()), *column.cast(pa.large_binary()).fill_null(b"").chunks]
            )
            lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
            found.update(np.ascontiguousarray(lengths).data)
            _, offsets, content = texts.buffers()
            ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
            if content is not None and len(texts):
                found.update(memoryview(content)[int(ends[0]) : int(ends[-1])])
        else:
            found.update(json.dumps(column.to_pylist(), default=str).encode())
    return found.hexdigest().encode()
