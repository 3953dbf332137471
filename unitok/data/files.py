"""A checked reader for each kind of file in a domain's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unitok.data.catalogue import CatalogueError, EmbeddingInfo

_FINITE_CHECK_ROWS = 8192  # rows checked at a time, which limits the memory


def fault(file: Path, rule: str, got: object, step: str) -> CatalogueError:
    """Make an error of the file, the rule, what was found instead, and the next step."""
    return CatalogueError(f"{file}: {rule}, got {got}. {step}.")


def _unreadable(file: Path, rule: str, error: BaseException, step: str) -> CatalogueError:
    if isinstance(error, FileNotFoundError):
        return fault(file, rule, "nothing there", step)
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return fault(file, rule, f"one that can't be read ({reason})", step)


def open_embeddings(file: Path) -> NDArray[Any]:
    """Memory-map the embeddings: (N, D) float16 or float32, N and D at least 1; see `check_finite`."""
    try:
        # Unlike np.load, open_memmap reads nothing but the .npy format: no archive, no pickle.
        embeddings = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, EOFError) as error:
        rule = "embeddings must be a whole .npy file of numbers"
        raise _unreadable(file, rule, error, "Make them with `unitok embed`, or save them with numpy.save") from error
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


def check_finite(file: Path, embeddings: NDArray[Any]) -> None:
    """Refuse embeddings with NaN or infinity, naming the first such row."""
    for start in range(0, len(embeddings), _FINITE_CHECK_ROWS):
        block = embeddings[start : start + _FINITE_CHECK_ROWS]
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite)[0]
            got = f"{block[row, column]} in row {start + row}"
            raise fault(file, "embeddings must be finite", got, "Embed that item again, or leave it out")


def read_embedding_info(file: Path) -> EmbeddingInfo:
    """Read what made the embeddings."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return EmbeddingInfo(str(fields["model"]), str(fields["template"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        rule = "embedding info must be a JSON object with model and template"
        raise _unreadable(file, rule, error, "Repair or remove it") from error


def write_embedding_info(partial: Path, info: EmbeddingInfo) -> None:
    """Write what made the embeddings, into a folder that `whole_files` gave."""
    partial.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")


def read_titles(file: Path, num_items: int) -> list[str] | None:
    """Read the titles in the order of the embeddings' rows; None if the table has no such column."""
    table = read_items(file, num_items)
    return texts(table, "title") if "title" in table.column_names else None


def read_items(file: Path, num_items: int | None = None) -> Any:
    """Read the items as a pyarrow table in the order of item_id; `num_items` is how many there must be, if known."""
    table = read_table(file, ("item_id",))
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
    return table.take(order)


def texts(table: Any, column: str) -> list[str]:
    """Return a column as texts; null becomes empty."""
    return ["" if text is None else str(text) for text in table[column].to_pylist()]


def read_table(file: Path, required: Sequence[str]) -> Any:
    """Read a parquet file as a pyarrow table that has the required columns."""
    rule = f"table must be a parquet file with {', '.join(required)}"
    try:
        table = pq.read_table(file, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, rule, error, "Write it again") from error
    if missing := [column for column in required if column not in table.column_names]:
        raise fault(file, rule, ", ".join(table.column_names), f"Add {', '.join(missing)}")
    return table


def integers(file: Path, table: Any, column: str) -> NDArray[np.int64]:
    """Return an integer column without nulls as (rows,) int64."""
    values = table[column]
    if not pa.types.is_integer(values.type) or values.null_count:
        got = f"{values.null_count} nulls" if values.null_count else values.type
        raise fault(file, f"{column} must be an integer in every row", got, "Write the column again")
    return np.asarray(values.to_numpy(), dtype=np.int64)
