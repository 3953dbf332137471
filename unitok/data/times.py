"""Times in seconds since 1970: which unit a file's numbers are in, and how they are kept."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")  # each a thousandth of the one before
_TOP = 10**11  # seconds until the year 5138, milliseconds until March 1973: no file has times of both kinds
_RECENT = 10**8  # seconds until March 1973; smaller numbers may count from any start


class MixedUnitsError(ValueError):
    """Times of one file that can't be in one unit; the message shows two of them."""


def unit_of(times: NDArray[Any], given: str = UNITS[0], decimals: int = 0) -> str:
    """Tell the unit of a file's times by their size.

    Args:
        times: (M,) numbers, times 10^decimals; 0 fits every unit.
        given: the unit that the format has, `seconds` or `milliseconds`.
        decimals: how many digits of the numbers are after the point.

    Returns:
        One of UNITS. It is `given` where the numbers are so small that they may count from any start.

    Raises:
        MixedUnitsError: some of the times are in a smaller unit than others.
    """
    if not len(times):
        return given
    top = _TOP * 10**decimals
    sizes = np.abs(times)
    largest = int(sizes.argmax())
    size = sizes[largest : largest + 1].tolist()[0]  # Python's number, which no power of 10 overflows
    found = sum(size >= top * 1000**power for power in range(len(UNITS) - 1))
    if not found:
        return given if size < _RECENT * 10**decimals else UNITS[0]
    if (strangers := np.flatnonzero((sizes > 0) & (sizes < top * 1000 ** (found - 1)))).size:
        raise MixedUnitsError(f"{_shown(times[strangers[0]], decimals)} and {_shown(times[largest], decimals)}")
    return UNITS[found]


def in_seconds(times: NDArray[Any], unit: str, decimals: int = 0) -> NDArray[Any]:
    """Return whole numbers of a unit, times 10^decimals, as seconds: int64 if all are whole, else float64."""
    scale = 10 ** (decimals + 3 * UNITS.index(unit))
    if scale >= 1 << 63:
        times = times.astype(object)
    whole, rest = times // scale, times % scale
    return np.asarray(whole + rest / scale, dtype=np.float64) if rest.any() else np.asarray(whole, dtype=np.int64)


def said(times: NDArray[Any] | None, unit: str, given: str) -> str:
    """Say in a line what a file's times were read as; `given` is what its format has."""
    if times is None:
        return "none: the order of the file counts"
    meant = "" if unit == given else f", where the format has {given}"
    kept = "whole seconds" if times.dtype == np.int64 else "seconds with a fraction"
    return f"{unit}{meant}; kept as {kept} since 1970 in UTC"


def _shown(time: Any, decimals: int) -> str:
    return str(Decimal(int(time)).scaleb(-decimals) if decimals else time)
