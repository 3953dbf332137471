"""Straight-through chains on a GPU: a launch walks them, and two more sum by codeword if that is wanted."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.segments import Segments, add_slots, cut, slot_rows
from unitok_kernels.ops._triton.tiles import load_rows, store_rows
from unitok_kernels.ops.residual_straight_through import reference

_SHORTEST = tl.constexpr(reference.SHORTEST)


@triton.jit
def _length(b_x):
    return tl.maximum(tl.sqrt(tl.sum(b_x * b_x, axis=1)), _SHORTEST)


@triton.jit
def _take(
    b_r, p_codes, p_tables, p_keys, p_lengths, i_rows, m_rows, level, N, K, L,
    D: tl.constexpr, BD: tl.constexpr, COSINE: tl.constexpr, KEEPS: tl.constexpr,
):  # fmt: skip
    """Give a level's x and |r|, its codewords and which rows have one; keep what is needed to compute x again.

    p_keys: (L, N) int64, level K + code, or -1 without a code. p_lengths: (L, N) float32, |r|.
    """
    b_codes = tl.load(p_codes + i_rows * L + level, mask=m_rows, other=-1)
    m_named = (b_codes >= 0) & (b_codes < K)
    b_keys = level * K + b_codes
    b_x = b_r
    b_length = _length(b_r)
    if COSINE:
        b_x = b_r / b_length[:, None]
    if KEEPS:
        i_kept = tl.cast(level, tl.int64) * N + i_rows
        tl.store(p_keys + i_kept, tl.where(m_named, b_keys, -1), mask=m_rows)
        if COSINE:
            tl.store(p_lengths + i_kept, b_length, mask=m_rows)
    return b_x, b_length, load_rows(p_tables, b_keys, m_named, D, BD), m_named


@triton.jit
def _walk(
    p_z, p_codes, p_tables, p_quantized, p_keys, p_lengths, p_parts, N, K, L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, COSINE: tl.constexpr, KEEPS: tl.constexpr,
):  # fmt: skip
    """r_0 = z;  x_l = r_l, or r_l / |r_l|;  r_{l+1} = r_l - q_l;  quantized = sum_l q_l.

    p_parts: (programs, L) float64, the sums of |x_l - q_l|^2.
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    i_rows = program * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_r = load_rows(p_z, i_rows, m_rows, D, BD)
    b_sum = tl.zeros((BN, BD), tl.float32)
    for level in range(L):
        b_x, _, b_q, m_named = _take(
            b_r, p_codes, p_tables, p_keys, p_lengths, i_rows, m_rows, level, N, K, L, D, BD, COSINE, KEEPS
        )
        b_error = tl.where(m_named[:, None], b_x - b_q, 0.0)
        b_squares = tl.sum(b_error * b_error, axis=1).to(tl.float64)
        tl.store(p_parts + program * L + level, tl.sum(b_squares, axis=0))
        b_sum += b_q
        b_r -= b_q
    store_rows(p_quantized, b_sum, i_rows, m_rows, D, BD)


