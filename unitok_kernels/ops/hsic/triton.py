"""HSIC and its gradient on a GPU, in tiles: a program takes some rows of a segment and goes through the segment.

With row sums u, v of the kernel matrices U, V and H = I - 11'/n,
    trace(U H V H) = sum U V - 2/n sum_i u_i v_i + (sum u)(sum v)/n^2,
so that one pass over tiles of both matrices gives all values. The gradient in z_i is -2/sigma^2 sum_j A_ij (z_i - z_j)
with A = (HUH) * V, and takes a second pass, since HUH needs u. Both passes are in double precision: if rows are far
from their mean but near each other, or the kernel is nearly constant, single precision has no correct digit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.grouping import group_rows
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops.common import finite_rows, wide
from unitok_kernels.ops.hsic.reference import check_data

_MEDIAN_ROWS = 1024
_MEDIAN_SEGMENTS = 8  # segments whose distances are in memory together
_SUMS = tl.constexpr(5)  # of a row: U, V, U V, U U, V V
_FACTS = tl.constexpr(3)  # of a segment, for the gradient: share, mean of U - share V, factor


@triton.jit
def _take(p_order, first, end, BN: tl.constexpr):
    """Take the next places of a segment: the places, which of them exist, and the rows that are in them."""
    i_places = tl.cast(first, tl.int64) + tl.arange(0, BN)
    m_rows = i_places < end
    return i_places, m_rows, tl.load(p_order + i_places, mask=m_rows, other=-1)


@triton.jit
def _mean(p_x, p_order, p_starts, p_means, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """mean_sd = sum of a segment's rows / their number."""
    segment, o_d = tl.program_id(0), tl.program_id(1) * BD + tl.arange(0, BD)
    start, end = tl.load(p_starts + segment), tl.load(p_starts + segment + 1)
    b_sum = tl.zeros((BD,), tl.float64)
    for first in range(start, end, BN):
        _, m_rows, i_rows = _take(p_order, first, end, BN)
        mask = m_rows[:, None] & (o_d < D)[None, :]
        b_x = tl.load(p_x + i_rows[:, None] * D + o_d[None, :], mask=mask, other=0.0)
        b_sum += tl.sum(b_x.to(tl.float64), axis=0)
    count = tl.maximum(end - start, 1).to(tl.float64)
    tl.store(p_means + tl.cast(segment, tl.int64) * D + o_d, b_sum / count, mask=o_d < D)


