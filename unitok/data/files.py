"""A checked reader for each kind of file in a domain's folder."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unitok.data.catalogue import CatalogueError, EmbeddingInfo
from unitok.storage.digest import check_seal, sealed
from unitok.storage.parquet import read_parquet

_ROWS_AT_ONCE = 8192  # read at a time, which limits the memory
# What numpy's and Python's parsers raise of a header that is none.
_NO_HEADER = (ValueError, TypeError, OverflowError, RecursionError, MemoryError, SyntaxError, TokenError)
_HEADER = 10_000  # bytes; numpy's own limit, which it applies once it has read all of a header
_INFO = 1 << 20  # bytes
_DIGEST = "embeddings"  # in embeddings.json: the digest of embeddings.npy


def fault(file: Path, rule: str, got: object, step: str) -> CatalogueError:
    """Make an error of the file, the rule, what was found instead, and the next step."""
    return CatalogueError(f"{file}: {rule}, got {got}. {step}.")


def _unreadable(file: Path, rule: str, error: BaseException, step: str) -> CatalogueError:
    if isinstance(error, FileNotFoundError):
        return fault(file, rule, "nothing there", step)
    return fault(file, rule, f"one that can't be read ({_reason(error)})", step)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def is_special(file: Path) -> bool:
    """Tell whether a path is a pipe, a device or a socket, which may block whoever opens it, or never end."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _check_regular(file: Path, rule: str, step: str) -> None:
    if is_special(file):
        raise fault(file, rule, "a pipe or a device", step)


def open_embeddings(file: Path) -> NDArray[Any]:
    """Memory-map the embeddings: (N, D) float16 or float32, N and D at least 1; see `check_finite`."""
    rule = "embeddings must be a whole .npy file of numbers"
    step = "Make them with `unitok embed`, or save them with numpy.save"
    _check_regular(file, rule, step)
    try:
        with file.open("rb") as raw:
            _check_header(raw)
        # Unlike np.load, open_memmap reads nothing but the .npy format: no archive, no pickle.
        embeddings = np.lib.format.open_memmap(file, mode="r")
    except (OSError, EOFError, *_NO_HEADER) as error:
        raise _unreadable(file, rule, error, step) from error
    if embeddings.ndim != 2:
        rule = "embeddings must have the shape (items, width)"
        raise fault(file, rule, embeddings.shape, "Save one row an item")
    if embeddings.dtype not in (np.float16, np.float32):
        rule = "embeddings must be float16 or float32"
        raise fault(file, rule, embeddings.dtype, "Convert them with .astype(numpy.float32)")
    if embeddings.size == 0:
        rule = "embeddings must have at least one row and one column"
        raise fault(file, rule, embeddings.shape, "Remove the empty domain, or save its embeddings again")
    return embeddings


def _check_header(raw: IO[bytes]) -> None:
    """Refuse a header that is too long to read, or sizes that would overflow: numpy trusts both."""
    version = np.lib.format.read_magic(raw)
    size = int.from_bytes(raw.read(2 if version == (1, 0) else 4), "little")
    if size > _HEADER:
        raise ValueError(f"a header of {size} bytes")
    raw.seek(np.lib.format.MAGIC_LEN)
    # A header of version 3.0 differs in its encoding alone.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(raw)
    if any(type(size) is not int or size < 0 for size in shape) or prod(shape) * kind.itemsize >= 1 << 62:
        raise ValueError(f"the shape {shape}")


def check_finite(file: Path, embeddings: NDArray[Any]) -> None:
    """Refuse embeddings with NaN or infinity, naming the first such row."""
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        block = embeddings[start : start + _ROWS_AT_ONCE]
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite)[0]
            got = f"{block[row, column]} in row {start + row}"
            raise fault(file, "embeddings must be finite", got, "Embed that item again, or leave it out")


