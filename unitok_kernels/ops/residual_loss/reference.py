"""The codebook and commitment loss, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.chains import expert_codes, gather_level
from unitok_kernels.ops.common import wide


def moe_residual_loss(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    codebook_weight: float,
    commitment_weight: float,
    check_finite: bool | None,
) -> Tensor:
    """Reference of the operation: both terms have the same value, only their gradients differ."""
    num_experts, levels, num_codewords, _ = codebooks.shape
    if checks.reads_data(check_finite, codes):
        checks.finite("moe_residual_loss", "z", z, "Remove or repair it.")
        checks.finite("moe_residual_loss", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("moe_residual_loss", "codes", codes, num_codewords, minimum=-1)
        checks.in_range("moe_residual_loss", "expert_ids", expert_ids, num_experts)
    flat = expert_codes(codes, expert_ids, num_experts, num_codewords)
    rows, tables = wide(z), wide(codebooks)
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    for slot in range(codes.shape[1]):
        residual = rows
        for level in range(levels):
            index = flat[:, slot, level]
            residual = residual - gather_level(tables, level, index)
            total += residual[index >= 0].double().square().sum()
    mean = (codebook_weight + commitment_weight) * total / max(z.shape[0], 1)
    return mean.to(rows.dtype)
