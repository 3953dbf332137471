"""Shared by `Tokenizer` and `serving`, so that their IDs are exactly equal; needs only numpy, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitok_kernels import arrays, rules

_LARGEST = 1e15  # the magnitudes up to which searches are exact


def embeddings(what: str, name: str, x: object) -> NDArray[np.float32]:
    """Check item embeddings: (N, D_in), finite in float32.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        x: (N, D_in) float16, float32 or float64; or a list of rows, or a table of pandas or polars, of numbers.

    Returns:
        ndarray: (N, D_in) float32; x itself if it is float32, in the machine's byte order, contiguous and aligned.

    Raises:
        ValueError: not a matrix; NaN or infinity (with the row).
        TypeError: not an array of floats.
    """
    given = arrays.floating(what, name, _as_array(what, name, x), "(N, D_in)", (2, 4, 8))
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
        rows = given.astype(np.float32, copy=False)
    arrays.finite(what, name, rows, "Remove or repair that row.")
    return rows


def _as_array(what: str, name: str, x: object) -> object:
    """Turn a list of rows or a table into an array; what is neither is left to the check of arrays."""
    if not isinstance(x, list | tuple) and not hasattr(x, "to_numpy"):
        return x
    try:
        found = np.asarray(x.to_numpy() if hasattr(x, "to_numpy") else x)
    except (ValueError, TypeError):  # rows of several lengths, which numpy makes no array of
        found = np.empty(0, object)
    if found.dtype.kind not in "iuf":
        step = f"Pass an (N, D_in) array, such as numpy.asarray({name}, dtype='float32')."
        rules.fail(what, name, "rows of numbers, all of one length", type(x).__name__, step, TypeError)
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def vectors(what: str, name: str, given: object, count: int, width: int | None = None) -> NDArray[np.float32]:
    """Check the vectors of items in a view: (N, B), a row being finite, or NaN in all of its columns for none.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        given: (N, B) float16, float32 or float64; or a list of rows, or a table of pandas or polars, of numbers.
        count: N, the number of items.
        width: B, if that is known.

    Returns:
        ndarray: (N, B) float32.

    Raises:
        ValueError: not a matrix, another size; infinity, NaN in a part of a row, or a value above 1e15 (with the row).
        TypeError: not an array of floats.
    """
    array = arrays.floating(what, name, _as_array(what, name, given), "(N, B)", (2, 4, 8))
    rules.same(what, name, len(array), "x", count, "length")
    if width is not None:
        rules.same(what, name, array.shape[1], "the tokenizer", width, "width")
    if not array.shape[1]:
        rules.fail(what, name, "of at least one column", 0, "Leave the view out.")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
        rows = array.astype(np.float32)
    known = np.where(np.isnan(rows).all(axis=1, keepdims=True), np.float32(0), rows)
    arrays.finite(what, name, known, "Make the whole row NaN if the item has no vector.")
    if (large := np.abs(known).max(axis=1, initial=0) > _LARGEST).any():
        row = int(large.argmax())
        got = f"{np.abs(known[row]).max():g} in row {row}"
        rules.fail(what, name, f"at most {_LARGEST:g} in size", got, "Scale the vectors.")
    return rows


def check_latents(what: str, z: NDArray[np.float32]) -> None:
    """Refuse items whose latents overflow.

    Args:
        what: the operation that a message names.
        z: (N, D) float32 latents of its items x.

    Raises:
        ValueError: a latent is NaN or infinite (with the row).
    """
    bad = np.flatnonzero(~np.isfinite(z).all(1))
    if bad.size:
        got = f"NaN or infinity for row {bad[0]}"
        rules.fail(what, "x", "small enough for finite latents", got, "Scale the embeddings down, or remove that row.")


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the router's logits into probabilities: p_e = exp(l_e - max l) / sum_e exp(l_e - max l).

    Args:
        logits: (N, E).

    Returns:
        ndarray: (N, E); sums are in the order of the experts, so that no row depends on its batch.
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    total: NDArray[Any] = np.zeros(len(logits))
    for column in powers.T:
        total += column
    return powers / total[:, None]


def top_experts(logits: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the experts with the largest logits, largest first, ties by lowest index: (N, E) -> (N, count)."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :count]
