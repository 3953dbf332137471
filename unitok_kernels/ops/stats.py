"""The record that `stats=True` appends to the result of an encoding operation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NEAR_TIE = 1e-5  # codes are exact if the two best squared distances differ by more than this, relatively


class EncodeStats(NamedTuple):
    """How much work exactness took; both fields count (row, chain, level) triples.

    Attributes:
        rescored_rows: int64 scalar; searches whose rounding bound could have mattered, redone by differencing.
        near_ties: int64 scalar; searches whose two best squared distances differ by less than 1e-5 of the best.
    """

    rescored_rows: Tensor
    near_ties: Tensor


def as_record(counts: Tensor) -> EncodeStats:
    """Name the two entries of the (2,) int64 tensor that operations return."""
    return EncodeStats(counts[0], counts[1])
