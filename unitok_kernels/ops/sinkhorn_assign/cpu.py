"""Sinkhorn assignment by csrc/cpu/ops/sinkhorn_assign.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import float32, kernels


def sinkhorn_assign(x: Tensor, codebook: Tensor, epsilon: float, iterations: int, check_finite: bool | None) -> Tensor:
    """Launch the kernel; its status tells whether the data need checking."""
    rows, table = float32(x), float32(codebook)
    codes = torch.empty(x.shape[0], dtype=torch.int64)
    bad = kernels.sinkhorn_assign(
        rows.data_ptr(),
        x.shape[0],
        x.shape[1],
        table.data_ptr(),
        codebook.shape[0],
        epsilon,
        iterations,
        codes.data_ptr(),
        torch.get_num_threads(),
    )
    if bad and checks.reads_data(check_finite, x):
        checks.finite("sinkhorn_assign", "x", x)
        checks.finite("sinkhorn_assign", "codebook", codebook)
    return codes
