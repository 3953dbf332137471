"""Loading and storing rows, and the exact nearest-codeword search for a tile of rows.

The search, of rows r and codewords c about a centre m, works with r' = r - m and c' = c - m. Both are rounded to whole
multiples of a step, R and C of at most 127 * 256 + 127 steps, and written in two int8 digits, R = 256 H + L; for
codebooks, a separate launch does so (`packing.py`). With steps s and t, in units of 256 s t, the score
|c'|^2 / 2 - r'.c' is nearly the integer

    B - (256 H.H + H.L + L.H),    B = |c'|^2 / (512 s t), rounded,

which takes three products of int8. A matrix unit sums integers exactly, so nothing depends on how it rounds. The score
is off by at most

    (0.51 (|C|_1 + |R|_1 + D) + |L_r| |L_c|) / 256 + 2 + 2^-20 |c'|^2 / (512 s t),

where |C|_1, |L_c| and |c'| are the largest in the codebook. The terms are, in order:

1.  Half a step of each value; 0.01 is for the rounding of r - m and c - m, of the products by 1 / s and 1 / t, and of
    the steps themselves.
2.  The product of the low digits, which is left out, by Cauchy-Schwarz.
3.  The rounding of B, which is the product of a whole number and a whole factor, and of these two.

A tile has a single step s: that of its largest |r'|, or larger if needed to keep B below 2^28 and R.C / 256 below 2^29.
So every score and every partial sum is less than 2^30 + 2^15 D, and padding has a larger score.

If the runner-up is within twice the bound of the best, the row is searched again by differencing in float64, among the
codewords that are, or might be, within it.

The runner-up costs no more than the best: minima are kept of each column over the tiles of codewords, and of each tile
over its columns. The best is in the column and in the tile with the least minimum. Any other codeword is in another
column or in another tile, so it shows there if it is within the bound.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from unitok_kernels.ops._triton.packing import LIMITS, STEPS, digits

# The interpreter truncates where it should round to bfloat16, and its products of integers are slow.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

WIDEST = 512  # columns; a tile of wider rows fits neither registers nor shared memory
_NONE = tl.constexpr(2**31 - 1)  # a score beyond every codeword's
_CANDIDATES = tl.constexpr(16)  # candidates of a row that are looked at together


@triton.jit
def load_rows(p_x, i_rows, m_rows, D: tl.constexpr, BD: tl.constexpr):
    """Load rows in float32; zeros beyond D and for masked rows."""
    o_d = tl.arange(0, BD)
    return tl.load(
        p_x + i_rows.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_rows[:, None] & (o_d < D)[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def store_rows(p_x, b_x, i_rows, m_rows, D: tl.constexpr, BD: tl.constexpr):
    """Store rows, rounded to the dtype of the destination."""
    o_d = tl.arange(0, BD)
    mask = m_rows[:, None] & (o_d < D)[None, :]
    tl.store(p_x + i_rows.to(tl.int64)[:, None] * D + o_d[None, :], round_to(b_x, p_x.dtype.element_ty), mask=mask)


@triton.jit
def round_to(b_x, dtype: tl.constexpr):
    """Round float32 to nearest, ties to even; the interpreter's own conversion to bfloat16 truncates."""
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
    """Tell which rows have neither NaN nor infinity."""
    return tl.sum(b_x * 0.0, axis=1) == 0.0


