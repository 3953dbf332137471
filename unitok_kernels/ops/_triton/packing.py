"""Codebooks as the matrix units take them: two int8 digits of each value about a centre, made by one small launch.

With m near the codewords' mean, c' = c - m is rounded to whole steps of t, the largest |c'| divided by STEPS. The steps
are written in two digits, C = 256 H + L. `tiles.py` explains how a search uses them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.configs import Config
from unitok_kernels.ops._triton.launch import launch, target_of

STEPS = tl.constexpr(127 * 256 + 127.0)
CENTRED = tl.constexpr(16)  # codewords whose mean is the centre; the search is correct about any centre
LIMITS = tl.constexpr(16)  # places for what a search must know about a whole codebook; four are used
_LEAST, _MOST = tl.constexpr(1e-30), tl.constexpr(1e30)  # range of the largest |c'| that digits are made for


class Packed(NamedTuple):
    """Codebooks (T, K, D) as searches read them.

    Attributes:
        digits: (T, 2, padded K, padded D) int8: high digits, low digits.
        scales: (T, LIMITS + padded D + padded K) float32: the limits, which are the largest |c'|^2 / (512 t), |C|_1 and
            |L|, and 1 / t; the centre; per codeword the bits of an integer, |c'|^2 scaled so that the largest is 2^30.
    """

    digits: Tensor
    scales: Tensor


@triton.jit
def _load_centred(p_table, b_centre, i_k, K, D: tl.constexpr, BD: tl.constexpr):
    """Load codewords minus the centre, and tell which exist and are finite."""
    o_d = tl.arange(0, BD)
    mask = (i_k < K)[:, None] & (o_d < D)[None, :]
    b_c = tl.load(p_table + i_k.to(tl.int64)[:, None] * D + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
    b_c = tl.where(mask, b_c - b_centre[None, :], 0.0)
    return b_c, (tl.sum(b_c * 0.0, axis=1) == 0.0) & (i_k < K)


@triton.jit
def _pack(
    p_tables, p_digits, p_scales, K,
    D: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Pack a codebook per program, BN codewords at a time.

    A codeword that isn't finite is replaced by the last one that is: rows for which it might be nearest are searched
    again by differencing, which leaves it out.
    """
    table = tl.cast(tl.program_id(0), tl.int64)
    padded = tl.cdiv(K, BK) * BK
    p_table = p_tables + table * K * D
    p_high = p_digits + table * 2 * padded * BD
    p_limits = p_scales + table * (LIMITS + BD + padded)
    p_centre = p_limits + LIMITS
    p_halves = p_centre + BD
    o_d, o_n = tl.arange(0, BD), tl.arange(0, BN)
    i_centred = tl.arange(0, CENTRED).to(tl.int64) * K // CENTRED
    b_some = tl.load(p_table + i_centred[:, None] * D + o_d[None, :], mask=(o_d < D)[None, :], other=0.0)
    b_some = b_some.to(tl.float32)
    b_centre = tl.sum(tl.where(tl.abs(b_some) < float("inf"), b_some / CENTRED, 0.0), axis=0)
    tl.store(p_centre + o_d, b_centre)

    b_farthest = tl.zeros((BN,), tl.float32)
    b_last = tl.zeros((BN,), tl.int32)
    for i_k in range(0, K, BN):
        b_c, m_found = _load_centred(p_table, b_centre, i_k + o_n, K, D, BD)
        b_farthest = tl.maximum(b_farthest, tl.where(m_found, tl.max(tl.abs(b_c), axis=1), 0.0))
        b_last = tl.where(m_found, i_k + o_n, b_last)
    farthest = tl.max(b_farthest, axis=0)
    has_digits = (farthest > _LEAST) & (farthest < _MOST)
    per_step = tl.where(has_digits, STEPS / tl.where(has_digits, farthest, 1.0), 0.0)

    last = tl.max(b_last, axis=0).to(tl.int64)
    b_stand_in = tl.load(p_table + last * D + o_d, mask=o_d < D, other=0.0).to(tl.float32) - b_centre
    b_most_half = tl.zeros((BN,), tl.float32)
    b_most_absolute = tl.zeros((BN,), tl.int32)
    b_most_low = tl.zeros((BN,), tl.int32)
    for i_k in range(0, padded, BN):
        b_c, m_found = _load_centred(p_table, b_centre, i_k + o_n, K, D, BD)
        b_c = tl.where(m_found[:, None], b_c, b_stand_in[None, :])
        b_high, b_low, b_absolute, b_low_square = digits(b_c, per_step)
        b_square = tl.sum(b_c.to(tl.float64) * b_c.to(tl.float64), axis=1)
        b_half = (b_square * per_step.to(tl.float64) * (1 / 512)).to(tl.float32)
        b_most_half = tl.maximum(b_most_half, b_half)
        b_most_absolute = tl.maximum(b_most_absolute, b_absolute)
        b_most_low = tl.maximum(b_most_low, b_low_square)
        o_digits = tl.cast(i_k, tl.int64) * BD + o_n[:, None] * BD + o_d[None, :]
        m_k = i_k + o_n < padded
        tl.store(p_high + o_digits, b_high, mask=m_k[:, None])
        tl.store(p_high + tl.cast(padded, tl.int64) * BD + o_digits, b_low, mask=m_k[:, None])
        tl.store(p_halves + i_k + o_n, b_half, mask=m_k)
    # If digits can't tell codewords apart, no bound holds, and every search is redone.
    absolute = tl.where(has_digits, tl.max(b_most_absolute, axis=0).to(tl.float32), float("inf"))
    most_half = tl.max(b_most_half, axis=0)
    tl.store(p_limits, most_half)
    tl.store(p_limits + 1, absolute)
    tl.store(p_limits + 2, tl.sqrt(tl.max(b_most_low, axis=0).to(tl.float32)))
    tl.store(p_limits + 3, per_step)

    tl.debug_barrier()  # other threads read the halves than wrote them
    share = tl.where(most_half > 0.0, 2.0**30 / tl.where(most_half > 0.0, most_half, 1.0), 0.0)
    for i_k in range(0, padded, BN):
        m_k = i_k + o_n < padded
        b_whole = (tl.load(p_halves + i_k + o_n, mask=m_k, other=0.0) * share + 0.5).to(tl.int32)
        tl.store(p_halves + i_k + o_n, b_whole.to(tl.float32, bitcast=True), mask=m_k)


