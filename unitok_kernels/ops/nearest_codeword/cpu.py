"""Nearest-codeword search by csrc/cpu/ops/nearest_codeword.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, float32, kernels


def nearest_codeword(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; its status tells whether the data need checking."""
    rows, width = x.shape
    table = float32(codebook)
    codes = torch.empty(rows, dtype=torch.int64)
    distance = torch.empty(rows)
    counts = torch.empty(2, dtype=torch.int64)
    status = kernels.nearest_codeword(
        x.data_ptr(),
        FLOATS[x.dtype],
        rows,
        width,
        table.data_ptr(),
        len(table),
        codes.data_ptr(),
        distance.data_ptr(),
        counts.data_ptr(),
        torch.get_num_threads(),
        precision == "fast",
        stats,
    )
    if status and checks.reads_data(check_finite, x):
        checks.finite("nearest_codeword", "x", x)
        checks.finite("nearest_codeword", "codebook", codebook)
    return codes, distance, counts
