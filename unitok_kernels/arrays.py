"""The checks of arrays: like those of tensors in `checks`, but with numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitok_kernels import rules

Array = NDArray[Any]


def array(op: str, name: str, value: object) -> Array:
    """Refuse anything that isn't an array."""
    if not isinstance(value, np.ndarray):
        step = "Convert it with numpy.asarray."
        rules.fail(op, name, "a numpy.ndarray", type(value).__name__, step, TypeError)
    return value


def floating(op: str, name: str, value: object, shape: str, sizes: tuple[int, ...] = (2, 4)) -> Array:
    """Check type and rank of floats; `sizes` are the item sizes allowed, in bytes.

    Returns the array itself if it is contiguous and in the machine's byte order, otherwise a copy that is.
    """
    found = array(op, name, value)
    if found.dtype.kind != "f" or found.itemsize not in sizes:
        *others, last = (f"float{8 * size}" for size in sizes)
        step = f"Convert it with {name}.astype('float32')."
        rules.fail(op, name, f"{', '.join(others)} or {last}", found.dtype, step, TypeError)
    rules.rank(op, name, found, shape)
    return np.require(found, found.dtype.newbyteorder("="), ("C", "A"))


def integral(op: str, name: str, value: object, shape: str) -> NDArray[np.int64]:
    """Check type and rank of integers; returns them as int64."""
    found = array(op, name, value)
    if found.dtype.kind not in "iu" or found.dtype == np.uint64:
        step = f"Convert it with {name}.astype('int64')."
        rules.fail(op, name, "an integer array", found.dtype, step, TypeError)
    rules.rank(op, name, found, shape)
    return np.require(found, np.int64, ("C", "A"))


def finite(op: str, name: str, value: Array, step: str = rules.REPAIR) -> None:
    """Check for NaN and infinity; the message names the first bad row."""
    good = np.isfinite(value)
    if not good.all():
        index = tuple(np.argwhere(~good.all(-1))[0].tolist())
        rules.not_finite(op, name, float(value[index][~good[index]][0]), index, step)


def in_range(op: str, name: str, value: NDArray[np.int64], limit: int, *, minimum: int = 0) -> None:
    """Check that integers lie in minimum .. limit - 1; the message names the first bad position."""
    bad = (value < minimum) | (value >= limit)
    if bad.any():
        index = tuple(np.argwhere(bad)[0].tolist())
        rules.out_of_range(op, name, int(value[index]), index, minimum, limit, rules.OWNER)
