"""Which rows of an integer matrix are equal: the first step of collisions, metrics and token tables."""

from __future__ import annotations

import torch
from torch import Tensor


def row_groups(rows: Tensor) -> Tensor:
    """Number the distinct rows of an integer matrix in lexicographic order.

    groups[i] = how many distinct rows are smaller than row i, so only equal rows share a number.

    Args:
        rows: (N, T) integer, any values.

    Returns:
        (N,) int64, dense: 0 .. number of distinct rows - 1.

    Raises:
        ValueError: rows is not a matrix.

    Source: UniTok.
    """
    if rows.ndim != 2:
        raise ValueError(f"row_groups: rows must be (N, T), got shape {tuple(rows.shape)}. Stack one row per item.")
    groups = torch.zeros(len(rows), dtype=torch.int64)
    if not len(rows):
        return groups
    # Each column is a digit of a mixed-radix number, sorted as one int64; on overflow, ranks replace the numbers.
    span = 1
    for column in rows.long().unbind(1):
        low, size = int(column.min()), int(column.max()) - int(column.min()) + 1
        if size >= 2**31:
            column, low, size = _ranks(column), 0, len(rows)
        if span * size >= 2**63:
            groups, span = _ranks(groups), len(rows)
        groups, span = groups * size + (column - low), span * size
    return _ranks(groups)


def _ranks(values: Tensor) -> Tensor:
    ranks: Tensor = torch.unique(values, return_inverse=True)[1]
    return ranks
