"""Residual encoding by experts, by csrc/cpu/ops/moe_residual_encode.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, float32, kernels
from unitok_kernels.ops.moe_residual_encode.reference import check_data


def moe_residual_encode(
    z: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    precision: str,
    check_finite: bool | None,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel; its status tells whether the data need checking."""
    rows, width = z.shape
    experts, levels, codewords, _ = codebooks.shape
    slots = expert_ids.shape[1]
    tables, weights = float32(codebooks), float32(expert_weights)
    shared = None if shared_codebooks is None else float32(shared_codebooks)
    shared_levels, shared_codewords = (0, 0) if shared is None else shared.shape[:2]
    combined = torch.empty_like(z)
    codes = torch.empty(rows, slots, levels, dtype=torch.int64)
    shared_codes = torch.empty(rows, shared_levels, dtype=torch.int64)
    level_error, shared_error = torch.empty(levels), torch.empty(shared_levels)
    counts = torch.empty(2, dtype=torch.int64)
    status = kernels.moe_residual_encode(
        z.data_ptr(),
        FLOATS[z.dtype],
        rows,
        width,
        tables.data_ptr(),
        experts,
        levels,
        codewords,
        expert_ids.data_ptr(),
        weights.data_ptr(),
        slots,
        0 if shared is None else shared.data_ptr(),
        shared_levels,
        shared_codewords,
        shared_weight,
        combined.data_ptr(),
        codes.data_ptr(),
        shared_codes.data_ptr(),
        level_error.data_ptr(),
        shared_error.data_ptr(),
        counts.data_ptr(),
        torch.get_num_threads(),
        precision == "fast",
        stats,
    )
    if status and checks.reads_data(check_finite, z):
        check_data(z, codebooks, expert_ids, expert_weights, shared_codebooks)
    return combined, codes, shared_codes, level_error, shared_error, counts


def moe_residual_encode_backward(
    gradient: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    codes: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    shared_codes: Tensor,
    with_codebooks: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel of the gradients."""
    rows, width = gradient.shape
    experts, levels, codewords, _ = codebooks.shape
    upstream, tables, weights = float32(gradient), float32(codebooks), float32(expert_weights)
    by_z, by_weights = torch.empty_like(upstream), torch.empty_like(weights)
    by_codebooks = torch.empty(codebooks.shape if with_codebooks else 0)
    shared_levels, shared_codewords = (0, 0) if shared_codebooks is None else shared_codebooks.shape[:2]
    by_shared = torch.empty(0 if shared_codebooks is None or not with_codebooks else shared_codebooks.shape)
    kernels.moe_residual_encode_backward(
        upstream.data_ptr(),
        rows,
        width,
        tables.data_ptr(),
        experts,
        levels,
        codewords,
        expert_ids.data_ptr(),
        weights.data_ptr(),
        expert_ids.shape[1],
        codes.data_ptr(),
        shared_levels,
        shared_codewords,
        shared_weight,
        shared_codes.data_ptr(),
        by_z.data_ptr(),
        by_weights.data_ptr(),
        by_codebooks.data_ptr() if with_codebooks else 0,
        by_shared.data_ptr() if by_shared.numel() else 0,
        torch.get_num_threads(),
    )
    return by_z, by_codebooks, by_weights, by_shared
