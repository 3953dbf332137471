"""The codebook and commitment loss on a GPU: one launch walks the chains, two give the gradient in codebooks."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.segments import add_slots, cut, share, slot_rows
from unitok_kernels.ops._triton.tiles import load_rows, store_rows
from unitok_kernels.ops.residual_loss.reference import check_data, one_chain


@triton.jit
def _walk(
    p_z, p_codes, p_tables, p_ids, p_keys, p_by_z, p_parts, N, E, L, K, S, factor,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """r_0 = z;  r_{l+1} = r_l - c_l, for each slot of a tile of rows.

    p_parts: (programs,) float64, the sum of all |r_{l+1}|^2. p_by_z: factor / N * the sum of all r_{l+1} of a row.
    p_keys: (N, S, L), the codeword's place (e L + l) K + code among all of them, -1 if a code or id is out of range.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_z = load_rows(p_z, i_rows, m_rows, D, BD)
    b_by_z = tl.full((BN, BD), 0.0, tl.float32)
    b_squares = tl.full((BN,), 0.0, tl.float64)
    for slot in range(S):
        b_r = b_z
        b_ids = tl.load(p_ids + i_rows * S + slot, mask=m_rows, other=-1)
        for level in range(L):
            i_codes = (i_rows * S + slot) * L + level
            b_codes = tl.load(p_codes + i_codes, mask=m_rows, other=-1)
            m_named = (b_codes >= 0) & (b_codes < K) & (b_ids >= 0) & (b_ids < E)
            b_keys = (b_ids * L + level) * K + b_codes
            b_r = b_r - load_rows(p_tables, b_keys, m_named, D, BD)
            b_named = tl.where(m_named[:, None], b_r, 0.0)
            b_squares += tl.sum(b_named * b_named, axis=1).to(tl.float64)
            b_by_z += b_named
            if GRADIENT:
                tl.store(p_keys + i_codes, tl.where(m_named, b_keys, -1), mask=m_rows)
    tl.store(p_parts + tl.program_id(0), tl.sum(b_squares, axis=0))
    if GRADIENT:
        store_rows(p_by_z, share(factor, N).to(tl.float32) * b_by_z, i_rows, m_rows, D, BD)


@triton.jit
def _add_residuals(
    p_z, p_keys, p_tables, p_order, p_starts, p_owners, p_parts, L, K, S,
    D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """parts_s = sum of r_{l+1} = z - c_0 - ... - c_l over the rows of slot s, all of one codeword of level l."""
    slot = tl.cast(tl.program_id(0), tl.int64)
    o_n = tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    key, begin, end = slot_rows(p_starts, p_owners, slot)
    level = key // K % L
    b_sum = tl.full((BN, BD), 0.0, tl.float64)
    for i_n in range(begin, end, BN):
        m_n = i_n + o_n < end
        i_codes = tl.load(p_order + i_n + o_n, mask=m_n, other=0)
        mask = m_n[:, None] & (o_d < D)[None, :]
        i_rows = i_codes // (S * L)
        b_r = tl.load(p_z + i_rows[:, None] * D + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
        for before in range(-level, 1):
            b_keys = tl.load(p_keys + i_codes + before, mask=m_n, other=-1)
            m_c = mask & (b_keys >= 0)[:, None]
            b_r -= tl.load(p_tables + b_keys[:, None] * D + o_d[None, :], mask=m_c, other=0.0).to(tl.float32)
        b_sum += b_r.to(tl.float64)
    tl.store(p_parts + slot * D + o_d, tl.sum(b_sum, axis=0), mask=o_d < D)


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
    """Launch the kernels; residuals aren't kept, but computed again where they are summed."""
    if checks.reads_data(check_finite, codes):
        check_data(z, codes, codebooks, expert_ids)
    (rows, width), (experts, levels, codewords, _), slots = z.shape, codebooks.shape, codes.shape[1]
    config = configs.rowwise(target_of(z), 2 * width)  # a row and its codeword
    programs = triton.cdiv(rows, config.block_rows)
    parts = z.new_empty(programs, dtype=torch.float64)
    by_z = z.new_empty(z.shape if with_gradient else 0, dtype=torch.float32)
    keys = codes.new_empty(codes.numel() if with_gradient else 0)
    launch(
        _walk, (programs,), z, codes, codebooks, expert_ids, keys, by_z, parts, rows, experts, levels, codewords, slots,
        2 * commitment_weight,
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows, GRADIENT=with_gradient,
    )  # fmt: skip
    loss = ((codebook_weight + commitment_weight) * parts.sum() / max(rows, 1)).float()
    if not with_gradient:
        return loss, by_z, torch.empty_like(by_z)
    config = configs.segments(target_of(z), width)
    segments = cut(keys, experts * levels * codewords)
    sums = segments.sums(width)
    launch(
        _add_residuals, (len(sums), triton.cdiv(width, config.block_columns)), z, keys, codebooks, *segments, sums,
        levels, codewords, slots, config=config, D=width, BN=config.block_rows // 2, BD=config.block_columns,
    )  # fmt: skip
    return loss, by_z, add_slots(sums, segments, -2 * codebook_weight, rows, config).view(codebooks.shape)


def residual_loss(z: Tensor, codes: Tensor, codebooks: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernels for a single chain."""
    return one_chain(moe_residual_loss, z, codes, codebooks, *options)
