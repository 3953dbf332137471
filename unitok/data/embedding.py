"""Embed a domain's items block by block; an interrupted run can be resumed.

Rows are appended to a partial file, named by a digest of everything that they depend on: the same work resumes there,
and any other starts anew. The complete file becomes embeddings.npy, in one step with embeddings.json.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unitok.data.catalogue import EmbeddingInfo
from unitok.data.files import fault, read_items, texts, write_embedding_info
from unitok.data.folder import EMBEDDING_INFO, EMBEDDINGS, ITEMS, TEXT_TEMPLATE
from unitok.data.template import Template
from unitok.storage.whole import current, link_or_copy, whole_files

Encode = Callable[[list[str]], NDArray[Any]]
_PARTIAL = ".partial-embeddings-{}.npy"
_AS_IMPORTED = "{text}"


def embed_domain(
    path: str | Path,
    encode: Encode,
    model: str,
    *,
    template: str = _AS_IMPORTED,
    dtype: DTypeLike = np.float16,
    unit_length: bool = True,
    block_rows: int = 1024,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> EmbeddingInfo:
    """Embed the items of a domain's folder; the same call resumes an interrupted one.

    Args:
        path: the domain's folder, with items.parquet.
        encode: turns n texts into (n, D) numbers; each row depends only on its own text.
        model: the encoder's name, for embeddings.json.
        template: an item's text, made from the columns of items.parquet; see `Template`.
        dtype: float16 or float32.
        unit_length: scale each row to length 1.
        block_rows: texts per call of `encode`; an interruption loses at most one call.
        force: replace existing embeddings.
        progress: called with the number of items done, including those of an earlier call, and their total.

    Returns:
        EmbeddingInfo: the content of embeddings.json.

    Raises:
        CatalogueError: items.parquet can't be read or has no such column, embeddings are there already, or an
            embedding isn't finite.
    """
    path = Path(path)
    items = current(path) / ITEMS
    _check_free(path, force)
    rows, info = _read_texts(items, template, model if unit_length else f"{model}, lengths kept")
    settings = (info.model, info.template, np.dtype(dtype).name, unit_length, block_rows, len(rows), *rows)
    digest = hashlib.sha256("\0".join(map(str, settings)).encode()).hexdigest()[:16]
    partial = path / _PARTIAL.format(digest)
    for other in set(path.glob(_PARTIAL.format("*"))) - {partial}:
        other.unlink()
    with partial.open("ab+") as out:
        done = _done(out, len(rows), block_rows)
        while done < len(rows):
            if progress is not None:
                progress(done, len(rows))
            block = np.asarray(encode(rows[done : done + block_rows]), dtype=np.float32)
            block = _scaled(block, unit_length, dtype)
            if (bad := np.flatnonzero(~np.isfinite(block).all(axis=1))).size:
                got = f"NaN or infinity for item {done + bad[0]}"
                raise fault(items, "embeddings must be finite", got, "Check its text, or use another model or dtype")
            _append(out, block, len(rows), first=done == 0)
            done += len(block)
    if progress is not None:
        progress(done, len(rows))
    with whole_files(path) as staging:
        link_or_copy(partial, staging / EMBEDDINGS)  # after a crash it is still there under its old name
        write_embedding_info(staging / EMBEDDING_INFO, info)
    partial.unlink()
    return info


def _check_free(path: Path, force: bool) -> None:
    if (current(path) / EMBEDDINGS).exists() and not force:
        rule, step = "embeddings must not be there yet", "Keep them, or use force to replace them"
        raise fault(path / EMBEDDINGS, rule, "some", step)


def _scaled(block: NDArray[np.float32], unit_length: bool, dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # the result is checked by the caller
        return (block / np.linalg.norm(block, axis=1, keepdims=True) if unit_length else block).astype(dtype)


def _append(out: IO[bytes], block: NDArray[Any], num_rows: int, *, first: bool) -> None:
    """Append a block to the partial file, safely on disk; the first one comes after the header of all rows."""
    if first:
        header = {"descr": block.dtype.str, "fortran_order": False, "shape": (num_rows, block.shape[1])}
        np.lib.format.write_array_header_1_0(out, header)
    out.write(block.tobytes())
    out.flush()
    os.fsync(out.fileno())


def _read_texts(file: Path, template: str, model: str) -> tuple[list[str], EmbeddingInfo]:
    """Read the items' texts, and describe them and the model for embeddings.json."""
    table = read_items(file)
    if table.num_rows == 0:
        raise fault(file, "items must be at least one", "none", "Remove the empty domain")
    columns = [name for name in table.column_names if name != "item_id"]
    if template == _AS_IMPORTED and "text" not in columns:
        step = "Choose columns with a template, such as {title}"
        raise fault(file, "table must have a column text, or a template", ", ".join(columns), step)
    filled = Template(template, columns)
    fields = [texts(table, name) for name in filled.names]
    rows = [filled.fill(dict(zip(filled.names, row, strict=True))) for row in zip(*fields, strict=True)]
    if template == _AS_IMPORTED:  # the template that made the column says more
        template = (table.schema.metadata or {}).get(TEXT_TEMPLATE, template.encode()).decode()
    return rows, EmbeddingInfo(model, template)


def _done(out: IO[bytes], num_rows: int, block_rows: int) -> int:
    """Count the rows of whole blocks in a partial file, and truncate it after them."""
    out.seek(0)
    try:
        np.lib.format.read_magic(out)
        (_, width), _, dtype = np.lib.format.read_array_header_1_0(out)
    except ValueError:  # nothing yet, or not even a whole header
        out.truncate(0)
        return 0
    start, size = out.tell(), width * dtype.itemsize
    found = (out.seek(0, os.SEEK_END) - start) // size
    done = found if found >= num_rows else found - found % block_rows
    if done == 0:
        out.truncate(0)
    else:
        out.truncate(start + done * size)
    return int(done)