@triton.jit
def search(
    b_r,
    m_rows,
    p_table,
    p_digits,
    p_scales,
    table,
    K,
    D: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
    EXACT: tl.constexpr,
    STATS: tl.constexpr,
):
    """Find the nearest codeword of each row of a tile.

    Args:
        b_r: (BN, BD) float32, zeros beyond D.
        m_rows: (BN,), the rows that count.
        p_table: the codebook, (K, D).
        p_digits: the digits of all codebooks.
        p_scales: the scales of all codebooks.
        table: number of the codebook among them, int64.
        K: codewords.
        D: width.
        BD: width, padded to a power of two, at least 32.
        BN: rows of the tile.
        BK: codewords that are looked at together; the same as when they were packed.
        EVEN: whether K is a multiple of it.
        EXACT: redo searches if the bound requires it; otherwise only if two scores are equal, and the others that
            the bound requires are counted as near ties.
        STATS: also count near ties, which takes a wider margin.

    Returns:
        codes (BN,) int32, redone searches, near ties.
    """
    o_d, o_k = tl.arange(0, BD), tl.arange(0, BK)
    padded = tl.cdiv(K, BK) * BK
    p_limits = p_scales + table * (LIMITS + BD + padded)
    p_halves = p_limits + LIMITS + BD
    p_high = p_digits + table * 2 * padded * BD + o_k[:, None] * BD + o_d[None, :]
    p_low = p_high + tl.cast(padded, tl.int64) * BD
    most_half = tl.load(p_limits)
    most_absolute = tl.load(p_limits + 1)

    b_centred = b_r - tl.load(p_limits + LIMITS + o_d)[None, :]
    farthest = tl.max(tl.abs(b_centred))
    step = tl.maximum(farthest / STEPS, tl.maximum(most_half * 2.0**-28, farthest * most_absolute * 2.0**-37))
    has_digits = (step > 1e-37) & (step < 1e37)
    per_step = tl.where(has_digits, 1.0 / tl.where(has_digits, step, 1.0), 0.0)
    bias_per_half = (most_half * per_step * 4).to(tl.int32)  # times 2^32: 2^30 stands for the largest half
    b_high, b_low, b_absolute, b_low_square = digits(b_centred, -per_step)

    b_columns = tl.full((BN, BK), _NONE, tl.int32)
    b_best = tl.full((BN,), _NONE, tl.int32)
    b_second = tl.full((BN,), _NONE, tl.int32)
    b_tile = tl.zeros((BN,), tl.int32)
    for i_k in range(0, padded, BK):
        b_c_high = tl.load(p_high + tl.cast(i_k, tl.int64) * BD)
        b_c_low = tl.load(p_low + tl.cast(i_k, tl.int64) * BD)
        b_bias = tl.umulhi(tl.load(p_halves + i_k + o_k).to(tl.int32, bitcast=True), bias_per_half)
        b_score = _product(b_high, b_c_high, tl.zeros((BN, BK), tl.int32)) * 256 + b_bias[None, :]
        b_score = _product(b_low, b_c_high, b_score)
        b_score = _product(b_high, b_c_low, b_score)
        if not EVEN:
            b_score = tl.where((i_k + o_k < K)[None, :], b_score, _NONE)
        b_columns = tl.minimum(b_columns, b_score)
        b_least = tl.min(b_score, axis=1)
        b_second = tl.minimum(b_second, tl.maximum(b_best, b_least))
        b_tile = tl.where(b_least < b_best, i_k, b_tile)
        b_best = tl.minimum(b_best, b_least)

    b_bound = 0.51 * (most_absolute + b_absolute.to(tl.float32) + D)
    b_bound = (b_bound + tl.sqrt(b_low_square.to(tl.float32)) * tl.load(p_limits + 2)) / 256
    b_margin = 2.02 * (b_bound + 2.0 + most_half * per_step * 2.0**-20)
    if STATS:  # half the distance in these units; the gap of a near tie is 1e-5 of it
        b_square = tl.sum(b_centred * b_centred, axis=1) * (per_step * (tl.load(p_limits + 3) / 512))
        b_margin += 1.01e-5 * (b_square + tl.abs(b_best.to(tl.float32)) + b_margin)
    m_bounded = tl.where(has_digits, b_margin, float("inf")) < 2.0**29
    b_within = tl.where(m_bounded, b_best + tl.where(m_bounded, b_margin, 0.0).to(tl.int32), _NONE - 1)
    near_ties = tl.full((), 0, tl.int32)
    if not EXACT:
        if STATS:
            _, b_unsure = _only(b_columns, b_second, b_within, BK)
            near_ties += tl.sum((b_unsure & m_rows & (K > 1)).to(tl.int32), axis=0)
        b_within = b_best
    b_column, b_again = _only(b_columns, b_second, b_within, BK)
    b_codes = tl.minimum(b_tile + b_column, K - 1)  # inside the table, whatever the values were
    b_again = b_again & m_rows & (K > 1)
    again = tl.sum(b_again.to(tl.int32), axis=0)
    if not EXACT and STATS:
        near_ties -= again
    o_rows = tl.arange(0, BN)
    left = again
    while left > 0:
        i_row = tl.max(tl.where(b_again, o_rows, -1), axis=0)
        m_row = o_rows == i_row
        b_row = _row(b_r, i_row, BD)
        b_of_row = _row(b_columns, i_row, BK)
        within = tl.min(tl.where(m_row, b_within, _NONE), axis=0)
        code, least, runner_up = _by_differencing(b_row, b_of_row <= within, p_table, K, D, BD, BK)
        near_ties += (runner_up - least < 1e-5 * least).to(tl.int32)
        b_codes = tl.where(m_row, code, b_codes)
        b_again = b_again & (o_rows != i_row)
        left -= 1
    return b_codes, again, near_ties