@triton.jit
def digits(b_x, per_step):
    """Write x in steps: high and low digits (., BD) int8; per row, the sum of |steps| and that of squared low digits.

    |x| is at most STEPS steps. Adding it to 1.5 * 2^23 rounds it to whole steps, which are then the low bits.
    """
    b_steps = (b_x * per_step + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
    b_high = (b_steps + 128) >> 8
    b_low = b_steps - 256 * b_high
    absolute = tl.sum(tl.abs(b_steps), axis=1)
    return b_high.to(tl.int8), b_low.to(tl.int8), absolute, tl.sum(b_low * b_low, axis=1)


def pack(codebooks: Tensor, config: Config) -> Packed:
    """Launch the kernel for all codebooks at once.

    Args:
        codebooks: (..., K, D).
        config: of the search that will read them.

    Returns:
        Packed: with one place for each (K, D), in memory order.
    """
    *_, codewords, width = codebooks.shape
    tables = codebooks.numel() // (codewords * width)
    padded_width = configs.power_of_two(width, 32)
    padded = triton.cdiv(codewords, config.block_columns) * config.block_columns
    places = codebooks.new_empty(tables, 2, padded, padded_width, dtype=torch.int8)
    scales = codebooks.new_empty(tables, LIMITS.value + padded_width + padded, dtype=torch.float32)
    tiles = configs.packing(target_of(codebooks), width)
    launch(
        _pack, (tables,), codebooks, places, scales, codewords, config=tiles, D=width, BD=padded_width,
        BK=config.block_columns, BN=tiles.block_rows,
    )  # fmt: skip
    return Packed(places, scales)
