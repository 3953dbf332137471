"""Residual encoding by csrc/cpu/ops/residual_encode.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, float32, kernels


def residual_encode(
    z: Tensor, codebooks: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel; its status tells whether the data need checking."""
    rows, width = z.shape
    levels, codewords, _ = codebooks.shape
    tables = float32(codebooks)
    codes = torch.empty(rows, levels, dtype=torch.int64)
    quantized = torch.empty_like(z)
    level_error = torch.empty(levels)
    counts = torch.empty(2, dtype=torch.int64)
    status = kernels.residual_encode(
        z.data_ptr(),
        FLOATS[z.dtype],
        rows,
        width,
        tables.data_ptr(),
        levels,
        codewords,
        codes.data_ptr(),
        quantized.data_ptr(),
        level_error.data_ptr(),
        counts.data_ptr(),
        torch.get_num_threads(),
        precision == "fast",
        stats,
    )
    if status and checks.reads_data(check_finite, z):
        checks.finite("residual_encode", "z", z)
        checks.finite("residual_encode", "codebooks", codebooks)
    return codes, quantized, level_error, counts
