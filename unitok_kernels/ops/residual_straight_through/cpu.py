"""Straight-through chains by csrc/cpu/ops/residual_straight_through.cpp; cosines are left to the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels.ops._native.cpu import FLOATS, float32, kernels
from unitok_kernels.ops.residual_straight_through import reference

ESTIMATORS = {"straight": 0, "rotation": 1, "none": 2}


def residual_straight_through(
    z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str, cosine: bool, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel."""
    if cosine:
        return reference.residual_straight_through(z, codes, codebooks, estimator, cosine, statistics)
    (levels, size, width), tables = codebooks.shape, float32(codebooks)
    quantized, errors = torch.empty_like(z), torch.empty(levels)
    sums = torch.empty((levels, size, width) if statistics else 0)
    counts = torch.empty((levels, size) if statistics else 0, dtype=torch.int64)
    kernels.residual_straight_through(
        z.data_ptr(),
        FLOATS[z.dtype],
        len(z),
        width,
        codes.data_ptr(),
        tables.data_ptr(),
        levels,
        size,
        quantized.data_ptr(),
        errors.data_ptr(),
        sums.data_ptr() if statistics else 0,
        counts.data_ptr() if statistics else 0,
        torch.get_num_threads(),
    )
    return quantized, errors, sums, counts


def residual_straight_through_backward(
    gradient: Tensor,
    by_error: Tensor,
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    estimator: str,
    cosine: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel."""
    if cosine:
        arguments = (gradient, by_error, z, codes, codebooks, estimator, cosine, learns)
        return reference.residual_straight_through_backward(*arguments)
    (levels, size, width), tables = codebooks.shape, float32(codebooks)
    upstream = float32(gradient)
    pulls = reference.pulls(by_error, codes, codebooks)
    by_z = torch.empty(z.shape)
    by_codebooks = torch.empty(codebooks.shape if learns else 0)
    kernels.residual_straight_through_backward(
        upstream.data_ptr(),
        pulls.data_ptr(),
        z.data_ptr(),
        FLOATS[z.dtype],
        len(z),
        width,
        codes.data_ptr(),
        tables.data_ptr(),
        levels,
        size,
        ESTIMATORS[estimator],
        by_z.data_ptr(),
        by_codebooks.data_ptr() if learns else 0,
        torch.get_num_threads(),
    )
    return by_z.to(z.dtype), by_codebooks.to(codebooks.dtype)
