"""Sinkhorn assignment on a GPU: three launches per iteration; scores aren't kept beyond their tile.

With a small epsilon, scores are so large that float32 has no fractional digits left. So scores, sums of exponentials
and potentials are in double precision; only the exponentials of differences to the largest exponent are in single
precision. Their relative error of about 2^-22 is all that an iteration adds to a potential, and later iterations don't
enlarge it: a logarithm of a sum of exponentials changes by no more than its terms do.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops.common import wide

_PARTS = 128  # most parts that the rows are divided into for the columns' sums
_COLUMNS = 16  # columns per program that sums the parts
_BAD = tl.constexpr(-1.0)  # no row's norm
_NOTHING = tl.constexpr(-1e300)  # the logarithm of no mass, finite


@triton.jit
def _load_rows(p_x, p_centre, i_rows, m_rows, i_d, D: tl.constexpr, BD: tl.constexpr):
    """Load some columns of rows in float64, centred; zeros beyond D and for masked rows."""
    o_d = i_d + tl.arange(0, BD)
    m_x = m_rows[:, None] & (o_d < D)[None, :]
    b_x = tl.load(p_x + i_rows[:, None] * D + o_d[None, :], mask=m_x, other=0.0).to(tl.float64)
    return tl.where(m_x, b_x - tl.load(p_centre + o_d, mask=o_d < D, other=0.0)[None, :], 0.0)


@triton.jit
def _norms(p_x, p_centre, p_norms, N, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """|x_n - centre|^2, and _BAD for rows with NaN or infinity."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_norms, b_finite = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float32)
    for i_d in range(0, D, BD):
        b_x = _load_rows(p_x, p_centre, i_rows, m_rows, i_d, D, BD)
        b_norms += tl.sum(b_x * b_x, axis=1)
        o_d = i_d + tl.arange(0, BD)
        m_x = m_rows[:, None] & (o_d < D)[None, :]
        b_raw = tl.load(p_x + i_rows[:, None] * D + o_d[None, :], mask=m_x, other=0.0)
        b_finite += tl.sum(b_raw * 0.0, axis=1)
    tl.store(p_norms + i_rows, tl.where(b_finite == 0.0, b_norms, _BAD), mask=m_rows)


