"""Residual encoding by experts, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import finite_rows, wide
from unitok_kernels.ops.residual_encode.reference import residual_encode


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
    op = "moe_residual_encode"
    num_experts, levels, _, width = codebooks.shape
    if checks.reads_data(check_finite, z):
        checks.finite(op, "z", z)
        checks.finite(op, "codebooks", codebooks)
        checks.finite(op, "expert_weights", expert_weights)
        checks.in_range(op, "expert_ids", expert_ids, num_experts)
        if shared_codebooks is not None:
            checks.finite(op, "shared_codebooks", shared_codebooks)
    rows, tables = wide(z), wide(codebooks)
    good = finite_rows(z)[:, None] & torch.isfinite(expert_weights)
    weights = torch.where(good, wide(expert_weights), 0)  # a bad slot decodes to nothing: not to 0 * NaN

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
