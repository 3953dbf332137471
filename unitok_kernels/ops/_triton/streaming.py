"""The exact search for rows too wide for registers: rows, residuals and codewords are read in pieces.

Scores |c|^2 - 2 r.c are in float64, as in the reference, and off by at most (D + 4) 2^-53 (|r| + |c|)^2, in whatever
order they are summed. If the two best are within four such errors, the row is searched again by differencing. So there
is nothing to pack and no faster mode. One launch takes rows of all groups through all levels; each program keeps the
residuals of its rows in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.grouping import find_group, group_rows
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.tuning import changed
from unitok_kernels.ops.common import finite_rows, wide


class Streamed(NamedTuple):
    """Rows taken through chains.

    Attributes:
        codes: (N, L) int64; -1 for rows of no chain.
        squares: (N,) float32, squared lengths of the final residuals; NaN for rows of no chain.
        parts: (programs, L + 3) float32, as in residual_encode.
    """

    codes: Tensor
    squares: Tensor
    parts: Tensor


@triton.jit
def _load(p_rows, m_rows, i_d, D: tl.constexpr, BD: tl.constexpr):
    """Load some columns of rows; zeros beyond D and for masked rows."""
    o_d = i_d + tl.arange(0, BD)
    return tl.load(p_rows[:, None] + o_d[None, :], mask=m_rows[:, None] & (o_d < D)[None, :], other=0.0)


@triton.jit
def _search(
    p_rows, m_rows, p_table, p_norms, K,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Find each row's least score, its code (the lowest among ties), and the second-least score."""
    b_codes = tl.zeros((BN,), tl.int64)
    b_best = tl.full((BN,), float("inf"), tl.float64)
    b_second = tl.full((BN,), float("inf"), tl.float64)
    for i_k in range(0, K, BK):
        o_k = tl.cast(i_k, tl.int64) + tl.arange(0, BK)
        b_products = tl.zeros((BN, BK), tl.float64)
        for i_d in range(0, D, BD):
            b_r = _load(p_rows, m_rows, i_d, D, BD).to(tl.float64)
            b_c = _load(p_table + o_k * D, o_k < K, i_d, D, BD).to(tl.float64)
            b_products = tl.dot(b_r, tl.trans(b_c), b_products, out_dtype=tl.float64)
        b_norms = tl.load(p_norms + o_k, mask=o_k < K, other=float("inf"))[None, :]
        b_score = tl.where(b_norms < float("inf"), b_norms - 2 * b_products, float("inf"))
        b_least = tl.min(b_score, axis=1)
        b_code = tl.min(tl.where(b_score == b_least[:, None], o_k[None, :], K - 1), axis=1)
        b_next = tl.min(tl.where(o_k[None, :] == b_code[:, None], float("inf"), b_score), axis=1)
        b_second = tl.minimum(tl.minimum(b_second, b_next), tl.maximum(b_best, b_least))
        b_codes = tl.where(b_least < b_best, b_code, b_codes)
        b_best = tl.minimum(b_best, b_least)
    return b_codes, b_best, b_second


@triton.jit
def _by_differencing(p_row, p_table, K, D: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr):
    """Find one row's nearest codeword (the lowest among ties), and the two least squared distances."""
    code = tl.full((), 0, tl.int64)
    best = tl.full((), float("inf"), tl.float64)
    second = tl.full((), float("inf"), tl.float64)
    o_d = tl.arange(0, BD)
    for i_k in range(0, K, BK):
        o_k = tl.cast(i_k, tl.int64) + tl.arange(0, BK)
        b_distance = tl.zeros((BK,), tl.float64)
        for i_d in range(0, D, BD):
            b_r = tl.load(p_row + i_d + o_d, mask=i_d + o_d < D, other=0.0).to(tl.float64)
            b_difference = b_r[None, :] - _load(p_table + o_k * D, o_k < K, i_d, D, BD).to(tl.float64)
            b_distance += tl.sum(b_difference * b_difference, axis=1)
        b_distance = tl.where((o_k < K) & (b_distance < float("inf")), b_distance, float("inf"))
        least = tl.min(b_distance, axis=0)
        found = tl.min(tl.where(b_distance == least, o_k, K - 1), axis=0)
        after = tl.min(tl.where(o_k == found, float("inf"), b_distance), axis=0)
        second = tl.minimum(tl.minimum(second, after), tl.maximum(best, least))
        code = tl.where(least < best, found, code)
        best = tl.minimum(best, least)
    return code, best, second


