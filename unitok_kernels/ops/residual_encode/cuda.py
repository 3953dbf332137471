"""Residual encoding by csrc/cuda/residual_encode.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, instead, kernels, place, takes, workspace
from unitok_kernels.ops.pack_codebooks.cuda import packing


def residual_encode(
    z: Tensor, codebooks: Tensor, precision: str, check_finite: bool | None, stats: bool, packed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels; wider rows than they take go to the next backend."""
    if not takes(codebooks):
        return instead("residual_encode").residual_encode(z, codebooks, precision, check_finite, stats)
    if checks.reads_data(check_finite, z):
        checks.finite("residual_encode", "z", z)
        checks.finite("residual_encode", "codebooks", codebooks)
    (rows, width), (levels, codewords, _) = z.shape, codebooks.shape
    codes = z.new_empty(rows, levels, dtype=torch.int64)
    quantized = torch.empty_like(z)
    level_error = z.new_empty(levels, dtype=torch.float32)
    counts = z.new_empty(2, dtype=torch.int64)
    packed, (device, stream) = packing("residual_encode", codebooks, packed), place(z)
    kept = workspace(z, kernels.residual_encode_workspace(levels, device))
    kernels.residual_encode(
        z.data_ptr(),
        FLOATS[z.dtype],
        rows,
        width,
        packed.data_ptr(),
        levels,
        codewords,
        True,  # exact: "fast" would save a seventh of the time at most
        stats,
        codes.data_ptr(),
        quantized.data_ptr(),
        0,
        level_error.data_ptr(),
        counts.data_ptr(),
        kept.data_ptr(),
        device,
        stream,
    )
    return codes, quantized, level_error, counts