@triton.jit
def _median_distances(
    p_x, p_order, p_starts, p_squared, first_segment, most,
    D: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """|x_i - x_j|^2 of evenly spaced rows of a segment, by differencing; infinity if it is 0 or i >= j."""
    segment = first_segment + tl.program_id(2)
    start, end = tl.load(p_starts + segment), tl.load(p_starts + segment + 1)
    stride = tl.maximum((end - start + most - 1) // most, 1)
    i, j = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) * BM + tl.arange(0, BM)
    m_i, m_j = start + i * stride < end, start + j * stride < end
    i_rows = tl.load(p_order + start + i * stride, mask=m_i, other=0) * D
    i_columns = tl.load(p_order + start + j * stride, mask=m_j, other=0) * D
    b_squared = tl.zeros((BN, BM), tl.float32)
    if tl.program_id(0) * BN < (tl.program_id(1) + 1) * BM:
        for d in range(D):
            b_i = tl.load(p_x + i_rows + d, mask=m_i, other=0.0)
            b_j = tl.load(p_x + i_columns + d, mask=m_j, other=0.0)
            b_difference = b_i[:, None] - b_j[None, :]
            b_squared += b_difference * b_difference
    m_pair = m_i[:, None] & m_j[None, :] & (i[:, None] < j[None, :]) & (b_squared > 0)
    o_squared = (tl.cast(tl.program_id(2), tl.int64) * most + i[:, None]) * most + j[None, :]
    mask = (i < most)[:, None] & (j < most)[None, :]
    tl.store(p_squared + o_squared, tl.where(m_pair, b_squared, float("inf")), mask=mask)


@triton.jit
def _load_rows(p_x, p_mean, i_rows, m_rows, i_d, D: tl.constexpr, BD: tl.constexpr):
    """Load some columns of rows in float64, minus their segment's mean; zeros where masked."""
    o_d = i_d + tl.arange(0, BD)
    m_x = m_rows[:, None] & (o_d < D)[None, :]
    b_x = tl.load(p_x + i_rows[:, None] * D + o_d[None, :], mask=m_x, other=0.0).to(tl.float64)
    return tl.where(m_x, b_x - tl.load(p_mean + o_d, mask=o_d < D, other=0.0)[None, :], 0.0)


@triton.jit
def _gaussian(
    p_x, p_mean, factor, i_rows, m_rows, i_columns, m_columns,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """exp(factor |x_i - x_j|^2) of a tile, (BN, BM) float64; 0 for masked rows."""
    b_products = tl.zeros((BN, BM), tl.float64)
    b_row_norms, b_column_norms = tl.zeros((BN,), tl.float64), tl.zeros((BM,), tl.float64)
    for i_d in range(0, D, BD):
        b_i = _load_rows(p_x, p_mean, i_rows, m_rows, i_d, D, BD)
        b_j = _load_rows(p_x, p_mean, i_columns, m_columns, i_d, D, BD)
        b_products = tl.dot(b_i, tl.trans(b_j), b_products, out_dtype=tl.float64)
        b_row_norms += tl.sum(b_i * b_i, axis=1)
        b_column_norms += tl.sum(b_j * b_j, axis=1)
    b_squared = tl.maximum(b_row_norms[:, None] + b_column_norms[None, :] - 2 * b_products, 0.0)
    b_squared = tl.where(i_rows[:, None] == i_columns[None, :], 0.0, b_squared)
    return tl.where(m_rows[:, None] & m_columns[None, :], tl.exp(factor * b_squared), 0.0)


@triton.jit
def _row_sums(
    p_x, p_z, p_x_means, p_z_means, p_x_variances, p_z_variances, p_order, p_starts, p_tile_starts, p_tile_segments,
    p_sums, N, S, DX: tl.constexpr, BDX: tl.constexpr, DZ: tl.constexpr, BDZ: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """The sums over j of U_ij, V_ij, U_ij V_ij, U_ij^2 and V_ij^2; (_SUMS, N) in the order of rows by segment."""
    tile = tl.program_id(0)
    segment = tl.load(p_tile_segments + tile)
    if segment < S:
        start, end = tl.load(p_starts + segment), tl.load(p_starts + segment + 1)
        first_row = start + (tile - tl.load(p_tile_starts + segment)) * BN
        i_places, m_rows, i_rows = _take(p_order, first_row, end, BN)
        x_factor, z_factor = -0.5 / tl.load(p_x_variances + segment), -0.5 / tl.load(p_z_variances + segment)
        p_x_mean, p_z_mean = p_x_means + segment * DX, p_z_means + segment * DZ
        b_u, b_v = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64)
        b_uv, b_uu, b_vv = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64)
        for first in range(start, end, BM):
            _, m_columns, i_columns = _take(p_order, first, end, BM)
            u = _gaussian(p_x, p_x_mean, x_factor, i_rows, m_rows, i_columns, m_columns, DX, BDX, BN, BM)
            v = _gaussian(p_z, p_z_mean, z_factor, i_rows, m_rows, i_columns, m_columns, DZ, BDZ, BN, BM)
            b_u += tl.sum(u, axis=1)
            b_v += tl.sum(v, axis=1)
            b_uv += tl.sum(u * v, axis=1)
            if NORMALISED:
                b_uu += tl.sum(u * u, axis=1)
                b_vv += tl.sum(v * v, axis=1)
        tl.store(p_sums + i_places, b_u, mask=m_rows)
        tl.store(p_sums + tl.cast(N, tl.int64) + i_places, b_v, mask=m_rows)
        tl.store(p_sums + tl.cast(N, tl.int64) * 2 + i_places, b_uv, mask=m_rows)
        tl.store(p_sums + tl.cast(N, tl.int64) * 3 + i_places, b_uu, mask=m_rows)
        tl.store(p_sums + tl.cast(N, tl.int64) * 4 + i_places, b_vv, mask=m_rows)


@triton.jit
def _centred(products, cross, sum_a, sum_b, count):
    """trace(A H B H) from the sums; exactly 0 if it is nothing but rounding."""
    value = products - 2 * (cross / count) + (sum_a / count) * (sum_b / count)
    return tl.where(tl.abs(value) <= 1e-13 * tl.abs(products), 0.0, value)


@triton.jit
def _values(p_sums, p_starts, p_z_variances, p_values, p_facts, N, NORMALISED: tl.constexpr, BN: tl.constexpr):
    """The value of a segment, and the facts about it that the gradient needs."""
    segment = tl.program_id(0)
    start, end = tl.load(p_starts + segment), tl.load(p_starts + segment + 1)
    b_sum_u, b_sum_v, b_cross_uv = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64)
    b_cross_uu, b_cross_vv = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64)
    b_uv, b_uu, b_vv = tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64), tl.zeros((BN,), tl.float64)
    for first in range(start, end, BN):
        i_places = tl.cast(first, tl.int64) + tl.arange(0, BN)
        m_rows = i_places < end
        b_u = tl.load(p_sums + i_places, mask=m_rows, other=0.0)
        b_v = tl.load(p_sums + tl.cast(N, tl.int64) + i_places, mask=m_rows, other=0.0)
        b_uv += tl.load(p_sums + tl.cast(N, tl.int64) * 2 + i_places, mask=m_rows, other=0.0)
        b_uu += tl.load(p_sums + tl.cast(N, tl.int64) * 3 + i_places, mask=m_rows, other=0.0)
        b_vv += tl.load(p_sums + tl.cast(N, tl.int64) * 4 + i_places, mask=m_rows, other=0.0)
        b_sum_u += b_u
        b_sum_v += b_v
        b_cross_uv += b_u * b_v
        b_cross_uu += b_u * b_u
        b_cross_vv += b_v * b_v
    count = tl.maximum(end - start, 2).to(tl.float64)
    sum_u, sum_v = tl.sum(b_sum_u, axis=0), tl.sum(b_sum_v, axis=0)
    value = _centred(tl.sum(b_uv, axis=0), tl.sum(b_cross_uv, axis=0), sum_u, sum_v, count)
    scale = (count - 1) * (count - 1)
    share = value * 0
    if NORMALISED:
        own_u = _centred(tl.sum(b_uu, axis=0), tl.sum(b_cross_uu, axis=0), sum_u, sum_u, count)
        own_v = _centred(tl.sum(b_vv, axis=0), tl.sum(b_cross_vv, axis=0), sum_v, sum_v, count)
        scale = tl.sqrt(tl.maximum(own_u, 0.0)) * tl.sqrt(tl.maximum(own_v, 0.0))
        scale = tl.where(scale > 0, scale, 1.0)  # all rows equal: HSIC is 0, and so is its share
        share = tl.where(own_v > 0, value / tl.where(own_v > 0, own_v, 1.0), 0.0)
    there = end - start >= 2
    tl.store(p_values + segment, tl.where(there, value / scale, 0.0).to(tl.float32))
    p_fact = p_facts + tl.cast(segment, tl.int64) * _FACTS
    tl.store(p_fact, share)
    tl.store(p_fact + 1, (sum_u - share * sum_v) / count / count)
    tl.store(p_fact + 2, tl.where(there, -2 / (tl.load(p_z_variances + segment) * scale), 0.0))


