"""Lloyd's k-means on a GPU, without asking the device for anything until it is done.

The start of k-means++ takes two launches a codeword; a turn takes one search with its packing, the sums of each
codeword and a pass for the rows farthest from their codewords, whether a codeword needs one or not.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops import configs
from unitok_kernels.ops.codeword_statistics.triton import codeword_statistics
from unitok_kernels.ops.common import finite_rows
from unitok_kernels.ops.kmeans import reference
from unitok_kernels.ops.launch import launch, leave_opaque, leave_to, target_of
from unitok_kernels.ops.nearest_codeword.triton import nearest_codeword
from unitok_kernels.ops.tiles import load_rows


@triton.jit
def _approach(
    p_x, p_good, p_chosen, p_nearest, p_parts, N, step,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """nearest_n = min(nearest_n, |x_n - x_chosen|^2) in float64, and the sum of that over each tile of rows.

    The first step starts from infinity; rows that aren't finite stay at 0.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    m_good = tl.load(p_good + i_rows, mask=m_rows, other=0) != 0
    o_d = tl.arange(0, BD)
    b_x = load_rows(p_x, i_rows, m_good, D, BD).to(tl.float64)
    chosen = tl.load(p_chosen + step)
    b_chosen = tl.load(p_x + chosen * D + o_d, mask=o_d < D, other=0.0).to(tl.float64)
    b_difference = b_x - b_chosen[None, :]
    b_nearest = tl.sum(b_difference * b_difference, axis=1)
    if step > 0:
        b_nearest = tl.minimum(b_nearest, tl.load(p_nearest + i_rows, mask=m_rows, other=0.0))
    b_nearest = tl.where(m_good, b_nearest, 0.0)
    tl.store(p_nearest + i_rows, b_nearest, mask=m_rows)
    tl.store(p_parts + tl.program_id(0), tl.sum(b_nearest, axis=0))


@triton.jit
def _total(p_values, count, BP: tl.constexpr):
    """Sum the first values, in one order."""
    o_p = tl.arange(0, BP)
    b_sum = tl.full((BP,), 0.0, tl.float64)
    for i_p in range(0, count, BP):
        b_sum += tl.load(p_values + i_p + o_p, mask=i_p + o_p < count, other=0.0)
    return tl.sum(b_sum, axis=0)


@triton.jit
def _place(p_values, count, target, BP: tl.constexpr):
    """Find the first place where the running sum is beyond the target, else the last that adds to it: never a zero."""
    o_p = tl.arange(0, BP)
    first = tl.cast(count, tl.int32)
    last = tl.full((), 0, tl.int32)
    before = tl.full((), 0.0, tl.float64)
    for i_p in range(0, count, BP):
        i_places = i_p + o_p
        b_value = tl.load(p_values + i_places, mask=i_places < count, other=0.0)
        m_adds = b_value > 0
        m_beyond = m_adds & (before + tl.cumsum(b_value, axis=0) > target)
        first = tl.minimum(first, tl.min(tl.where(m_beyond, i_places, count), axis=0))
        last = tl.maximum(last, tl.max(tl.where(m_adds, i_places, 0), axis=0))
        before += tl.sum(b_value, axis=0)
    return tl.where(first < count, first, last)


