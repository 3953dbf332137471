"""The codebook and commitment loss by csrc/cpu/ops/residual_loss.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, float32, kernels
from unitok_kernels.ops.residual_loss.reference import check_data, one_chain


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
    """Launch the kernel; its status tells whether the data need checking."""
    experts, levels, codewords, width = codebooks.shape
    tables = float32(codebooks)
    loss = torch.empty(())
    by_z = torch.empty(z.shape if with_gradient else 0)
    by_codebooks = torch.empty(codebooks.shape if with_gradient else 0)
    status = kernels.residual_loss(
        z.data_ptr(),
        FLOATS[z.dtype],
        len(z),
        width,
        codes.data_ptr(),
        tables.data_ptr(),
        experts,
        levels,
        codewords,
        expert_ids.data_ptr(),
        expert_ids.shape[1],
        codebook_weight,
        commitment_weight,
        loss.data_ptr(),
        by_z.data_ptr() if with_gradient else 0,
        by_codebooks.data_ptr() if with_gradient else 0,
        torch.get_num_threads(),
    )
    if status and checks.reads_data(check_finite, codes):
        check_data(z, codes, codebooks, expert_ids)
    return loss, by_z, by_codebooks


def residual_loss(z: Tensor, codes: Tensor, codebooks: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel for a single chain."""
    return one_chain(moe_residual_loss, z, codes, codebooks, *options)
