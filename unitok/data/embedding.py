"""Embeddings of a domain's items, made block by block and kept through an interruption.

The rows grow in a file whose name has a digest of all that they depend on, so that the same work goes on from there
and any other starts anew. Only when it is whole does it become embeddings.npy.
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
    """Embed the items of a domain's folder; the same call goes on where an earlier one was interrupted.

    Args:
        path: the domain's folder, with items.parquet.
        encode: turns n texts into (n, D) numbers, each row by its own text.
        model: the encoder's name, which embeddings.json keeps.
        template: an item's text, of the columns of items.parquet; see `Template`.
        dtype: float16 or float32.
        unit_length: scale each row to length 1.
        block_rows: texts a call of `encode`; an interruption costs at most one.
        force: replace embeddings that are there.
        progress: is told the items done, those of an earlier call included, and those in all.

    Returns:
        EmbeddingInfo: what embeddings.json says.

    Raises:
        CatalogueError: items.parquet can't be read or has no such column, embeddings are there already, or an
            embedding isn't finite.
    """
    path = Path(path)
    file, items = path / EMBEDDINGS, path / ITEMS
    if file.exists() and not force:
        raise fault(file, "embeddings must not be there yet", "some", "Keep them, or use force to replace them")
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
            with np.errstate(all="ignore"):  # what comes of it is checked next
                block = (block / np.linalg.norm(block, axis=1, keepdims=True) if unit_length else block).astype(dtype)
            if (bad := np.flatnonzero(~np.isfinite(block).all(axis=1))).size:
                got = f"another for item {done + bad[0]}"
                raise fault(items, "embeddings must be finite", got, "Look at its text, or take another model or dtype")
            if done == 0:
                header = {"descr": block.dtype.str, "fortran_order": False, "shape": (len(rows), block.shape[1])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(block.tobytes())
            out.flush()
            os.fsync(out.fileno())
            done += len(block)
    if progress is not None:
        progress(done, len(rows))
    # In this order no crash leaves embeddings beside a statement of what made others.
    file.unlink(missing_ok=True)
    write_embedding_info(path / EMBEDDING_INFO, info)
    partial.replace(file)
    return info


def _read_texts(file: Path, template: str, model: str) -> tuple[list[str], EmbeddingInfo]:
    """Read the items' texts, and what they and the model will be known by."""
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
    if template == _AS_IMPORTED:  # the name of what made the column says more
        template = (table.schema.metadata or {}).get(TEXT_TEMPLATE, template.encode()).decode()
    return rows, EmbeddingInfo(model, template)


def _done(out: IO[bytes], num_rows: int, block_rows: int) -> int:
    """Count the rows of whole blocks in a file under way, and cut it off behind them."""
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
