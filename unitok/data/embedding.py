"""Embed a domain's items block by block; an interrupted run can be resumed, and unchanged texts keep their rows.

Rows are appended to a partial file, named by a digest of everything that they depend on: the same work resumes there,
and any other starts anew. The complete file becomes embeddings.npy, in one step with embeddings.json. It gets a second
name, beside the digests of its texts (`unitok.data.embedded`): there the next run finds the rows of texts that it has
again, even if the items were imported anew or in another order since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unitok.data.catalogue import EmbeddingInfo
from unitok.data.embedded import EmbeddedRows, check_width, digests_of
from unitok.data.files import fault, open_embeddings, read_items, read_note, texts, write_embedding_info
from unitok.data.folder import EMBEDDING_INFO, EMBEDDINGS, ITEMS, TEXT_TEMPLATE
from unitok.data.template import Template
from unitok.storage.lock import only_writer
from unitok.storage.whole import current, link_or_copy, whole_files

Encode = Callable[[list[str]], NDArray[Any]]
_PARTIAL, _KEPT = ".partial-embeddings-", ".embedded.npy"
_AS_IMPORTED = "{text}"
_BYTES_AT_ONCE = 1 << 20


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
    anew: bool = False,
    progress: Callable[[int, int], object] | None = None,
    on_kept: Callable[[int], object] | None = None,
) -> EmbeddingInfo:
    """Embed the items of a domain's folder; the same call resumes an interrupted one.

    A text that the last call for this folder embedded with the same model, dtype and lengths keeps its row to the bit.

    Args:
        path: the domain's folder, with items.parquet.
        encode: turns n texts into (n, D) numbers; each row depends only on its own text.
        model: the encoder's name, for embeddings.json; equal names must mean equal embeddings.
        template: an item's text, made from the columns of items.parquet; see `Template`.
        dtype: float16 or float32.
        unit_length: scale each row to length 1.
        block_rows: texts per call of `encode`, at most; an interruption loses at most one call.
        force: replace existing embeddings.
        anew: embed every text, even if its row could be kept.
        progress: called with the number of items done, including those of an earlier call, and their total.
        on_kept: called with the number of items whose rows are kept.

    Returns:
        EmbeddingInfo: the content of embeddings.json.

    Raises:
        CatalogueError: items.parquet can't be read or has no such column, embeddings are there already, an embedding
            isn't finite or of another width than those kept, `encode` returns too few or too many rows, or
            items.parquet or the partial file was changed meanwhile.
        BusyError: another process or thread works in the folder.
    """
    path, dtype = Path(path), np.dtype(dtype)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise fault(path, "path must be a domain's folder", got, "Check the path")
    with only_writer("embed_domain", path):
        _check_free(path, force)
        items, imported = current(path) / ITEMS, _digest_of(path)
        rows, info = _read_texts(items, template, model if unit_length else f"{model}, lengths kept")
        made_by = f"{info.model}, {dtype.name}"
        partial = _partial(path, made_by, dtype, (info.template, unit_length, block_rows, anew, *rows))
        kept, digests = EmbeddedRows(current(path) / _KEPT, made_by, dtype).read(), digests_of(rows)
        places = np.full(len(rows), -1) if anew else kept.places_of(digests)
        if on_kept is not None:
            on_kept(int((places >= 0).sum()))
        done = _resume(partial, digests, block_rows)
        while done < len(rows):
            if progress is not None:
                progress(done, len(rows))
            end = min(done + block_rows, len(rows))
            new = done + np.flatnonzero(places[done:end] < 0)
            block = kept.rows[places[done:end]] if len(kept.rows) else np.zeros((end - done, 0), dtype)
            if len(new):
                made = np.asarray(encode([rows[row] for row in new]), dtype=np.float32)
                if made.ndim != 2 or len(made) != len(new):
                    rule, step = f"encode must return a row for each of {len(new)} texts", "Check the encoder"
                    raise fault(items, rule, f"the shape {made.shape}", step)
                block = _filled(items, block, new - done, _scaled(made, unit_length, dtype))
            if (bad := np.flatnonzero(~np.isfinite(block).all(axis=1))).size:
                got = f"NaN or infinity for item {done + bad[0]}"
                raise fault(items, "embeddings must be finite", got, "Check its text, or use another model or dtype")
            partial.append(digests[done:end], block, len(rows))
            done = end
        if progress is not None:
            progress(done, len(rows))
        found = partial.read()
        if not (np.array_equal(found.texts, digests) and found.whole.all()):
            rule = "embeddings must stay as they were written until all are there"
            raise fault(partial.file, rule, "other bytes", "Let nothing else write there, and run it again")
        with whole_files(path) as staging:
            named = EmbeddedRows(staging / _KEPT, made_by, dtype)
            for file, name in ((partial.file, staging / EMBEDDINGS), (partial.file, named.file)):
                link_or_copy(file, name)  # after a crash it is still there under its old name
            link_or_copy(partial.digests, named.digests)
            write_embedding_info(staging / EMBEDDING_INFO, info, open_embeddings(staging / EMBEDDINGS))
            if _digest_of(path) != imported:  # by a program that takes no lock
                raise fault(items, "items must stay until all are embedded", "other bytes", "Run it again")
        partial.remove()
    return info


def _digest_of(path: Path) -> str | None:
    """Digest a domain's items.parquet as it is now; None where there is no such file."""
    items, found = current(path) / ITEMS, hashlib.sha256()
    if not items.is_file():  # a pipe would be waited for without end
        return None
    with items.open("rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            found.update(block)
    return found.hexdigest()


def _partial(path: Path, made_by: str, dtype: np.dtype[Any], work: tuple[object, ...]) -> EmbeddedRows:
    """Name the partial file of a piece of work; those of others are removed."""
    content = "\0".join(map(str, (made_by, *work))).encode("utf-8", "surrogatepass")
    partial = EmbeddedRows(path / f"{_PARTIAL}{hashlib.sha256(content).hexdigest()[:16]}.npy", made_by, dtype)
    for other in set(path.glob(f"{_PARTIAL}*")) - {partial.file, partial.digests}:
        other.unlink()
    return partial


def _resume(partial: EmbeddedRows, digests: NDArray[np.bytes_], block_rows: int) -> int:
    """Count the rows of whole blocks in a partial file that are as they were written, and cut it after them."""
    found = partial.read()
    good = np.zeros(len(digests) + 1, bool)
    good[: len(found.rows)] = found.whole & (found.texts == digests[: len(found.rows)])
    count = int(good.argmin())
    done = count if count == len(digests) else count - count % block_rows
    partial.cut(done)
    return done


def _filled(items: Path, block: NDArray[Any], new: NDArray[np.int64], made: NDArray[Any]) -> NDArray[Any]:
    """Put new rows into a block between those that are kept."""
    if len(made) == len(block):
        return made
    check_width(items, block.shape[1], made.shape[1])
    block[new] = made
    return block


def _check_free(path: Path, force: bool) -> None:
    if (current(path) / EMBEDDINGS).exists() and not force:
        rule, step = "embeddings must not be there yet", "Keep them, or use force to replace them"
        raise fault(path / EMBEDDINGS, rule, "some", step)


def _scaled(block: NDArray[np.float32], unit_length: bool, dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # the result is checked by the caller
        return (block / np.linalg.norm(block, axis=1, keepdims=True) if unit_length else block).astype(dtype)


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
    fields = [texts(file, table, name) for name in filled.names]
    rows = [filled.fill(dict(zip(filled.names, row, strict=True))) for row in zip(*fields, strict=True)]
    if template == _AS_IMPORTED:  # the template that made the column says more
        template = read_note(file, table, TEXT_TEMPLATE) or template
    return rows, EmbeddingInfo(model, template)