def read_embedding_info(file: Path, embeddings: NDArray[Any]) -> EmbeddingInfo:
    """Read what made the embeddings, and see that these are the ones that it was written with, where it says so.

    Args:
        file: embeddings.json.
        embeddings: those beside it.

    Returns:
        EmbeddingInfo: what made them.

    Raises:
        CatalogueError: the file can't be read, or it or the embeddings aren't as they were written.
    """
    rule, step = "embedding info must be a JSON object with model and template", "Repair or remove it"
    _check_regular(file, rule, step)
    try:
        with file.open("rb") as raw:
            content = raw.read(_INFO + 1)
        if len(content) > _INFO:
            raise ValueError(f"more than {_INFO >> 20} MiB")
        fields = json.loads(content.decode())
        info = EmbeddingInfo(str(fields["model"]), str(fields["template"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(file, rule, error, step) from error
    try:
        check_seal(file.name, fields, needed=_DIGEST in fields)
    except ValueError as error:
        step = "If you changed it, write it with model and template alone; else embed again"
        raise fault(file, "embedding info must be as it was written", "another one", step) from error
    if _DIGEST in fields and fields[_DIGEST] != _digest(embeddings):
        step = f"Embed again; or if you made them yourself, write {file.name} with model and template alone"
        raise fault(file, "embeddings must be those that it was written with", "others", step)
    return info


def write_embedding_info(partial: Path, info: EmbeddingInfo, embeddings: NDArray[Any] | None) -> None:
    """Write what made the embeddings and a digest of them if they are there, into a folder that `whole_files` gave."""
    fields = asdict(info)
    if embeddings is not None:
        fields = sealed({**fields, _DIGEST: _digest(embeddings)})
    partial.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _digest(embeddings: NDArray[Any]) -> str:
    """Return a digest of the type, shape and values of (N, D) embeddings, which may be mapped from a file."""
    found = sha256(f"{embeddings.dtype.str} {embeddings.shape}".encode())
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        found.update(np.ascontiguousarray(embeddings[start : start + _ROWS_AT_ONCE]).view(np.uint8).data)
    return found.hexdigest()


def read_names(file: Path, num_items: int) -> tuple[list[str] | None, list[str] | None]:
    """Read titles and source_id in the order of the embeddings' rows; None for each that the table doesn't have."""
    table = read_items(file, num_items, ("title", "source_id"))
    names = table.column_names
    titles = texts(file, table, "title") if "title" in names else None
    kind = table["source_id"].type if "source_id" in names else pa.null()
    # Such as floats, which pandas makes of integers beside nulls, are no names that stay.
    return titles, texts(file, table, "source_id") if is_text(kind) or pa.types.is_integer(kind) else None


def read_items(file: Path, num_items: int | None = None, optional: Sequence[str] | None = None) -> Any:
    """Read the items as a pyarrow table in the order of item_id.

    Args:
        file: items.parquet.
        num_items: how many there must be, if that is known.
        optional: which columns to read beside item_id, if they are there; None reads all.

    Returns:
        The table.

    Raises:
        CatalogueError: it can't be read, or its item_id aren't 0 to N - 1.
    """
    table = read_table(file, ("item_id",), optional)
    if num_items is None:
        num_items = table.num_rows
    if table.num_rows != num_items:
        rule = f"items must be as many as the rows of embeddings.npy, {num_items}"
        raise fault(file, rule, table.num_rows, "Write both files from the same items")
    ids = integers(file, table, "item_id")
    order = np.argsort(ids, kind="stable")
    if (gaps := np.flatnonzero(ids[order] != np.arange(num_items))).size:
        got = f"{ids[order[gaps[0]]]} in the place of {gaps[0]}"
        step = "Number the items by their row in embeddings.npy"
        raise fault(file, f"item_id must hold 0 to {num_items - 1}, each once", got, step)
    if (order == np.arange(num_items)).all():
        return table
    try:
        return table.take(order)
    except pa.ArrowException as error:  # texts of more than 2 GiB, for one
        raise _unreadable(file, "items must fit in the order of item_id", error, "Sort the file by item_id") from error


def texts(file: Path, table: Any, column: str) -> list[str]:
    """Return a column as texts; null becomes empty.

    Args:
        file: where the table comes from, for messages.
        table: a pyarrow table.
        column: text of any of Arrow's types, numbers or dates.

    Returns:
        A text per row.

    Raises:
        CatalogueError: a column of lists or other parts, a text that isn't UTF-8, or a date that Python doesn't know.
    """
    values, rule = table[column], f"{column} must be text"
    if pa.types.is_nested(values.type):
        step = f'Make one text of each row, such as items["{column}"].str.join(" ") of lists in pandas'
        raise fault(file, rule, values.type, step)
    try:
        if "binary" in str(values.type):
            values = values.cast(pa.large_string())
        elif pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # which only pandas has
            values = values.cast(pa.timestamp("us", values.type.tz))
        return ["" if text is None else str(text) for text in values.to_pylist()]
    except (ValueError, OverflowError, pa.ArrowException) as error:
        step = f'Convert it: items["{column}"] = items["{column}"].astype(str) in pandas'
        raise fault(file, rule, f"{values.type} ({_reason(error)})", step) from error


def is_text(kind: Any) -> bool:
    """Tell whether a type of Arrow is text."""
    return str(kind) in ("string", "large_string", "string_view")  # pyarrow 15 has no name for the last


def read_note(file: Path, table: Any, name: bytes) -> str | None:
    """Return a note in a table's metadata; None where it is missing or empty.

    Raises:
        CatalogueError: it isn't UTF-8.
    """
    note: bytes = (table.schema.metadata or {}).get(name, b"")
    try:
        return note.decode() or None
    except UnicodeDecodeError as error:
        step = "Write the table without it: table.replace_schema_metadata()"
        raise fault(file, f"the note {name.decode()} must be UTF-8", f"{note[:20]!r}", step) from error


def read_table(file: Path, required: Sequence[str], optional: Sequence[str] | None = None) -> Any:
    """Read a parquet file as a pyarrow table that has the required columns; dictionaries become plain columns.

    Args:
        file: the file.
        required: columns that must be there.
        optional: the others to read, if they are there; None reads all.

    Returns:
        The table.

    Raises:
        CatalogueError: it isn't a parquet file, or lacks a column.
    """
    rule = f"table must be a parquet file with {', '.join(required)}"
    step = "Write it with pandas.DataFrame.to_parquet, or copy it again"
    _check_regular(file, rule, step)

    def choose(names: list[str]) -> list[str]:
        if missing := [column for column in required if column not in names]:
            raise fault(file, rule, ", ".join(names), f"Add {', '.join(missing)}")
        wanted = names if optional is None else [*required, *(name for name in optional if name in names)]
        if twice := [column for column in wanted if names.count(column) > 1]:
            raise fault(file, rule, f"{twice[0]} twice", "Leave one of them out")
        return wanted

    try:
        table = read_parquet(file, choose)
        for place, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
        return table
    except CatalogueError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(file, rule, error, step) from error


def integers(file: Path, table: Any, column: str) -> NDArray[np.int64]:
    """Return a column of whole numbers without nulls as (rows,) int64; they may be floats."""
    values, rule = table[column], f"{column} must be an integer in every row"
    if values.null_count:
        step = f'Drop these rows: table.filter(table["{column}"].is_valid())'
        raise fault(file, rule, f"{values.null_count} nulls", step)
    convert = f'Convert it: table["{column}"].cast("int64") in pyarrow, .astype("int64") in pandas'
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise fault(file, rule, values.type, convert)
    try:
        return np.asarray(values.cast(pa.int64()), dtype=np.int64)
    except pa.ArrowException as error:  # a fraction, NaN, or 2^63 and more
        step = "Mend or drop these rows"
        if column == "user_id":  # the only one whose numbers need not mean a place
            step = f'Number them, such as by pandas.factorize(table["{column}"])[0]'
        raise fault(file, rule, f"{values.type} ({_reason(error)})", step) from error