@triton.jit
def _pull(
    p_x, p_z, p_x_means, p_z_means, p_x_variances, p_z_variances, p_order, p_starts, p_tile_starts, p_tile_segments,
    p_sums, p_facts, p_pull, N, S, DX: tl.constexpr, BDX: tl.constexpr, DZ: tl.constexpr, BDZ: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, BZ: tl.constexpr,
):  # fmt: skip
    """pull_i = factor sum_j A_ij (z_i - z_j), A = H (U - share V) H * V, in some columns of z."""
    tile = tl.program_id(0)
    segment = tl.load(p_tile_segments + tile)
    if segment < S:
        start, end = tl.load(p_starts + segment), tl.load(p_starts + segment + 1)
        first_row = start + (tile - tl.load(p_tile_starts + segment)) * BN
        i_places, m_rows, i_rows = _take(p_order, first_row, end, BN)
        x_factor, z_factor = -0.5 / tl.load(p_x_variances + segment), -0.5 / tl.load(p_z_variances + segment)
        p_x_mean, p_z_mean = p_x_means + segment * DX, p_z_means + segment * DZ
        p_fact, p_v = p_facts + segment * _FACTS, p_sums + tl.cast(N, tl.int64)
        share, mean, factor = tl.load(p_fact), tl.load(p_fact + 1), tl.load(p_fact + 2)
        inverse = 1 / (end - start).to(tl.float64)
        b_row = tl.load(p_sums + i_places, mask=m_rows, other=0.0)
        b_row = (b_row - share * tl.load(p_v + i_places, mask=m_rows, other=0.0)) * inverse - mean
        i_d = tl.program_id(1) * BZ
        b_weights, b_pull = tl.zeros((BN,), tl.float64), tl.zeros((BN, BZ), tl.float64)
        for first in range(start, end, BM):
            j_places, m_columns, i_columns = _take(p_order, first, end, BM)
            b_column = tl.load(p_sums + j_places, mask=m_columns, other=0.0)
            b_column = (b_column - share * tl.load(p_v + j_places, mask=m_columns, other=0.0)) * inverse
            u = _gaussian(p_x, p_x_mean, x_factor, i_rows, m_rows, i_columns, m_columns, DX, BDX, BN, BM)
            v = _gaussian(p_z, p_z_mean, z_factor, i_rows, m_rows, i_columns, m_columns, DZ, BDZ, BN, BM)
            b_a = (u - share * v - b_row[:, None] - b_column[None, :]) * v
            b_z = _load_rows(p_z, p_z_mean, i_columns, m_columns, i_d, DZ, BZ)
            b_weights += tl.sum(b_a, axis=1)
            b_pull = tl.dot(b_a, b_z, b_pull, out_dtype=tl.float64)
        b_own = _load_rows(p_z, p_z_mean, i_rows, m_rows, i_d, DZ, BZ)
        b_pull = factor * (b_weights[:, None] * b_own - b_pull)
        o_d = i_d + tl.arange(0, BZ)
        mask = m_rows[:, None] & (o_d < DZ)[None, :]
        tl.store(p_pull + i_rows[:, None] * DZ + o_d[None, :], b_pull.to(tl.float32), mask=mask)