@triton.jit
def _product(b_rows, b_codewords, b_sum):
    """Add rows . codewords to a sum; the interpreter does so in float32, which is exact for a thousand products."""
    if INTERPRETED:
        return b_sum + tl.dot(b_rows.to(tl.float32), tl.trans(b_codewords).to(tl.float32)).to(tl.int32)
    return tl.dot(b_rows, tl.trans(b_codewords), b_sum, out_dtype=tl.int32)


@triton.jit
def _row(b_x, i_row, BD: tl.constexpr):
    """Take one row of a tile."""
    return tl.reshape(tl.gather(b_x, tl.zeros((1, BD), tl.int32) + i_row, 0), (BD,))


@triton.jit
def _only(b_columns, b_second, b_within, BK: tl.constexpr):
    """Give the column that is within a margin, and whether another column or tile is, too."""
    b_code = tl.where(b_columns <= b_within[:, None], tl.arange(0, BK)[None, :] + BK, 0)
    b_code = tl.sum(b_code, axis=1)
    return b_code & (BK - 1), (b_code >= 2 * BK) | (b_second <= b_within)


@triton.jit
def _by_differencing(b_row, m_columns, p_table, K, D: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr):
    """Find one row's nearest codeword in some columns (the first among ties), and the two least squared distances.

    It takes two columns together, and some tiles at a time.
    """
    o_d, o_k, o_c = tl.arange(0, BD), tl.arange(0, BK), tl.arange(0, _CANDIDATES)
    code = tl.cast(K, tl.int32) - 1
    best = tl.full((), float("inf"), tl.float64)
    second = tl.full((), float("inf"), tl.float64)
    b_left = tl.where(m_columns, o_k, BK)
    column = tl.min(b_left, axis=0)
    while column < BK:
        other = tl.min(tl.where(o_k > column, b_left, BK), axis=0)
        b_column = tl.where(o_c % 2 == 0, column, other)
        for i_k in range(0, K, _CANDIDATES // 2 * BK):
            i_code = i_k + o_c // 2 * BK + b_column
            m_code = (b_column < BK) & (i_code < K)
            p_c = p_table + i_code.to(tl.int64)[:, None] * D + o_d[None, :]
            b_c = tl.load(p_c, mask=m_code[:, None] & (o_d < D)[None, :], other=0.0)
            b_difference = b_row.to(tl.float64)[None, :] - b_c.to(tl.float64)
            b_distance = tl.sum(b_difference * b_difference, axis=1)
            b_distance = tl.where(m_code & (b_distance < float("inf")), b_distance, float("inf"))
            least = tl.min(b_distance, axis=0)
            found = tl.min(tl.where((b_distance == least) & m_code, i_code, K - 1), axis=0)
            next_best = tl.min(tl.where(i_code == found, float("inf"), b_distance), axis=0)
            second = tl.minimum(tl.minimum(second, next_best), tl.maximum(best, least))
            code = tl.where((least < best) | ((least == best) & (found < code)), found, code)
            best = tl.minimum(best, least)
        b_left = tl.where(o_k > other, b_left, BK)
        column = tl.min(b_left, axis=0)
    return code, best, second
