"""Residual encoding by experts, by csrc/cuda/moe_residual_encode.cu; the next backend computes its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, MOST, instead, kernels, place, takes, workspace
from unitok_kernels.ops.moe_residual_encode import reference
from unitok_kernels.ops.pack_codebooks.cuda import packing


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
    packed: Tensor | None = None,
    packed_shared: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels; wider rows than they take go to the next backend."""
    if not takes(codebooks, shared_codebooks) or expert_ids.numel() > MOST:
        chains_of = (z, codebooks, expert_ids, expert_weights, shared_codebooks, shared_weight)
        return instead("moe_residual_encode").moe_residual_encode(*chains_of, precision, check_finite, stats)
    if checks.reads_data(check_finite, z):
        reference.check_data(z, codebooks, expert_ids, expert_weights, shared_codebooks)
    (rows, width), slots = z.shape, expert_ids.shape[1]
    experts, levels, codewords, _ = codebooks.shape
    shared_levels, shared_codewords = (0, 0) if shared_codebooks is None else shared_codebooks.shape[:2]
    codes = z.new_empty(rows, slots, levels, dtype=torch.int64)
    shared_codes = z.new_empty(rows, shared_levels, dtype=torch.int64)
    combined = torch.empty_like(z)
    level_error = z.new_empty(levels, dtype=torch.float32)
    shared_error = z.new_empty(shared_levels, dtype=torch.float32)
    counts = z.new_empty(2, dtype=torch.int64)
    packed = packing("moe_residual_encode", codebooks, packed)
    packed_shared = (
        None if shared_codebooks is None else packing("moe_residual_encode", shared_codebooks, packed_shared)
    )
    chains = (packed.data_ptr(), experts, levels, codewords)
    shared = (0 if packed_shared is None else packed_shared.data_ptr(), 1, shared_levels, shared_codewords)
    device, stream = place(z)
    kept = workspace(z, kernels.moe_residual_encode_workspace(rows, slots, chains, shared, device))
    kernels.moe_residual_encode(
        z.data_ptr(),
        FLOATS[z.dtype],
        rows,
        width,
        chains,
        expert_ids.data_ptr(),
        expert_weights.data_ptr(),
        FLOATS[expert_weights.dtype],
        slots,
        shared,
        shared_weight,
        True,  # exact: "fast" would save a seventh of the time at most
        stats,
        codes.data_ptr(),
        shared_codes.data_ptr(),
        combined.data_ptr(),
        level_error.data_ptr(),
        shared_error.data_ptr(),
        counts.data_ptr(),
        kept.data_ptr(),
        device,
        stream,
    )
    return combined, codes, shared_codes, level_error, shared_error, counts


moe_residual_encode_backward = instead("moe_residual_encode").moe_residual_encode_backward