def _means(x: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Give each segment's mean row, in float64."""
    segments, width = starts.shape[0] - 1, x.shape[1]
    means = x.new_empty(segments, width, dtype=torch.float64)
    config = configs.SUMS
    grid = (segments, triton.cdiv(width, 32))
    launch(_mean, grid, x, order, starts, means, config=config, D=width, BD=32, BN=64)
    return means


def _variances(x: Tensor, order: Tensor, starts: Tensor, bandwidth: float | None) -> Tensor:
    """Give each segment's squared bandwidth: as given, or the lower median of positive distances, or 1."""
    (rows, width), segments = x.shape, starts.shape[0] - 1
    if bandwidth is not None:
        return x.new_full((segments,), bandwidth**2, dtype=torch.float64)
    # A graph for any number of rows needs room for the most.
    most = _MEDIAN_ROWS if isinstance(rows, torch.SymInt) else max(min(rows, _MEDIAN_ROWS), 1)
    config = configs.distances(target_of(x), most, most)
    tiles = triton.cdiv(most, config.block_rows), triton.cdiv(most, config.block_columns)
    medians = []
    for first in range(0, segments, _MEDIAN_SEGMENTS):
        some = min(_MEDIAN_SEGMENTS, segments - first)
        squared = x.new_empty(some, most * most, dtype=torch.float32)
        launch(
            _median_distances, (*tiles, some), x, order, starts, squared, first, most,
            config=config, D=width, BN=config.block_rows, BM=config.block_columns,
        )  # fmt: skip
        pairs = (squared < torch.inf).sum(1, keepdim=True)
        median = squared.sort(1).values.gather(1, (pairs - 1).clamp(min=0) // 2)
        medians.append(torch.where(pairs > 0, median, 1.0))
    return torch.cat(medians).squeeze(1).double()


def hsic(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    num_segments: int,
    bandwidth: float | None,
    normalised: bool,
    with_gradient: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels."""
    if checks.reads_data(check_finite, z):
        check_data(x, z, segments, num_segments)
    x, z = wide(x), wide(z)  # once, not at each load; and Triton 3.6 has no float64 product of values loaded as halves
    (rows, x_width), z_width = x.shape, z.shape[1]
    keys = torch.where(finite_rows(x) & finite_rows(z), segments, -1)
    order, starts = group_rows(keys, num_segments)
    target = target_of(z)
    config = configs.kernel_matrices(target, rows)
    block_rows = config.block_rows
    tiles = triton.cdiv(rows, block_rows) + num_segments  # at most: a segment's last tile may be short
    tile_ends = ((starts.diff() + block_rows - 1) // block_rows).cumsum(0)
    tile_segments = torch.searchsorted(tile_ends, torch.arange(tiles, device=z.device), right=True)
    tile_starts = tile_ends - (starts.diff() + block_rows - 1) // block_rows

    x_variances, z_variances = (_variances(values, order, starts, bandwidth) for values in (x, z))
    data = (
        x, z, _means(x, order, starts), _means(z, order, starts), x_variances, z_variances,
        order, starts, tile_starts, tile_segments,
    )  # fmt: skip
    sizes = {
        "DX": x_width, "BDX": configs.depth(target, x_width), "DZ": z_width, "BDZ": configs.depth(target, z_width),
        "BN": block_rows, "BM": config.block_columns,
    }  # fmt: skip
    sums = z.new_empty(_SUMS.value, rows, dtype=torch.float64)
    values = z.new_empty(num_segments, dtype=torch.float32)
    facts = z.new_empty(num_segments, _FACTS.value, dtype=torch.float64)
    pull = z.new_zeros(rows if with_gradient else 0, z_width, dtype=torch.float32)
    launch(_row_sums, (tiles,), *data, sums, rows, num_segments, config=config, **sizes, NORMALISED=normalised)
    launch(
        _values, (num_segments,), sums, starts, z_variances, values, facts, rows,
        config=configs.SUMS, NORMALISED=normalised, BN=256,
    )  # fmt: skip
    if with_gradient:
        columns = min(configs.power_of_two(z_width), 32)
        grid = (tiles, triton.cdiv(z_width, columns))
        launch(_pull, grid, *data, sums, facts, pull, rows, num_segments, config=config, **sizes, BZ=columns)
    return values, pull