@triton.jit
def _walk_back(
    p_gradient, p_pulls, p_z, p_codes, p_tables, p_by_z, p_keys, p_lengths, N, K, L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    STRAIGHT: tl.constexpr, ROTATION: tl.constexpr, COSINE: tl.constexpr, KEEPS: tl.constexpr,
):  # fmt: skip
    """by_z = sum_l J_l^T (pull_l (x_l - q_l) + T_l^T g), J_l of r -> x_l, T_l of x_l -> the estimate of q_l.

    T^T g of the rotation is s (g + 2 (v.g) u - 2 (w.g) w): u, v, w the directions of x, q and u + v, s = |q| / |x|.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_g = load_rows(p_gradient, i_rows, m_rows, D, BD)
    b_r = load_rows(p_z, i_rows, m_rows, D, BD)
    b_by_z = tl.zeros((BN, BD), tl.float32)
    for level in range(L):
        b_x, b_length, b_q, m_named = _take(
            b_r, p_codes, p_tables, p_keys, p_lengths, i_rows, m_rows, level, N, K, L, D, BD, COSINE, KEEPS
        )
        b_pull = tl.load(p_pulls + level) * (b_x - b_q)
        if STRAIGHT:
            b_pull += b_g
        if ROTATION:
            b_x_length, b_q_length = _length(b_x), tl.sqrt(tl.sum(b_q * b_q, axis=1))
            b_u = b_x / b_x_length[:, None]
            b_v = b_q / tl.maximum(b_q_length, _SHORTEST)[:, None]
            b_between = b_u + b_v
            b_halfway = _length(b_between)
            b_along = 2.0 * tl.sum(b_v * b_g, axis=1)
            b_across = 2.0 * tl.sum(b_between * b_g, axis=1) / (b_halfway * b_halfway)
            b_turned = b_g + b_along[:, None] * b_u - b_across[:, None] * b_between
            b_pull += (b_q_length / b_x_length)[:, None] * b_turned
        if COSINE:
            b_pull = (b_pull - tl.sum(b_x * b_pull, axis=1)[:, None] * b_x) / b_length[:, None]
        b_by_z += tl.where(m_named[:, None], b_pull, 0.0)
        b_r -= b_q
    store_rows(p_by_z, b_by_z, i_rows, m_rows, D, BD)


@triton.jit
def _add_up(
    p_z, p_keys, p_tables, p_lengths, p_gradient, p_pulls, p_order, p_starts, p_owners, p_parts, N, K,
    D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    COSINE: tl.constexpr, LEARNS: tl.constexpr, UPSTREAM: tl.constexpr,
):  # fmt: skip
    """parts_s = sum of x_l, or of g - pull_l (x_l - q_l), over the rows of slot s, all of one codeword of level l."""
    slot = tl.cast(tl.program_id(0), tl.int64)
    o_n = tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    key, begin, end = slot_rows(p_starts, p_owners, slot)
    level = key.to(tl.int32) // K
    b_sum = tl.full((BN, BD), 0.0, tl.float64)
    for i_n in range(begin, end, BN):
        m_n = i_n + o_n < end
        i_rows = tl.load(p_order + i_n + o_n, mask=m_n, other=0)
        mask = m_n[:, None] & (o_d < D)[None, :]
        i_values = i_rows[:, None] * D + o_d[None, :]
        b_x = tl.load(p_z + i_values, mask=mask, other=0.0).to(tl.float32)
        for before in range(level):
            b_keys = tl.load(p_keys + tl.cast(before, tl.int64) * N + i_rows, mask=m_n, other=-1)
            m_c = mask & (b_keys >= 0)[:, None]
            b_x -= tl.load(p_tables + b_keys[:, None] * D + o_d[None, :], mask=m_c, other=0.0).to(tl.float32)
        if COSINE:
            b_x /= tl.load(p_lengths + tl.cast(level, tl.int64) * N + i_rows, mask=m_n, other=1.0)[:, None]
        if LEARNS:
            b_q = tl.load(p_tables + key * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
            b_x = tl.load(p_pulls + level) * tl.where(mask, b_q[None, :] - b_x, 0.0)
            if UPSTREAM:
                b_x += tl.load(p_gradient + i_values, mask=mask, other=0.0).to(tl.float32)
        b_sum += b_x.to(tl.float64)
    tl.store(p_parts + slot * D + o_d, tl.sum(b_sum, axis=0), mask=o_d < D)


def residual_straight_through(
    z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str, cosine: bool, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels; inputs aren't kept, but computed again where they are summed."""
    (rows, width), (levels, size, _) = z.shape, codebooks.shape
    config = configs.rowwise(target_of(z), 2 * width)  # a row and its codeword
    programs = triton.cdiv(rows, config.block_rows)
    quantized = torch.empty_like(z)
    parts = z.new_empty(programs, levels, dtype=torch.float64)
    keys, lengths = _kept(codes, cosine, statistics)
    launch(
        _walk, (programs,), z, codes, codebooks, quantized, keys, lengths, parts, rows, size, levels,
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows, COSINE=cosine, KEEPS=statistics,
    )  # fmt: skip
    errors = (parts.sum(0) / reference.compared(codes, codebooks)).float()
    if not statistics:
        return quantized, errors, parts.new_empty(0, dtype=torch.float32), codes.new_empty(0)
    segments = cut(keys, levels * size)
    sums = _sums(z, codebooks, keys, lengths, segments, z, parts, cosine, False, False)
    return quantized, errors, sums, segments.starts.diff().view(levels, size)


def residual_straight_through_backward(
    gradient: Tensor,
    by_error: Tensor,
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    estimator: str,
    cosine: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels: the chain is walked again, and again by codeword."""
    (rows, width), (levels, size, _) = z.shape, codebooks.shape
    config = configs.rowwise(target_of(z), 4 * width)  # a row, its codeword, two gradients
    pulls = reference.pulls(by_error, codes, codebooks)
    by_z = torch.empty_like(z)
    keys, lengths = _kept(codes, cosine, learns)
    launch(
        _walk_back, (triton.cdiv(rows, config.block_rows),),
        gradient, pulls, z, codes, codebooks, by_z, keys, lengths, rows, size, levels,
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
        STRAIGHT=estimator == "straight", ROTATION=estimator == "rotation", COSINE=cosine, KEEPS=learns,
    )  # fmt: skip
    if not learns:
        return by_z, codebooks.new_empty(0)
    segments = cut(keys, levels * size)
    sums = _sums(z, codebooks, keys, lengths, segments, gradient, pulls, cosine, True, estimator == "none")
    return by_z, sums.to(codebooks.dtype)


def _kept(codes: Tensor, cosine: bool, keeps: bool) -> tuple[Tensor, Tensor]:
    """Make room for keys and lengths, if they are wanted."""
    shape = codes.shape[1], codes.shape[0]
    lengths = codes.new_empty(shape if keeps and cosine else 0, dtype=torch.float32)
    return codes.new_empty(shape if keeps else 0), lengths


def _sums(
    z: Tensor,
    codebooks: Tensor,
    keys: Tensor,
    lengths: Tensor,
    segments: Segments,
    gradient: Tensor,
    pulls: Tensor,
    cosine: bool,
    learns: bool,
    upstream: bool,
) -> Tensor:
    """Sum by codeword; (L, K, D) float32."""
    _, size, width = codebooks.shape
    config = configs.segments(target_of(z), width)
    parts = segments.sums(width)
    launch(
        _add_up, (len(parts), triton.cdiv(width, config.block_columns)),
        z, keys, codebooks, lengths, gradient, pulls, *segments, parts, len(z), size,
        config=config, D=width, BN=config.block_rows // 2, BD=config.block_columns,
        COSINE=cosine, LEARNS=learns, UPSTREAM=upstream,
    )  # fmt: skip
    return add_slots(parts, segments, 1.0, 1, config).view(codebooks.shape)
