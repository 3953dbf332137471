"""The codebook and commitment loss and its gradients, in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.chains import expert_codes, gather_level
from unitok_kernels.ops.codeword_statistics.reference import codeword_statistics
from unitok_kernels.ops.common import wide


def check_data(z: Tensor, codes: Tensor, codebooks: Tensor, expert_ids: Tensor) -> None:
    """Refuse NaN, infinity, and codes and experts out of range."""
    num_experts, _, num_codewords, _ = codebooks.shape
    checks.finite("moe_residual_loss", "z", z, "Remove or repair it.")
    checks.finite("moe_residual_loss", "codebooks", codebooks, "Remove or repair it.")
    checks.in_range("moe_residual_loss", "codes", codes, num_codewords, minimum=-1)
    checks.in_range("moe_residual_loss", "expert_ids", expert_ids, num_experts)


def one_chain(
    kernel: Callable[..., tuple[Tensor, Tensor, Tensor]],
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    codebook_weight: float,
    commitment_weight: float,
    check_finite: bool | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a kernel of `moe_residual_loss` with one expert; errors name `residual_loss` and its arguments."""
    only = codes.new_zeros(codes.shape[0], 1)
    options = (codebook_weight, commitment_weight, check_finite, with_gradient)
    try:
        loss, by_z, by_codebooks = kernel(z, codes[:, None], codebooks[None], only, *options)
    except ValueError:
        checks.finite("residual_loss", "z", z, "Remove or repair it.")
        checks.finite("residual_loss", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("residual_loss", "codes", codes, codebooks.shape[1], minimum=-1)
        raise
    return loss, by_z, by_codebooks.squeeze(0) if with_gradient else by_codebooks


def moe_residual_loss(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    codebook_weight: float,
    commitment_weight: float,
    check_finite: bool | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of the operation: both terms have the same value; only their gradients differ."""
    num_experts, levels, num_codewords, _ = codebooks.shape
    if checks.reads_data(check_finite, codes):
        check_data(z, codes, codebooks, expert_ids)
    flat = expert_codes(codes, expert_ids, num_experts, num_codewords)
    rows, tables = wide(z), wide(codebooks)
    by_z, by_codebooks = torch.zeros_like(rows), torch.zeros_like(tables)
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    for slot in range(codes.shape[1]):
        residual = rows
        for level in range(levels):
            index = flat[:, slot, level]
            residual = residual - gather_level(tables, level, index)
            total += residual[index >= 0].double().square().sum()
            if with_gradient:
                by_z += torch.where(index[:, None] >= 0, residual, 0)
                sums, _ = codeword_statistics(residual, index, num_experts * num_codewords, False)
                by_codebooks[:, level] -= sums.view_as(by_codebooks[:, level])
    scale = 1 / max(z.shape[0], 1)
    loss = ((codebook_weight + commitment_weight) * total * scale).to(rows.dtype)
    if not with_gradient:
        return loss, rows.new_zeros(0), rows.new_zeros(0)
    return loss, 2 * commitment_weight * scale * by_z, 2 * codebook_weight * scale * by_codebooks


def residual_loss(z: Tensor, codes: Tensor, codebooks: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of the operation: one expert has the only chain."""
    return one_chain(moe_residual_loss, z, codes, codebooks, *options)
