"""Residual encoding by experts, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.chains import expert_codes, gather_level
from unitok_kernels.ops.codeword_statistics.reference import codeword_statistics
from unitok_kernels.ops.common import finite_rows, wide
from unitok_kernels.ops.residual_encode.reference import residual_encode


def check_data(
    z: Tensor, codebooks: Tensor, expert_ids: Tensor, expert_weights: Tensor, shared_codebooks: Tensor | None
) -> None:
    """Refuse NaN, infinity and experts out of range."""
    op = "moe_residual_encode"
    checks.finite(op, "z", z)
    checks.finite(op, "codebooks", codebooks)
    checks.finite(op, "expert_weights", expert_weights)
    checks.in_range(op, "expert_ids", expert_ids, codebooks.shape[0])
    if shared_codebooks is not None:
        checks.finite(op, "shared_codebooks", shared_codebooks)


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
    """Reference of the operation; always exact."""
    num_experts, levels, _, width = codebooks.shape
    if checks.reads_data(check_finite, z):
        check_data(z, codebooks, expert_ids, expert_weights, shared_codebooks)
    rows, tables = wide(z), wide(codebooks)
    good = finite_rows(z)[:, None] & torch.isfinite(expert_weights)
    weights = torch.where(good, wide(expert_weights), 0)  # a bad slot decodes to zeros, not to 0 * NaN

    slots = expert_ids.shape[1]
    codes = torch.full((z.shape[0], slots, levels), -1, device=z.device)
    combined = torch.zeros_like(rows)
    squared_error = torch.zeros(levels, dtype=torch.float64, device=z.device)
    counts = torch.zeros(2, dtype=torch.int64, device=z.device)
    encoded = 0
    for slot in range(slots):
        quantized = torch.zeros_like(rows)
        for expert in range(num_experts):
            members = (good[:, slot] & (expert_ids[:, slot] == expert)).nonzero().squeeze(1)
            if members.numel() == 0:
                continue
            part = residual_encode(rows[members], tables[expert], precision, False, stats)
            codes[members, slot], quantized[members] = part[:2]
            squared_error += part[2].double() * members.numel() * width
            counts += part[3]
            encoded += members.numel()
        combined = combined + weights[:, slot, None] * quantized
    level_error = (squared_error / max(encoded * width, 1)).to(rows.dtype)

    shared_codes, shared_error = codes.new_empty(z.shape[0], 0), level_error.new_empty(0)
    if shared_codebooks is not None:
        shared_codes, quantized, shared_error, found = residual_encode(
            rows, wide(shared_codebooks), precision, False, stats
        )
        combined = combined + shared_weight * quantized
        counts += found
    return combined.to(z.dtype), codes, shared_codes, level_error, shared_error, counts


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
    """Compute the gradients in z, codebooks, weights and shared codebooks from that of the combined rows."""
    num_experts, levels, num_codewords, _ = codebooks.shape
    gradient, tables = wide(gradient), wide(codebooks)
    weights = torch.where(codes[..., 0] >= 0, wide(expert_weights), 0)  # a bad slot decodes to zeros

    by_z = weights.sum(1, keepdim=True) * gradient
    by_weights = torch.zeros_like(weights)
    by_codebooks = torch.zeros_like(tables) if with_codebooks else tables.new_zeros(0)
    flat = expert_codes(codes, expert_ids, num_experts, num_codewords)
    for level in range(levels):
        for slot in range(codes.shape[1]):
            index = flat[:, slot, level]
            by_weights[:, slot] += (gather_level(tables, level, index) * gradient).sum(1)
            if with_codebooks:
                weighted = weights[:, slot, None] * gradient
                sums, _ = codeword_statistics(weighted, index, num_experts * num_codewords, False)
                by_codebooks[:, level] += sums.view_as(by_codebooks[:, level])

    by_shared = tables.new_zeros(0)
    if shared_codebooks is not None:
        by_z = by_z + shared_weight * (shared_codes[:, :1] >= 0) * gradient
        if with_codebooks:
            columns = shared_codes.unbind(1)
            parts = [codeword_statistics(gradient, c, shared_codebooks.shape[1], False)[0] for c in columns]
            by_shared = shared_weight * torch.stack(parts)
    return by_z, by_codebooks, by_weights, by_shared
