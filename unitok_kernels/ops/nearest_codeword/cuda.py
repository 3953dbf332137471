"""Nearest-codeword search as the first level of csrc/cuda/residual_encode.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, instead, kernels, place, takes, workspace
from unitok_kernels.ops.pack_codebooks.cuda import packing


def nearest_codeword(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool, packed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernels; wider rows than they take go to the next backend."""
    if not takes(codebook):
        return instead("nearest_codeword").nearest_codeword(x, codebook, precision, check_finite, stats)
    if checks.reads_data(check_finite, x):
        checks.finite("nearest_codeword", "x", x)
        checks.finite("nearest_codeword", "codebook", codebook)
    rows, width = x.shape
    codes = x.new_empty(rows, dtype=torch.int64)
    distance = x.new_empty(rows, dtype=torch.float32)
    error = x.new_empty(1, dtype=torch.float32)
    counts = x.new_empty(2, dtype=torch.int64)
    packed, (device, stream) = packing("nearest_codeword", codebook, packed), place(x)
    kept = workspace(x, kernels.residual_encode_workspace(1, device))
    kernels.residual_encode(
        x.data_ptr(),
        FLOATS[x.dtype],
        rows,
        width,
        packed.data_ptr(),
        1,
        codebook.shape[0],
        True,  # exact: "fast" would save a seventh of the time at most
        stats,
        codes.data_ptr(),
        0,
        distance.data_ptr(),
        error.data_ptr(),
        counts.data_ptr(),
        kept.data_ptr(),
        device,
        stream,
    )
    return codes, distance, counts