@triton.jit
def _kernel(
    p_rest, p_tables, p_norms, p_longest, p_order, p_starts, p_codes, p_squares, p_parts, N, E, K, L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """r_0 = z;  code_l = argmin_k |r_l - C_lk|^2;  r_{l+1} = r_l - C_l,code_l, for a tile of one group's rows.

    p_rest: (N, D) float32, z before, the final residuals after.
    """
    program = tl.program_id(0)
    group, first, end = find_group(p_starts, program, N, E, BN, BE)
    if group >= E:
        return
    o_n = tl.arange(0, BN)
    m_rows = first + o_n < end
    i_rows = tl.load(p_order + first + o_n, mask=m_rows, other=0)
    p_rows = p_rest + i_rows * D
    p_part = p_parts + tl.cast(program, tl.int64) * (L + 3)
    rescored, near_ties = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    b_square = tl.zeros((BN,), tl.float64)
    for i_d in range(0, D, BD):
        b_r = _load(p_rows, m_rows, i_d, D, BD).to(tl.float64)
        b_square += tl.sum(b_r * b_r, axis=1)
    for level in range(L):
        table = tl.cast(group, tl.int64) * L + level
        p_table = p_tables + table * K * D
        b_codes, b_best, b_second = _search(p_rows, m_rows, p_table, p_norms + table * K, K, D, BD, BN, BK)
        b_length = tl.sqrt(b_square) + tl.load(p_longest + table)
        b_gap = b_second - b_best
        b_again = (b_gap <= (D + 4) * 2.0**-51 * b_length * b_length) & m_rows
        b_near = (b_gap < 1e-5 * (b_best + b_square)) & m_rows & (b_again == 0)
        near_ties += tl.sum(b_near.to(tl.int32), axis=0)
        left = tl.sum(b_again.to(tl.int32), axis=0)
        rescored += left
        while left > 0:
            i_row = tl.max(tl.where(b_again, o_n, -1), axis=0)
            row = tl.sum(tl.where(o_n == i_row, i_rows, 0), axis=0)
            code, least, runner_up = _by_differencing(p_rest + row * D, p_table, K, D, BD, BK)
            near_ties += (runner_up - least < 1e-5 * least).to(tl.int32)
            b_codes = tl.where(o_n == i_row, code, b_codes)
            b_again = b_again & (o_n != i_row)
            left -= 1
        b_square = tl.zeros((BN,), tl.float64)
        tl.debug_barrier()  # all threads have read what is written next
        for i_d in range(0, D, BD):
            b_r = _load(p_rows, m_rows, i_d, D, BD) - _load(p_table + b_codes * D, m_rows, i_d, D, BD)
            o_d = i_d + tl.arange(0, BD)
            tl.store(p_rows[:, None] + o_d[None, :], b_r, mask=m_rows[:, None] & (o_d < D)[None, :])
            b_square += tl.sum(b_r.to(tl.float64) * b_r.to(tl.float64), axis=1)
        tl.debug_barrier()  # and will read the new residuals in another order
        tl.store(p_codes + i_rows * L + level, b_codes, mask=m_rows)
        tl.store(p_part + level, tl.sum(b_square, axis=0).to(tl.float32))
    tl.store(p_squares + i_rows, b_square.to(tl.float32), mask=m_rows)
    tl.store(p_part + L, tl.sum(m_rows.to(tl.float32), axis=0))
    tl.store(p_part + L + 1, rescored.to(tl.float32))
    tl.store(p_part + L + 2, near_ties.to(tl.float32))


def encode(z: Tensor, codebooks: Tensor, groups: Tensor | None = None) -> Streamed:
    """Take each row through the chain of its group.

    Args:
        z: (N, D) float; rows that aren't finite belong to no chain.
        codebooks: (E, L, K, D), one chain a group.
        groups: (N,) int64; out of range means no chain. None puts all rows into the first.

    Returns:
        Streamed: codes, squared residuals, and what the programs have counted.
    """
    (rows, width), (experts, levels, codewords, _) = z.shape, codebooks.shape
    order, starts = group_rows(torch.where(finite_rows(z), 0 if groups is None else groups, -1), experts)
    rest, tables = z.to(torch.float32, copy=True), wide(codebooks)
    norms = tables.double().square().sum(-1)
    longest = torch.where(norms.isfinite(), norms, 0).amax(-1).sqrt()
    config = changed(configs.streamed(target_of(z), rows, codewords))
    programs = triton.cdiv(rows, config.block_rows) + experts  # as many as the groups can need
    codes = z.new_full((rows, levels), -1, dtype=torch.int64)
    squares = z.new_full((rows,), torch.nan, dtype=torch.float32)
    parts = z.new_zeros(programs, levels + 3, dtype=torch.float32)  # zeros: not every program has rows
    launch(
        _kernel, (programs,),
        rest, tables, norms, longest, order, starts, codes, squares, parts, rows, experts, codewords, levels,
        config=config, D=width, BD=configs.depth(target_of(z), width), BN=config.block_rows, BK=config.block_columns,
        BE=configs.power_of_two(experts + 1),
    )  # fmt: skip
    return Streamed(codes, squares, parts)
