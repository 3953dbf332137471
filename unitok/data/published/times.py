"""Times exactly as files give them: the last two items of a history often come within one second."""

from __future__ import annotations

import re
from array import array
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Any

import numpy as np
from numpy.typing import NDArray

Time = tuple[int, int]  # n and d: the time is n / 10^d, exactly, and n isn't a multiple of 10 unless d is 0

_DIGITS = 60
_DECIMALS = 30
_EXACT = Context(prec=_DIGITS, traps=[Inexact, InvalidOperation, Overflow, DivisionByZero])
_LARGEST = 1 << 63  # nanoseconds until the year 2262
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,30}))? ?(?:(Z)|([+-]\d\d):?(\d\d))?)?", re.ASCII
)


def number(value: object) -> Time:
    """Read a number without rounding it.

    Args:
        value: an int, a float, a Decimal, or a text such as `1430622000.5` or `1.4e9`.

    Returns:
        n and d of n / 10^d.

    Raises:
        TypeError: something else.
        ValueError: a text that is no number; a number of 2^63 or more, or with more than 30 decimals.
        ArithmeticError: more than 60 digits.
    """
    before, _, after = value.partition(".") if isinstance(value, str) else ("", "", "")
    after = after.rstrip("0")
    if type(value) is int:
        whole, decimals = value, 0
    elif f"{before}{after}".isdigit() and len(after) <= _DECIMALS:  # most are, and a Decimal takes longer
        whole, decimals = int(f"{before}{after}"), len(after)
    elif isinstance(value, (str, float, Decimal)):
        exact = _EXACT.normalize(_EXACT.create_decimal(str(value)))
        exponent = exact.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -_DECIMALS:  # infinity, NaN, or too fine
            raise ValueError
        decimals = max(-exponent, 0)
        whole = int(exact.scaleb(decimals, _EXACT)) if abs(exact) < _LARGEST else _LARGEST
    else:
        raise TypeError
    if abs(whole) >= _LARGEST * 10**decimals:
        raise ValueError
    return whole, decimals


def date(value: object) -> Time:
    """Read a date and a time of day in seconds since 1970; in UTC, unless it has an offset such as `+02:00`.

    Args:
        value: a text such as `2018-07-07 22:09:11`, with any number of decimals up to 30.

    Returns:
        n and d of n / 10^d seconds.

    Raises:
        TypeError: no text.
        ValueError: no such date.
    """
    if not isinstance(value, str):
        raise TypeError
    found = _DATE.fullmatch(value)
    if found is None:
        raise ValueError
    day, clock, fraction, _, hours, minutes = found.groups()
    offset = f"{hours}:{minutes}" if hours else "+00:00"
    seconds = (datetime.fromisoformat(f"{day}T{clock or '00:00'}{offset}") - _EPOCH) // timedelta(seconds=1)
    fraction = (fraction or "").rstrip("0")
    return seconds * 10 ** len(fraction) + int(fraction or 0), len(fraction)


class Times:
    """Times of one file, 8 bytes each as long as all fit 64 bits with the decimals of the finest.

    Attributes:
        decimals: of the finest time so far.
    """

    def __init__(self) -> None:
        self.decimals = 0
        self._ticks: array[int] | list[int] = array("q")

    def append(self, time: Time) -> None:
        """Add a time."""
        ticks, decimals = time
        if decimals > self.decimals:
            self._refine(decimals)
        elif decimals < self.decimals:
            ticks *= 10 ** (self.decimals - decimals)
        try:
            self._ticks.append(ticks)
        except OverflowError:
            self._ticks = [*self._ticks, ticks]

    def ticks(self) -> NDArray[Any]:
        """Return all times in 10^-decimals: int64, or Python's integers where these are larger."""
        if isinstance(self._ticks, array):
            return np.frombuffer(self._ticks, np.int64)
        return np.array(self._ticks, dtype=object)

    def _refine(self, decimals: int) -> None:
        scale = 10 ** (decimals - self.decimals)
        self.decimals = decimals
        ticks = self.ticks()
        if ticks.size and (ticks.dtype == object or int(np.abs(ticks).max()) >= _LARGEST // scale):
            self._ticks = [tick * scale for tick in ticks.tolist()]
        elif ticks.size:
            ticks *= scale  # in the array itself
