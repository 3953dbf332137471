"""Residual encoding on a GPU: a launch that packs the codebooks, one for all levels, and one for their sums."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs, streaming
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.packing import pack
from unitok_kernels.ops._triton.tiles import WIDEST, finite_rows, load_rows, search, store_rows
from unitok_kernels.ops._triton.tuning import changed, tuned
from unitok_kernels.ops.common import wide
from unitok_kernels.ops.residual_decode.triton import residual_decode, sum_codewords


@triton.jit
def _kernel(
    p_z, p_tables, p_digits, p_scales, p_codes, p_quantized, p_parts, N, K, L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    EXACT: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """r_0 = z;  code_l = argmin_k |r_l - C_lk|^2;  r_{l+1} = r_l - C_l,code_l: the rows stay in registers.

    p_parts: (programs, L + 3) float32; the squared residuals after each level, rows, redone searches, near ties.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_r = load_rows(p_z, i_rows, m_rows, D, BD)
    m_good = finite_rows(b_r) & m_rows
    b_r = tl.where(m_good[:, None], b_r, 0.0)
    p_part = p_parts + tl.cast(tl.program_id(0), tl.int64) * (L + 3)
    rescored, near_ties = 0, 0
    for level in tl.range(0, L, disable_licm=True):  # what is computed ahead of the loop takes registers
        table = tl.cast(level, tl.int64)
        p_table = p_tables + table * K * D
        b_codes, again, near = search(
            b_r, m_good, p_table, p_digits, p_scales, table, K, D, BD, BN, BK, EVEN, EXACT, STATS
        )
        b_r = b_r - load_rows(p_table, b_codes, m_good, D, BD)
        tl.store(p_codes + i_rows * L + level, tl.where(m_good, b_codes, -1).to(tl.int64), mask=m_rows)
        tl.store(p_part + level, tl.sum(b_r * b_r))
        rescored += again
        near_ties += near
    tl.debug_barrier()  # other threads read the codes than wrote them
    b_sum = sum_codewords(p_codes + i_rows * L, p_tables, 0, m_rows, K, L, D, BD, BN)
    store_rows(p_quantized, b_sum, i_rows, m_rows, D, BD)
    tl.store(p_part + L, tl.sum(m_good.to(tl.float32), axis=0))
    tl.store(p_part + L + 1, tl.cast(rescored, tl.float32))
    tl.store(p_part + L + 2, tl.cast(near_ties, tl.float32))


@triton.jit
def finish(p_parts, p_error, p_counts, programs, L, D: tl.constexpr, BP: tl.constexpr):
    """Sum the programs' parts in a fixed order, in float64: program l gives level_error[l], the last the counts."""
    level = tl.program_id(0)
    o_p = tl.arange(0, BP)
    b_value = tl.zeros((BP,), tl.float64)
    b_rows = tl.zeros((BP,), tl.float64)
    b_near = tl.zeros((BP,), tl.float64)
    for i_p in range(0, programs, BP):
        p_part = p_parts + (i_p + o_p).to(tl.int64) * (L + 3)
        m_p = i_p + o_p < programs
        b_value += tl.load(p_part + tl.where(level < L, level, L + 1), mask=m_p, other=0.0).to(tl.float64)
        b_rows += tl.load(p_part + L, mask=m_p, other=0.0).to(tl.float64)
        b_near += tl.load(p_part + L + 2, mask=m_p, other=0.0).to(tl.float64)
    value = tl.sum(b_value, axis=0)
    if level < L:
        tl.store(p_error + level, (value / tl.maximum(tl.sum(b_rows, axis=0) * D, 1.0)).to(tl.float32))
    else:
        tl.store(p_counts, value.to(tl.int64))
        tl.store(p_counts + 1, tl.sum(b_near, axis=0).to(tl.int64))


@tuned
def residual_encode(
    z: Tensor, codebooks: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels."""
    if checks.reads_data(check_finite, z):
        checks.finite("residual_encode", "z", z)
        checks.finite("residual_encode", "codebooks", codebooks)
    (rows, width), (levels, codewords, _) = z.shape, codebooks.shape
    if width > WIDEST:
        codes, _, parts = streaming.encode(z, codebooks.unsqueeze(0))
        quantized = residual_decode(codes, wide(codebooks), False).to(z.dtype)
    else:
        config = changed(configs.search(target_of(z), width))
        programs = triton.cdiv(rows, config.block_rows)
        codes = z.new_empty(rows, levels, dtype=torch.int64)
        quantized = torch.empty_like(z)
        parts = z.new_empty(programs, levels + 3, dtype=torch.float32)
        launch(
            _kernel, (programs,),
            z, codebooks, *pack(codebooks, config), codes, quantized, parts, rows, codewords, levels,
            config=config, D=width, BD=configs.power_of_two(width, 32), BN=config.block_rows, BK=config.block_columns,
            EVEN=codewords % config.block_columns == 0, EXACT=precision == "exact", STATS=stats,
        )  # fmt: skip
    level_error = z.new_empty(levels, dtype=torch.float32)
    counts = z.new_empty(2, dtype=torch.int64)
    launch(
        finish, (levels + 1,), parts, level_error, counts, parts.shape[0], levels,
        config=configs.SUMS, D=width, BP=configs.SUMS.block_rows,
    )  # fmt: skip
    return codes, quantized, level_error, counts