@triton.jit
def _scores(
    p_x, p_centre, p_table, p_norms, p_table_norms, scale, i_rows, m_rows, i_k, m_k,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """score_nk = scale |x_n - c_k|^2 of a tile, (BN, BK) float64; the table is already centred."""
    b_products = tl.zeros((BN, BK), tl.float64)
    for i_d in range(0, D, BD):
        o_d = i_d + tl.arange(0, BD)
        b_x = _load_rows(p_x, p_centre, i_rows, m_rows, i_d, D, BD)
        m_c = (o_d < D)[:, None] & m_k[None, :]
        b_c = tl.load(p_table + i_k[None, :] * D + o_d[:, None], mask=m_c, other=0.0)
        b_products = tl.dot(b_x, b_c, b_products, out_dtype=tl.float64)
    b_row_norms = tl.load(p_norms + i_rows, mask=m_rows, other=0.0)
    b_norms = tl.load(p_table_norms + i_k, mask=m_k, other=0.0)
    return scale * tl.maximum(b_row_norms[:, None] + b_norms[None, :] - 2 * b_products, 0.0)


@triton.jit
def _add(b_most, b_sum, b_score, axis: tl.constexpr):
    """Add exp(score) along an axis to a sum, which is kept as b_sum exp(b_most)."""
    b_both = tl.maximum(b_most, tl.max(b_score, axis=axis))
    b_exponent = tl.maximum(b_score - tl.expand_dims(b_both, axis), -1000.0).to(tl.float32)
    b_kept = tl.exp(tl.maximum(b_most - b_both, -1000.0).to(tl.float32)).to(tl.float64)
    return b_both, b_sum * b_kept + tl.sum(tl.exp(b_exponent), axis=axis).to(tl.float64)


@triton.jit
def _scale_rows(
    p_x, p_centre, p_table, p_norms, p_table_norms, p_facts, p_columns, p_rows, N, K,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """row_n = -log N - log sum_k exp(score_nk + column_k), score = facts[0] squared distance; _NOTHING for bad rows."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    scale = tl.load(p_facts)
    b_most = tl.full((BN,), _NOTHING, tl.float64)
    b_sum = tl.zeros((BN,), tl.float64)
    for start in range(0, K, BK):
        i_k = tl.cast(start, tl.int64) + tl.arange(0, BK)
        m_k = i_k < K
        b_score = _scores(
            p_x, p_centre, p_table, p_norms, p_table_norms, scale, i_rows, m_rows, i_k, m_k, D, BD, BN, BK
        )  # fmt: skip
        b_columns = tl.load(p_columns + i_k, mask=m_k, other=_NOTHING)
        b_most, b_sum = _add(b_most, b_sum, b_score + b_columns[None, :], 1)
    m_good = tl.load(p_norms + i_rows, mask=m_rows, other=_BAD) != _BAD
    b_row = -tl.load(p_facts + 1) - b_most - tl.log(b_sum)
    tl.store(p_rows + i_rows, tl.where(m_good, b_row, _NOTHING), mask=m_rows)


@triton.jit
def _sum_columns(
    p_x, p_centre, p_table, p_norms, p_table_norms, p_facts, p_rows, p_most, p_sums, N, K,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The log of sum_n exp(score_nk + row_n) over every parts-th tile of rows, as the largest exponent and a sum."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    i_k = tl.cast(tl.program_id(1), tl.int64) * BK + tl.arange(0, BK)
    m_k = i_k < K
    scale = tl.load(p_facts)
    b_most = tl.full((BK,), _NOTHING, tl.float64)
    b_sum = tl.zeros((BK,), tl.float64)
    for tile in range(part, tl.cdiv(N, BN), parts):
        i_rows = tl.cast(tile, tl.int64) * BN + tl.arange(0, BN)
        m_rows = i_rows < N
        b_row = tl.load(p_rows + i_rows, mask=m_rows, other=_NOTHING)
        b_score = _scores(
            p_x, p_centre, p_table, p_norms, p_table_norms, scale, i_rows, m_rows, i_k, m_k, D, BD, BN, BK
        )  # fmt: skip
        b_mass = tl.where((b_row > _NOTHING)[:, None], b_score + b_row[:, None], _NOTHING)
        b_most, b_sum = _add(b_most, b_sum, b_mass, 0)
    tl.store(p_most + tl.cast(part, tl.int64) * K + i_k, b_most, mask=m_k)
    tl.store(p_sums + tl.cast(part, tl.int64) * K + i_k, b_sum, mask=m_k)


@triton.jit
def _scale_columns(p_most, p_sums, p_columns, p_facts, parts, K, BP: tl.constexpr, BK: tl.constexpr):
    """column_k = -log K - log of the parts' sum, in a fixed order."""
    o_p, i_k = tl.arange(0, BP), tl.program_id(0) * BK + tl.arange(0, BK)
    m_parts = (o_p < parts)[:, None] & (i_k < K)[None, :]
    o_parts = o_p[:, None] * K + i_k[None, :]
    b_most = tl.load(p_most + o_parts, mask=m_parts, other=_NOTHING)
    b_sums = tl.load(p_sums + o_parts, mask=m_parts, other=0.0)
    b_both = tl.max(b_most, axis=0)
    b_sum = tl.sum(b_sums * tl.exp(tl.maximum(b_most - b_both[None, :], -1000.0)), axis=0)
    tl.store(p_columns + i_k, -tl.load(p_facts + 2) - b_both - tl.log(b_sum), mask=i_k < K)


@triton.jit
def _assign(
    p_x, p_centre, p_table, p_norms, p_table_norms, p_facts, p_columns, p_codes, N, K,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """code_n = argmax_k score_nk + column_k, the lowest of equals; -1 for bad rows."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    scale = tl.load(p_facts)
    b_best = tl.full((BN,), float("-inf"), tl.float64)
    b_codes = tl.zeros((BN,), tl.int64)
    for start in range(0, K, BK):
        i_k = tl.cast(start, tl.int64) + tl.arange(0, BK)
        m_k = i_k < K
        b_score = _scores(
            p_x, p_centre, p_table, p_norms, p_table_norms, scale, i_rows, m_rows, i_k, m_k, D, BD, BN, BK
        )  # fmt: skip
        b_columns = tl.load(p_columns + i_k, mask=m_k, other=0.0)
        b_score = tl.where(m_k[None, :], b_score + b_columns[None, :], float("-inf"))
        b_most = tl.max(b_score, axis=1)
        b_code = tl.min(tl.where(b_score == b_most[:, None], i_k[None, :], K - 1), axis=1)
        b_codes = tl.where(b_most > b_best, b_code, b_codes)
        b_best = tl.maximum(b_best, b_most)
    m_good = tl.load(p_norms + i_rows, mask=m_rows, other=_BAD) != _BAD
    tl.store(p_codes + i_rows, tl.where(m_good, b_codes, -1), mask=m_rows)


def sinkhorn_assign(x: Tensor, codebook: Tensor, epsilon: float, iterations: int, check_finite: bool | None) -> Tensor:
    """Launch the kernels."""
    if checks.reads_data(check_finite, x):
        checks.finite("sinkhorn_assign", "x", x)
        checks.finite("sinkhorn_assign", "codebook", codebook)
    x = wide(x)  # once, not at each load; and Triton 3.6 has no float64 product of values loaded as halves
    (rows, width), codewords = x.shape, codebook.shape[0]
    config = configs.distances(target_of(x), rows, codewords)
    block_rows, block_columns = config.block_rows, config.block_columns
    widths = {"D": width, "BD": min(configs.power_of_two(width), 32)}
    tiles, column_tiles = triton.cdiv(rows, block_rows), triton.cdiv(codewords, block_columns)
    parts = torch.sym_min(tiles, _PARTS)  # works for a traced number of rows, too

    centre = codebook.double().mean(0)
    table = codebook.double() - centre
    norms, table_norms = table.new_empty(rows), table.square().sum(1)
    launch(_norms, (tiles,), x, centre, norms, rows, config=config, BN=block_rows, **widths)
    good = norms != _BAD.value
    count = good.sum().double()
    mean = torch.where(good, norms, 0).sum() / count + table_norms.mean()  # the mean of the table is 0
    scale = torch.where(mean > 0, -1 / (epsilon * mean), 0)
    facts = torch.stack([scale, count.log(), torch.full_like(scale, math.log(codewords))])

    data = (x, centre, table, norms, table_norms, facts)
    sizes = {**widths, "BN": block_rows, "BK": block_columns}
    columns, potentials = torch.zeros_like(table_norms), torch.empty_like(norms)
    most, sums = table.new_empty(parts, codewords), table.new_empty(parts, codewords)
    codes = x.new_empty(rows, dtype=torch.int64)
    for _ in range(iterations):
        launch(_scale_rows, (tiles,), *data, columns, potentials, rows, codewords, config=config, **sizes)
        launch(
            _sum_columns, (parts, column_tiles), *data, potentials, most, sums, rows, codewords, config=config, **sizes
        )
        programs = triton.cdiv(codewords, _COLUMNS) if rows else 0
        launch(
            _scale_columns, (programs,), most, sums, columns, facts, parts, codewords,
            config=config, BP=_PARTS, BK=_COLUMNS,
        )  # fmt: skip
    launch(_assign, (tiles,), *data, columns, codes, rows, codewords, config=config, **sizes)
    return codes
