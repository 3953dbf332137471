"""What the Triton kernels share: rows in and out, and the exact nearest-codeword search of a tile of rows.

The search, of rows r and codewords c about a centre m, works with r' = r - m and c' = c - m. Both are split in two
bfloat16, x = h + l + e with |l| <= 2^-8 |x| and |e| <= 2^-17 |x| in each column, and the score |c'|^2 / 2 - r'.c' takes
three of the four products. So it is off by at most

    B = (2^-15 + 9/8 D 2^-23 + 2^-21) |r'| |c'| + (D / 2 + 4) 2^-24 |c'|^2 + D 2^-119,

where |c'| is the largest of the codebook and D counts whole sixteens in the sums. The terms are, in order:

1.  What the splits leave out: l.l' is at most 2^-16 |r'| |c'| by Cauchy-Schwarz, r'.e' and e.c' are 2^-17 each.
2.  The sums of the matrix unit. A step adds up to 16 products to the accumulator. Each of the 17 is cut off at 2^-23 of
    the largest, which is whole itself, and then their sum is: 17 errors. Products with a low half come first and are
    2^-8 of the others, so that only the D / 16 steps of h.h' count. The known units do better: sm_80 adds 8 products
    cut off at 2^-24, sm_90, sm_100 and sm_120 add 16 cut off at 2^-25; gfx942 adds 8 cut off at 2^-24 and rounds.
3.  The differences r - m and c - m, the last subtraction, and products of errors.
4.  The norm, of D roundings at the most, and its share of the same differences and subtraction.
5.  Underflow, even where subnormal numbers are taken for zero. To that end |r'| and |c'| are raised by D 2^-62, since
    the squares of what is smaller can't be trusted.

Where the runner-up is within 2 B of the best, the row is searched again by differencing in float32, whose error is
(D + 4) 2^-24 of each distance at the most. Where two distances are closer than that can tell, or nearly tied, or their
squares leave the range of float32, float64 decides.

Source of what matrix units do: Xie, Wang, Yang and Yang, "MMA-Sim: Bit-accurate reference model of tensor cores and
matrix cores", 2025.

The runner-up costs no more than the best: minima are kept of each column over the tiles and of each tile over its
columns. The best is in the column and the tile with the least of them, and any other codeword is in another column or
in another tile: the least of those is the runner-up's.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# The interpreter gets bfloat16 products wrong, but not those of float32 values that bfloat16 could hold.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
CENTRED = tl.constexpr(4)  # codewords whose mean is the centre: the search is right about any, B is small about theirs

WIDEST = 512  # columns; a tile of wider rows fits neither registers nor shared memory


@triton.jit
def load_rows(p_x, i_rows, m_rows, D: tl.constexpr, BD: tl.constexpr):
    """Load rows in float32, zeros beyond D and for rows that aren't there."""
    o_d = tl.arange(0, BD)
    return tl.load(
        p_x + i_rows.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_rows[:, None] & (o_d < D)[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def store_rows(p_x, b_x, i_rows, m_rows, D: tl.constexpr, BD: tl.constexpr):
    """Store rows, rounded to the dtype of their place."""
    o_d = tl.arange(0, BD)
    mask = m_rows[:, None] & (o_d < D)[None, :]
    tl.store(p_x + i_rows.to(tl.int64)[:, None] * D + o_d[None, :], round_to(b_x, p_x.dtype.element_ty), mask=mask)


@triton.jit
def round_to(b_x, dtype: tl.constexpr):
    """Round float32 to nearest, ties to even; the interpreter's own conversion to bfloat16 cuts off."""
    if INTERPRETED and dtype == tl.bfloat16:
        b_x = _to_bfloat16_bits(b_x)
    return b_x.to(dtype)


@triton.jit
def _to_bfloat16_bits(b_x):
    bits = b_x.to(tl.int32, bitcast=True)
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def finite_rows(b_x):
    """Tell the rows without NaN and infinity."""
    return tl.sum(b_x * 0.0, axis=1) == 0.0


@triton.jit
def _split(b_x):
    """Two bfloat16 whose sum is x but for 2^-17 of it; the interpreter keeps them in float32.

    The first is rounded in its bits, halves away from zero: to convert a value and go on with it is a slow instruction,
    while two that are only stored are converted at once.
    """
    b_high = ((b_x.to(tl.int32, bitcast=True) + 0x8000) & -65536).to(tl.float32, bitcast=True)
    b_low = b_x - b_high
    if INTERPRETED:
        return b_high, _to_bfloat16_bits(b_low)
    return b_high.to(tl.bfloat16), b_low.to(tl.bfloat16)


@triton.jit
def search(
    b_r,
    m_rows,
    p_table,
    K,
    D: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EXACT: tl.constexpr,
    STATS: tl.constexpr,
):
    """Find the nearest codeword of each row of a tile.

    Args:
        b_r: (BN, BD) float32, zeros beyond D.
        m_rows: (BN,), the rows that count.
        p_table: the codebook, (K, D).
        K: codewords.
        D: width.
        BD: width, padded to a power of two.
        BN: rows of the tile.
        BK: codewords that are looked at together.
        EXACT: search again where the bound asks for it; otherwise only where two scores are equal, and what the bound
            asks for is counted as a near tie.
        STATS: count near ties as well, which takes a wider margin.

    Returns:
        codes (BN,) int32, searches made again, near ties.
    """
    o_d, o_k = tl.arange(0, BD), tl.arange(0, BK)
    o_table = o_k[:, None] * D + o_d[None, :]
    m_d = o_d < D
    b_centre = tl.zeros((BD,), tl.float32)
    for i_k in tl.static_range(CENTRED):
        b_centre += tl.load(p_table + tl.minimum(i_k, K - 1) * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_centre *= 1.0 / CENTRED

    b_r_centred = b_r - b_centre[None, :]
    b_r_high, b_r_low = _split(b_r_centred)
    b_columns = tl.full((BN, BK), float("inf"), tl.float32)
    b_best = tl.full((BN,), float("inf"), tl.float32)
    b_second = tl.full((BN,), float("inf"), tl.float32)
    b_tile = tl.zeros((BN,), tl.int32)
    b_longest = tl.zeros((BK,), tl.float32)
    for i_k in range(0, K, BK):
        m_k = i_k + o_k < K
        b_c = tl.load(p_table + tl.cast(i_k, tl.int64) * D + o_table, mask=m_k[:, None] & m_d[None, :], other=0.0)
        b_c = b_c.to(tl.float32) - b_centre[None, :]
        b_half = 0.5 * tl.sum(b_c * b_c, axis=1)
        b_longest = tl.maximum(b_longest, tl.where(m_k, b_half, 0.0))
        b_c_high, b_c_low = _split(b_c)
        b_product = tl.dot(b_r_low, tl.trans(b_c_high))
        b_product = tl.dot(b_r_high, tl.trans(b_c_low), b_product)
        b_product = tl.dot(b_r_high, tl.trans(b_c_high), b_product)
        b_score = tl.where(m_k, b_half, float("inf"))[None, :] - b_product
        b_columns = tl.minimum(b_columns, b_score)
        b_least = tl.min(b_score, axis=1)
        b_second = tl.minimum(b_second, tl.maximum(b_best, b_least))
        b_tile = tl.where(b_least < b_best, i_k, b_tile)
        b_best = tl.minimum(b_best, b_least)
    b_column = tl.min(tl.where(b_columns == b_best[:, None], o_k[None, :], BK - 1), axis=1)
    b_others = tl.where(o_k[None, :] == b_column[:, None], float("inf"), b_columns)
    b_second = tl.minimum(b_second, tl.min(b_others, axis=1))
    b_codes = tl.minimum(b_tile + b_column, K - 1)  # in the table whatever the values were

    b_length = tl.sqrt(tl.sum(b_r_centred * b_r_centred, axis=1)) + D * 2.0**-62
    radius = tl.sqrt(2.0 * tl.max(b_longest, axis=0)) + D * 2.0**-62
    STEPS: tl.constexpr = (D + 15) // 16  # of the matrix unit, for h.h'
    PRODUCTS: tl.constexpr = 2.02 * (2.0**-15 + 18 * STEPS * 2.0**-23 + 2.0**-21)
    NORMS: tl.constexpr = 2.02 * (D / 2 + 4) * 2.0**-24
    b_margin = PRODUCTS * b_length * radius + NORMS * radius * radius + D * 2.0**-118
    b_gap = b_second - b_best
    if STATS:  # |r'|^2 / 2 + best is half the distance, of which a near tie's gap is 1e-5
        b_margin += 1e-5 * (0.5 * b_length * b_length + b_best + b_margin)
    b_unsure = m_rows & (K > 1) & ~(b_gap > b_margin)
    b_again = b_unsure if EXACT else b_unsure & ~(b_gap > 0.0)
    again = tl.sum(b_again.to(tl.int32), axis=0)
    near_ties = tl.sum(b_unsure.to(tl.int32), axis=0) - again

    o_rows = tl.arange(0, BN)
    left = again
    while left > 0:
        i_row = tl.max(tl.where(b_again, o_rows, -1), axis=0)
        m_row = o_rows == i_row
        b_row = tl.sum(tl.where(m_row[:, None], b_r, 0.0), axis=0)
        code, best, second = _by_differencing(b_row, p_table, K, D, BD, BK, tl.float32)
        if ~(second - best > (1e-5 + (D + 8) * 2.0**-23) * second + D * 2.0**-118):
            code, least, runner_up = _by_differencing(b_row, p_table, K, D, BD, BK, tl.float64)
            near_ties += (runner_up - least < 1e-5 * least).to(tl.int32)
        b_codes = tl.where(m_row, tl.minimum(code, K - 1), b_codes)
        b_again = b_again & (o_rows != i_row)
        left -= 1
    return b_codes, again, near_ties


@triton.jit
def _by_differencing(b_row, p_table, K, D: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, dtype: tl.constexpr):
    """Find one row's nearest codeword, the first of several, and the two least squared distances."""
    o_d, o_k = tl.arange(0, BD), tl.arange(0, BK)
    o_table = o_k[:, None] * D + o_d[None, :]
    code = tl.full((), 0, tl.int32)
    best = tl.full((), float("inf"), dtype)
    second = tl.full((), float("inf"), dtype)
    for i_k in range(0, K, BK):
        m_k = i_k + o_k < K
        p_c = p_table + tl.cast(i_k, tl.int64) * D + o_table
        b_c = tl.load(p_c, mask=m_k[:, None] & (o_d < D)[None, :], other=0.0).to(dtype)
        b_difference = b_row.to(dtype)[None, :] - b_c
        b_distance = tl.where(m_k, tl.sum(b_difference * b_difference, axis=1), float("inf"))
        least = tl.min(b_distance, axis=0)
        place = tl.min(tl.where(b_distance == least, o_k, BK - 1), axis=0)
        next_best = tl.min(tl.where(o_k == place, float("inf"), b_distance), axis=0)
        second = tl.minimum(tl.minimum(second, next_best), tl.maximum(best, least))
        code = tl.where(least < best, i_k + place, code)
        best = tl.minimum(best, least)
    return code, best, second
