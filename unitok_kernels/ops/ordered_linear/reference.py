"""An ordered linear layer in plain torch: matrix products whose sums are exact, so that their order can't matter."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_ROWS = 1024  # rows whose slices are held at a time
_PRECISION = 53  # bits of a float64
_LEAST = -1000  # exponent of the smallest unit of a slice


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Reference of the operation.

    A BLAS chooses the order of its sums by the shape, the place of a row and the processor. So x and weight are cut
    into slices of few bits. The products of two slices and all their sums fit into a float64 without rounding, in any
    order. The products of all pairs of slices are then added in one order, the smallest first.

    Source: Ozaki et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
    multiplication and its applications", 2012.
    """
    bits = (_PRECISION - x.shape[1].bit_length()) // 2
    table, added = _slices(weight.double(), bits), bias.double()
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float64)
    for start in range(0, x.shape[0], _BLOCK_ROWS):
        rows = x[start : start + _BLOCK_ROWS].double()
        parts, block = _slices(rows, bits), rows.new_zeros(len(rows), len(added))
        pairs = product(range(len(parts)), range(len(table)))
        for i, j in sorted(pairs, key=lambda pair: (-sum(pair), pair)):  # what other rows need more adds 0 to a row
            block += parts[i] @ table[j].T
        infinite = ~rows.isfinite().all(1)
        block[infinite] = rows[infinite] @ weight.double().T  # infinite or NaN, in any order
        y[start : start + _BLOCK_ROWS] = block + added
    return y.relu_() if relu else y


def _slices(rows: Tensor, bits: int) -> list[Tensor]:
    """Cut (N, D) float64 into as many as it takes: integers of so many bits, times a power of two for each row."""
    rows = torch.where(rows.isfinite().all(1, keepdim=True), rows, 0)
    exponent = F.pad(rows.abs(), (0, 1)).amax(1, keepdim=True).frexp().exponent  # padded, since D may be 0
    found = []
    while True:
        exponent = exponent - bits
        unit = torch.ldexp(torch.ones_like(rows[:, :1].sum(1, keepdim=True)), exponent.clamp(min=_LEAST))
        found.append((rows / unit).round() * unit)
        rows = rows - found[-1]
        if not rows.any() or int(exponent.max()) <= _LEAST:
            return found
