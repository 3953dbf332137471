"""Files of ID tables: parquet, CSV and JSON lines, ours and those that pandas, polars or Arrow saved again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from unitok.data.files import fault, is_special, is_text
from unitok.storage.layout import Fingerprint
from unitok.storage.parquet import read_parquet, write_parquet
from unitok.storage.whole import whole_file
from unitok_kernels.rules import fail

NOTE = b"unitok"  # in the metadata: what made the IDs
FORMATS = (".parquet", ".csv", ".jsonl")
_ROWS_AT_ONCE = 2**16
_TEXTS = ("domain", "semantic_id")


def check_format(what: str, file: Path) -> None:
    """Refuse a name of a table that doesn't say in which format it is to be written.

    Raises:
        ValueError: another ending than those in FORMATS.
    """
    if file.suffix not in FORMATS:
        fail(what, "file", f"named {', '.join(f'*{ending}' for ending in FORMATS)}", file, "Give it such an ending.")


def write_file(table: Any, file: Path) -> None:
    """Write a table in the format that the file's name says.

    Args:
        table: the pyarrow table; CSV and JSON lines have no place for its metadata.
        file: ends as `check_format` wants it.

    Raises:
        OSError: the file can't be written; what was there stays.
    """
    with whole_file(file) as partial:
        if file.suffix == ".parquet":
            write_parquet(table, partial)
        elif file.suffix == ".csv":
            pyarrow.csv.write_csv(table, partial)
        else:
            with partial.open("w", encoding="utf-8") as lines:
                for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
                    lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part.to_pylist())


def read_file(file: Path, required: Sequence[str]) -> Any:
    """Read a table that has the required columns; a name that ends in neither .csv nor .jsonl is parquet.

    Args:
        file: the file.
        required: the columns.

    Returns:
        A pyarrow table, its columns as they are in the file.

    Raises:
        CatalogueError: the file is missing or broken, or lacks a column.
    """
    rule = f"table must be a parquet file with {', '.join(required)}"
    if not file.is_file():
        got = "a folder" if file.is_dir() else "a pipe or a device" if is_special(file) else "nothing there"
        raise fault(file, rule, got, "Check the path")
    try:
        table = _read(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        got = f"one that can't be read ({reason})"
        raise fault(file, rule, got, "Take it from a copy, or tokenize again") from error
    if missing := [name for name in required if name not in table.column_names]:
        raise fault(file, rule, ", ".join(table.column_names), f"Add {', '.join(missing)}")
    if twice := [name for name in required if table.column_names.count(name) > 1]:
        raise fault(file, rule, f"{twice[0]} twice", "Leave one of them out")
    return table


def _read(file: Path) -> Any:
    types = {**dict.fromkeys(_TEXTS, pa.string()), "suffix": pa.int64()}  # what a guess from the values may miss
    if file.suffix == ".csv":
        return pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )
    if file.suffix == ".jsonl":
        return pyarrow.json.read_json(file, parse_options=pyarrow.json.ParseOptions(pa.schema(types)))
    return read_parquet(file)


def texts(file: Path, column: Any, name: str) -> Any:
    """Return a column of any of Arrow's kinds of text as plain strings.

    Raises:
        CatalogueError: it holds something else, or null.
    """
    column = _decoded(column)
    kind, rule = column.type, f"{name} must be text in every row"
    if len(column) and not is_text(kind):
        raise fault(file, rule, kind, f"Convert it; in pandas: table[{name!r}] = table[{name!r}].astype(str)")
    if column.null_count:
        raise fault(file, rule, f"{column.null_count} nulls", "Leave those rows out, or tokenize again")
    return column.cast(pa.string())


def integers(file: Path, column: Any, name: str, kind: Any, *, nulls: bool = False) -> Any:
    """Return a column of integers, or of floats that are whole numbers, as integers.

    Args:
        file: the file, for the message.
        column: as it was read; pandas turns integers beside nulls into floats, and some write NaN for null.
        name: of the column.
        kind: int32 or int64.
        nulls: whether there may be nulls.

    Raises:
        CatalogueError: it holds something else, or numbers beyond the kind.
    """
    column = _decoded(column)
    rule = f"{name} must be an integer {'or null ' if nulls else ''}in every row"
    step = f"Convert it; in pandas: table[{name!r}] = table[{name!r}].astype({'Int64' if nulls else 'int64'!r})"
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    elif not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise fault(file, rule, column.type, step)
    if column.null_count and not nulls:
        raise fault(file, rule, f"{column.null_count} nulls", "Leave those rows out, or tokenize again")
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise fault(file, rule, f"{error}".splitlines()[0].rstrip("."), step) from error


def _decoded(column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def check_note(file: Path, table: Any, own: Fingerprint, resolver: str | None = None) -> None:
    """Check the note in a file's metadata, if there is one: another program writes none.

    Args:
        file: the file, for messages.
        table: as it was read.
        own: what identifies the tokenizer that must have made the IDs, perhaps before domains were added to it.
        resolver: the resolver that must have been used; None accepts any.

    Raises:
        CatalogueError: the note is broken, or of another tokenizer or resolver.
    """
    if (note := (table.schema.metadata or {}).get(NOTE)) is None:
        return
    try:
        said = json.loads(note)
        base, experts, resolved_by = said["tokenizer"]["base"], said["tokenizer"]["experts"], said["resolver"]
        if not (isinstance(experts, list) and all(isinstance(text, str) for text in (base, resolved_by, *experts))):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        got, step = f"{note[:60]!r}", "Take the file from a copy, or tokenize again"
        raise fault(file, "the note 'unitok' in its metadata must be whole", got, step) from error
    if base != own["base"] or experts != own["experts"][: len(experts)]:
        got = f"those of {base} with experts {', '.join(experts)}"
        step = "Use the tokenizer that made them, or one that domains were added to since"
        raise fault(file, f"IDs must be of tokenizer {own['base']} with experts {', '.join(own['experts'])}", got, step)
    if resolver is not None and resolved_by != resolver:
        raise fault(file, f"IDs must be resolved by {resolver}", resolved_by, f"Pass --resolver {resolved_by}")
