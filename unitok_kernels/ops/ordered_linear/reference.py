"""An ordered linear layer in plain torch: matrix products whose sums are exact, so that their order can't matter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_ROWS = 1024  # rows whose slices are held at a time
_PRECISION = 53  # bits of a float64
_LEAST = -900  # exponent of a row's largest value, so that its third slice is no denormal


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Reference of the operation.

    A BLAS chooses the order of its sums by the shape, the place of a row and the processor. So x and weight are cut
    into slices of few bits. The products of two slices and all their sums fit into a float64 without rounding, in any
    order. These are then added in one order. What is cut off behind the third slice of a value is below 2^-60 of the
    largest value of its row.

    Source: Ozaki et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
    multiplication and its applications", 2012.
    """
    bits = (_PRECISION - x.shape[1].bit_length()) // 2
    table = [part.T for part in _slices(weight.double(), bits)]
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float64)
    for start in range(0, x.shape[0], _BLOCK_ROWS):
        a, b, c = _slices(x[start : start + _BLOCK_ROWS].double(), bits)
        least = (c @ table[0] + a @ table[2]) + b @ table[1]
        y[start : start + _BLOCK_ROWS] = (least + (b @ table[0] + a @ table[1])) + a @ table[0] + bias.double()
    return y.relu_() if relu else y


def _slices(rows: Tensor, bits: int) -> list[Tensor]:
    """Cut (N, D) float64 into three: integers of so many bits, times a power of two that a row's values share."""
    largest = F.pad(rows.abs(), (0, 1)).amax(1, keepdim=True)  # padded, since D may be 0
    unit = torch.ldexp(torch.ones_like(largest), largest.frexp().exponent.clamp(min=_LEAST))
    found = []
    for _ in range(3):
        unit = unit * 2.0**-bits
        found.append((rows / unit).round() * unit)
        rows = rows - found[-1]
    return found
