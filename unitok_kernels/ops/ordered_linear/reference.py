"""An ordered linear layer in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_ROWS = 256


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Reference of the operation: a matrix product in blocks of one size; short blocks are padded.

    Whether all rows of a block are summed in the same order is up to the BLAS: tested here, proven for the kernels.
    """
    table, added = weight.double().T, bias.double()
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float64)
    for start in range(0, x.shape[0], _BLOCK_ROWS):
        rows = x[start : start + _BLOCK_ROWS].double()
        block = torch.addmm(added, F.pad(rows, (0, 0, 0, _BLOCK_ROWS - len(rows))), table)
        y[start : start + len(rows)] = block[: len(rows)]
    return y.relu_() if relu else y
