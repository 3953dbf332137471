"""Nearest-codeword search on a GPU: a launch that packs the codebook, one that searches, one that sums the counts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs, streaming
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.packing import pack
from unitok_kernels.ops._triton.tiles import WIDEST, finite_rows, load_rows, search
from unitok_kernels.ops._triton.tuning import changed, tuned


@triton.jit
def _kernel(
    p_x, p_table, p_digits, p_scales, p_codes, p_distance, p_counts, N, K,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    EXACT: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """Code = argmin_k |x - c_k|^2 and that distance, for a tile of rows."""
    i_rows = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_x = load_rows(p_x, i_rows, m_rows, D, BD)
    m_good = finite_rows(b_x) & m_rows
    b_x = tl.where(m_good[:, None], b_x, 0.0)
    b_codes, rescored, near_ties = search(
        b_x, m_good, p_table, p_digits, p_scales, tl.full((), 0, tl.int64), K, D, BD, BN, BK, EVEN, EXACT, STATS
    )
    b_difference = b_x - load_rows(p_table, b_codes, m_good, D, BD)
    b_distance = tl.sum(b_difference * b_difference, axis=1)
    tl.store(p_codes + i_rows, tl.where(m_good, b_codes, -1).to(tl.int64), mask=m_rows)
    tl.store(p_distance + i_rows, tl.where(m_good, b_distance, float("nan")), mask=m_rows)
    tl.store(p_counts + tl.program_id(0) * 2, rescored)
    tl.store(p_counts + tl.program_id(0) * 2 + 1, near_ties)


@tuned
def nearest_codeword(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel."""
    if checks.reads_data(check_finite, x):
        checks.finite("nearest_codeword", "x", x)
        checks.finite("nearest_codeword", "codebook", codebook)
    (rows, width), codewords = x.shape, codebook.shape[0]
    if width > WIDEST:
        codes, squares, parts = streaming.encode(x, codebook.expand(1, 1, -1, -1))
        return codes.squeeze(1), squares, parts.narrow(1, 2, 2).double().sum(0).long()
    config = changed(configs.search(target_of(x), width))
    programs = triton.cdiv(rows, config.block_rows)
    codes = x.new_empty(rows, dtype=torch.int64)
    distance = x.new_empty(rows, dtype=torch.float32)
    counts = x.new_empty(programs, 2, dtype=torch.int32)
    launch(
        _kernel, (programs,), x, codebook, *pack(codebook, config), codes, distance, counts, rows, codewords,
        config=config, D=width, BD=configs.power_of_two(width, 32), BN=config.block_rows, BK=config.block_columns,
        EVEN=codewords % config.block_columns == 0, EXACT=precision == "exact", STATS=stats,
    )  # fmt: skip
    return codes, distance, counts.sum(0)
