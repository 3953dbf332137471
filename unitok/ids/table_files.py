"""Files of ID tables: parquet, CSV and JSON lines, ours and those that pandas, polars or Arrow saved again.

A parquet file has a note in its metadata of what made the IDs. Of CSV and JSON lines the note is a file of its own,
`ids.csv.unitok.json` beside ids.csv, with a digest of the table. The old note goes before a table is replaced, and the
new one comes after it: what is stopped between leaves a table without a note, which is read as another program's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from unitok.data.catalogue import CatalogueError
from unitok.data.files import fault, is_special, is_text
from unitok.storage.digest import check_seal, digest, sealed
from unitok.storage.layout import Fingerprint
from unitok.storage.parquet import read_parquet, write_parquet
from unitok.storage.whole import whole_file
from unitok_kernels.rules import fail

NOTE = b"unitok"  # in the metadata: what made the IDs
SOURCE_ID = "source_id"
_DIGEST = "table"  # in the note of a CSV or of JSON lines: the digest of the table's bytes
_KINDS = {".csv": "CSV file", ".jsonl": "file of JSON lines"}
FORMATS = (".parquet", ".csv", ".jsonl")
_ROWS_AT_ONCE = 2**16
_TEXTS = ("domain", "semantic_id", SOURCE_ID)


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
        table: the pyarrow table, with the note in its metadata.
        file: ends as `check_format` wants it.

    Raises:
        OSError: the file can't be written; what was there stays.
    """
    with whole_file(file) as partial:  # of another name if the file is a link
        write_rows(table, partial, file.suffix)
        if file.suffix == ".parquet":
            return
        note = sealed({**json.loads(table.schema.metadata[NOTE]), _DIGEST: digest(partial.read_bytes())})
        note_file(file).unlink(missing_ok=True)
    with whole_file(note_file(file)) as partial:
        partial.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def write_rows(table: Any, file: Path, ending: str) -> None:
    """Write the rows alone, in one of FORMATS; parquet keeps the metadata, too."""
    if ending == ".parquet":
        write_parquet(table, file)
    elif ending == ".csv":
        pyarrow.csv.write_csv(table, file)
    else:
        with file.open("w", encoding="utf-8") as lines:
            for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part.to_pylist())


def note_file(file: Path) -> Path:
    """Name the file with the note of a table in CSV or JSON lines: beside the table, not beside a link to it."""
    return Path(f"{os.path.realpath(file)}.unitok.json")


def read_file(file: Path, required: Sequence[str]) -> Any:
    """Read a table that has the required columns; a name that ends in neither .csv nor .jsonl is parquet.

    Args:
        file: the file.
        required: the columns.

    Returns:
        A pyarrow table, its columns as they are in the file.

    Raises:
        CatalogueError: the file is missing or broken, isn't as it was written, or lacks a column.
    """
    rule = f"table must be a {_KINDS.get(file.suffix, 'parquet file')} with {', '.join(required)}"
    if not file.is_file():
        got = "a folder" if file.is_dir() else "a pipe or a device" if is_special(file) else "nothing there"
        raise fault(file, rule, got, "Check the path")
    try:
        table = _read(file, required)
    except CatalogueError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        got = f"one that can't be read ({reason})"
        raise fault(file, rule, got, "Take it from a copy, or tokenize again") from error
    if missing := [name for name in required if name not in table.column_names]:
        raise fault(file, rule, ", ".join(table.column_names), f"Add {', '.join(missing)}")
    if twice := [name for name in required if table.column_names.count(name) > 1]:
        raise fault(file, rule, f"{twice[0]} twice", "Leave one of them out")
    return table


def _read(file: Path, required: Sequence[str]) -> Any:
    if file.suffix not in _KINDS:
        return read_parquet(file)
    content = file.read_bytes()
    note = _read_note(file, content)
    opened = pa.BufferReader(content)
    types = {**dict.fromkeys(_TEXTS, pa.string()), "suffix": pa.int64()}  # what a guess from the values may miss
    if file.suffix == ".csv":
        table = pyarrow.csv.read_csv(
            opened,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )
    elif content:
        table = pyarrow.json.read_json(opened, parse_options=pyarrow.json.ParseOptions(pa.schema(types)))
    else:  # no rows: Arrow refuses such a file
        table = pa.table({name: pa.nulls(0) for name in required})
    return table.replace_schema_metadata(None if note is None else {NOTE: json.dumps(note)})


def _read_note(file: Path, content: bytes) -> dict[str, Any] | None:
    """Read the note of a table in CSV or JSON lines, and see that it is of these bytes; None if there is none."""
    beside = note_file(file)
    if not beside.is_file():
        return None
    try:
        note: dict[str, Any] = json.loads(beside.read_bytes())
        check_seal(beside.name, note)
        written = note[_DIGEST]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        step = "Take it and the table from a copy, or remove it"
        raise fault(beside, "the note of a table must be as it was written", "another one", step) from error
    if written != digest(content):
        step = f"Take both from a copy, or tokenize again; if you changed it on purpose, remove {beside.name}"
        raise fault(file, f"table must be as it was written with {beside.name}", "other bytes", step)
    return note


def texts(file: Path, column: Any, name: str, *, nulls: bool = False) -> Any:
    """Return a column of any of Arrow's kinds of text as plain strings.

    Args:
        file: the file, for the message.
        column: as it was read.
        name: of the column.
        nulls: whether there may be nulls; an empty text is one then, as CSV writes them.

    Raises:
        CatalogueError: it holds something else, or null that may not be.
    """
    column = _decoded(column)
    kind, rule = column.type, f"{name} must be text in every row"
    if len(column) and not (is_text(kind) or (nulls and pa.types.is_null(kind))):
        raise fault(file, rule, kind, f"Convert it; in pandas: table[{name!r}] = table[{name!r}].astype(str)")
    if column.null_count and not nulls:
        raise fault(file, rule, f"{column.null_count} nulls", "Leave those rows out, or tokenize again")
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(column, ""), None, column) if nulls else column


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
    """Check the note of a table, if there is one: another program writes none.

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
