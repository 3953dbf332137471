"""An ordered linear layer by csrc/cpu/ops/ordered_linear.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels.ops._native.cpu import kernels


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Launch the kernel."""
    y = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float64)
    added = bias.double()
    kernels.ordered_linear(
        x.data_ptr(),
        x.dtype == torch.float64,
        x.shape[0],
        x.shape[1],
        weight.data_ptr(),
        weight.dtype == torch.float64,
        weight.shape[0],
        added.data_ptr(),
        relu,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y
