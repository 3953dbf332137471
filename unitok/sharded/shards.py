"""A folder of Parquet files with the names and embeddings of items, read a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unitok.data.files import fault

SOURCE_ID, EMBEDDING = "source_id", "embedding"
_RULE = f"shards must have the columns {SOURCE_ID}, of texts or integers, and {EMBEDDING}, of lists of floats"
_STEP = "Write them with pyarrow or polars"
_BUFFER = 2**20  # bytes


@dataclass(frozen=True)
class Shards:
    """The Parquet files of a folder, in the order of their names.

    Attributes:
        files: their paths.
        rows: how many items each holds.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> Shards:
        """Find the shards of a folder, and check that each has the columns; no rows are read.

        Args:
            folder: its files named *.parquet are the shards; hidden ones, other files and folders are left alone.

        Returns:
            The shards.

        Raises:
            CatalogueError: there are none, or one can't be read or has other columns.
        """
        files = tuple(sorted(file for file in folder.glob("[!.]*.parquet") if not file.is_dir()))
        if not files:
            raise fault(folder, "the folder must hold Parquet files", "none", _STEP)
        found = [_checked(file) for file in files]
        kinds = {kind: file for file, (rows, kind) in zip(files, found, strict=True) if rows}
        if len(kinds) > 1:
            file = next(reversed(kinds.values()))
            raise fault(file, f"{SOURCE_ID} must be of one kind in all shards", "texts and integers", "Take texts")
        return cls(files, tuple(rows for rows, _ in found))

    def blocks(self, place: int, rows: int) -> Iterator[NDArray[Any]]:
        """Read the embeddings of a shard.

        Args:
            place: which shard.
            rows: how many rows a block has at most.

        Yields:
            (R, D) float16, float32 or float64.

        Raises:
            CatalogueError: the shard can't be read, a row has no embedding, or one of another width.
        """
        file, done = self.files[place], 0
        with _reading(file):
            # Else pyarrow reads all of the column ahead.
            opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
            for batch in opened.iter_batches(rows, columns=[EMBEDDING]):
                yield _matrix(file, batch.column(0), done)
                done += batch.num_rows

    def names(self, place: int) -> pa.Array:
        """Read the items' names of a shard: texts, or integers where they are that.

        Raises:
            CatalogueError: the shard can't be read, or an item has no name.
        """
        file = self.files[place]
        with _reading(file):
            found = pq.read_table(file, columns=[SOURCE_ID])[SOURCE_ID].combine_chunks()
        if found.null_count:
            row = pc.index(pc.is_null(found), True).as_py()
            raise fault(file, f"{SOURCE_ID} must name every item", f"none in row {row}", "Give each item a name")
        return found.cast(pa.int64() if pa.types.is_integer(found.type) else pa.string())


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Say which file it was that couldn't be read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise fault(file, _RULE, " ".join(str(error).split()), _STEP) from error


def _checked(file: Path) -> tuple[int, bool]:
    """Check a shard's columns, and return its number of rows and whether names are integers."""
    with _reading(file):
        described = pq.read_metadata(file)
        schema = described.schema.to_arrow_schema()
    for name, fits in ((SOURCE_ID, _is_name), (EMBEDDING, _is_embedding)):
        if name not in schema.names:
            raise fault(file, _RULE, f"no {name}", _STEP)
        if described.num_rows and not fits(kind := schema.field(name).type):  # no rows may have any type
            raise fault(file, _RULE, f"{name} of {kind}", _STEP)
    return int(described.num_rows), bool(pa.types.is_integer(schema.field(SOURCE_ID).type))


def _is_name(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _is_embedding(kind: pa.DataType) -> bool:
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _matrix(file: Path, column: pa.Array, first: int) -> NDArray[Any]:
    """Take a column of lists as a matrix."""
    lengths = pc.list_value_length(column)
    if column.null_count or len(pc.unique(lengths)) > 1:
        odd = np.flatnonzero(lengths.fill_null(-1).to_numpy() != lengths[0].as_py())
        row = int(odd[0]) if len(odd) else 0
        got = "none" if not column[row].is_valid else f"{len(column[row])} beside {lengths[0].as_py()}"
        raise fault(file, f"{EMBEDDING} must be as long in all rows", f"{got} in row {first + row}", "Embed them alike")
    values = column.flatten()
    if values.null_count:
        raise fault(file, f"{EMBEDDING} must hold numbers alone", f"null from row {first} on", "Embed those again")
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return found