@triton.jit
def _draw(
    p_nearest, p_parts, p_draws, p_uniform, p_chosen, N, programs, step,
    BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Choose the next row with a probability proportional to nearest_n, or the uniform draw where all of them are 0."""
    total = _total(p_parts, programs, BP)
    if total > 0:
        target = tl.load(p_draws + step + 1) * total
        tile = _place(p_parts, programs, target, BP)
        i_first = tile.to(tl.int64) * BN
        target -= _total(p_parts, tile, BP)
        row = _place(p_nearest + i_first, tl.minimum(N - i_first, BN).to(tl.int32), target, BN)
        tl.store(p_chosen + step + 1, i_first + row)
    else:
        tl.store(p_chosen + step + 1, tl.load(p_uniform + step + 1))


@triton.jit
def _farness(p_x, p_codes, p_table, p_keys, N, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Order rows by |x_n - c_code(n)|^2, then from the last to the first: keys with its bits above those of N - 1 - n.

    Rows without a code count as on their codeword.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_codes = tl.load(p_codes + i_rows, mask=m_rows, other=-1)
    m_good = b_codes >= 0
    b_difference = load_rows(p_x, i_rows, m_good, D, BD) - load_rows(p_table, b_codes, m_good, D, BD)
    b_bits = tl.sum(b_difference * b_difference, axis=1).to(tl.int32, bitcast=True)
    tl.store(p_keys + i_rows, (b_bits.to(tl.int64) << 32) + (N - 1 - i_rows), mask=m_rows)


def kmeans(
    x: Tensor,
    num_codewords: int,
    iterations: int,
    seed: int,
    init: str,
    start: Tensor | None,
    balanced: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels.

    All turns are made, since a look at the codes would stop the device: once a turn changes nothing, no other one does.
    Where not as many rows are finite as codewords are wanted, codewords repeat; only a check would raise. Starts are
    drawn on the host: a graph can be captured only where `init` is a tensor, and where rows have at most 512 columns.
    `balanced` runs on the reference: its assignment is a search for paths that is decided on the host.
    """
    if balanced:
        return leave_to(reference.kmeans, x, num_codewords, iterations, seed, init, start, balanced, check_finite)
    if checks.reads_data(check_finite, x):
        checks.finite("kmeans", "x", x)
        if start is not None:
            checks.finite("kmeans", "init", start)
    if start is None:
        leave_opaque()  # a graph would draw on from where its first run left the generator
    codebook = start.to(torch.float32, copy=True) if start is not None else _start(x, num_codewords, seed, init)
    codes = nearest_codeword(x, codebook, "exact", False, False)[0]
    for _ in range(iterations):
        sums, counts = codeword_statistics(x, codes, num_codewords, False)
        counts = counts.unsqueeze(1)
        codebook = torch.where(counts > 0, sums / counts.clamp(min=1), codebook)
        codebook = _revive(x, codes, codebook, counts == 0)
        codes = nearest_codeword(x, codebook, "exact", False, False)[0]
    return codebook, codes


def _start(x: Tensor, num_codewords: int, seed: int, init: str) -> Tensor:
    """Take rows by the reference's draws; with `random` and rows that aren't finite, they are others than its own."""
    rows = len(x)
    good = finite_rows(x)
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        shuffled = torch.randperm(rows, generator=generator).to(x.device, non_blocking=True)
        bad_last = good.logical_not().index_select(0, shuffled).to(torch.uint8).argsort(stable=True)
        chosen = shuffled.index_select(0, bad_last.narrow(0, 0, num_codewords))
    else:
        draws = torch.rand(num_codewords, generator=generator, dtype=torch.float64).to(x.device, non_blocking=True)
        chosen = _plus_plus(x, good, draws)
    return torch.where(good.index_select(0, chosen).unsqueeze(1), x.index_select(0, chosen).float(), 0)


def _plus_plus(x: Tensor, good: Tensor, draws: Tensor) -> Tensor:
    """Draw each next row with a probability proportional to its squared distance from those drawn."""
    rows, width = x.shape
    finite = good.cumsum(0)  # how many up to each row
    places = (draws * finite.narrow(0, rows - 1, 1)).long()
    uniform = torch.searchsorted(finite, places, right=True).clamp(max=rows - 1)
    chosen = uniform.clone()
    config = configs.rowwise(target_of(x), width)
    programs = triton.cdiv(rows, config.block_rows)
    nearest = draws.new_empty(rows)
    parts = draws.new_empty(programs)
    for step in range(len(draws) - 1):
        launch(
            _approach, (programs,), x, good, chosen, nearest, parts, rows, step,
            config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
        )  # fmt: skip
        launch(
            _draw, (1,), nearest, parts, draws, uniform, chosen, rows, programs, step,
            config=configs.SUMS, BN=config.block_rows, BP=configs.SUMS.block_rows,
        )  # fmt: skip
    return chosen


def _revive(x: Tensor, codes: Tensor, codebook: Tensor, empty: Tensor) -> Tensor:
    """Move codewords without rows to the rows farthest from their own, if any is off its own."""
    (rows, width), target = x.shape, target_of(x)
    config = configs.rowwise(target, width)
    keys = torch.empty_like(codes)
    launch(
        _farness, (triton.cdiv(rows, config.block_rows),), x, codes, codebook, keys, rows,
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
    )  # fmt: skip
    farthest = keys.topk(len(codebook)).values.unsqueeze(1)  # no two keys are equal, so there is one answer
    turn = (empty.cumsum(0) - 1).clamp(min=0)  # the first codeword without rows gets the farthest, and so on
    farthest = farthest.gather(0, turn)
    row = rows - 1 - (farthest & 0xFFFFFFFF).squeeze(1)
    return torch.where(empty & (farthest >> 32 > 0), x.index_select(0, row).float(), codebook)
