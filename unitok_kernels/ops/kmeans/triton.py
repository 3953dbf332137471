"""Lloyd's k-means on a GPU, without waiting for the device until it is done.

The start of k-means++ takes two launches per codeword. A turn takes a search with its packing, the sums of each
codeword, and two launches that move codewords without rows; these end at once if there are none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, leave_opaque, target_of
from unitok_kernels.ops._triton.tiles import load_rows
from unitok_kernels.ops.codeword_statistics.triton import codeword_statistics
from unitok_kernels.ops.common import finite_rows
from unitok_kernels.ops.kmeans.transport import balanced_codes
from unitok_kernels.ops.nearest_codeword.triton import nearest_codeword


@triton.jit
def _approach(
    p_x, p_good, p_chosen, p_nearest, p_parts, N, step,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """nearest_n = min(nearest_n, |x_n - x_chosen|^2) in float64, and its sum over each tile of rows.

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
    """Sum the first values, in a fixed order."""
    o_p = tl.arange(0, BP)
    b_sum = tl.full((BP,), 0.0, tl.float64)
    for i_p in range(0, count, BP):
        b_sum += tl.load(p_values + i_p + o_p, mask=i_p + o_p < count, other=0.0)
    return tl.sum(b_sum, axis=0)


@triton.jit
def _place(p_values, count, target, BP: tl.constexpr):
    """Find the first place where the running sum exceeds the target, else the last place above zero."""
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
    """Choose the next row with a probability proportional to nearest_n, or the uniform draw if all of them are 0."""
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
def _farness(
    p_x, p_codes, p_table, p_missing, p_keys, p_parts, N,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Make keys that order rows by |x_n - c_code(n)|^2, then from the last to the first: its bits above N - 1 - n.

    Rows without a code count as being on their codeword. p_parts: the largest key of each tile of rows.
    """
    if tl.load(p_missing) == 0:
        return
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_codes = tl.load(p_codes + i_rows, mask=m_rows, other=-1)
    m_good = b_codes >= 0
    b_difference = load_rows(p_x, i_rows, m_good, D, BD) - load_rows(p_table, b_codes, m_good, D, BD)
    b_bits = tl.sum(b_difference * b_difference, axis=1).to(tl.int32, bitcast=True)
    b_keys = (b_bits.to(tl.int64) << 32) + (N - 1 - i_rows)
    tl.store(p_keys + i_rows, b_keys, mask=m_rows)
    tl.store(p_parts + tl.program_id(0), tl.max(tl.where(m_rows, b_keys, 0), axis=0))


@triton.jit
def _revive(
    p_x, p_counts, p_missing, p_keys, p_parts, p_table, N, K, programs,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Move codewords without rows, one by one, to the row farthest from its codeword, if any is away from it."""
    o_d, o_p, o_n = tl.arange(0, BD), tl.arange(0, BP), tl.arange(0, BN)
    left = tl.load(p_missing)
    code = 0
    while (left > 0) & (code < K):
        if tl.load(p_counts + code) == 0:
            b_most = tl.zeros((BP,), tl.int64)
            for i_p in range(0, programs, BP):
                b_most = tl.maximum(b_most, tl.load(p_parts + i_p + o_p, mask=i_p + o_p < programs, other=0))
            key = tl.max(b_most, axis=0)
            if key >> 32 > 0:
                row = N - 1 - (key & 0xFFFFFFFF)
                b_row = tl.load(p_x + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
                tl.store(p_table + tl.cast(code, tl.int64) * D + o_d, b_row, mask=o_d < D)
                i_rows = row // BN * BN + o_n
                b_keys = tl.load(p_keys + i_rows, mask=i_rows < N, other=0)
                b_keys = tl.where(i_rows == row, 0, b_keys)
                tl.debug_barrier()  # all threads have read what is written next
                tl.store(p_keys + i_rows, b_keys, mask=i_rows < N)
                tl.store(p_parts + row // BN, tl.max(b_keys, axis=0))
                tl.debug_barrier()
            left -= 1
        code += 1


TAKES_KERNELS = True  # another backend may pass its own search and statistics to `kmeans`

Search = Callable[[Tensor, Tensor, str, bool, bool], tuple[Tensor, Tensor, Tensor]]
Statistics = Callable[[Tensor, Tensor, int, bool], tuple[Tensor, Tensor]]


def kmeans(
    x: Tensor,
    num_codewords: int,
    iterations: int,
    seed: int,
    init: str,
    start: Tensor | None,
    balanced: bool,
    check_finite: bool | None,
    search: Search = nearest_codeword,
    statistics: Statistics = codeword_statistics,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels; those for the search and the sums may come from another backend.

    All turns are made, since reading the codes would wait for the device: after a turn that changes nothing, no other
    one does. If fewer rows are finite than codewords are wanted, codewords repeat; only a check would raise. Starts are
    drawn on the host, so a graph can be captured only if `init` is a tensor. With `balanced`, the time of a turn
    depends on how many rows the bounds move (`transport.py`).
    """
    if checks.reads_data(check_finite, x):
        checks.finite("kmeans", "x", x)
        if start is not None:
            checks.finite("kmeans", "init", start)
    if start is None or balanced:
        leave_opaque()  # a graph would continue the generator of its first run, or hold hundreds of sweeps
    codebook = start.to(torch.float32, copy=True) if start is not None else _start(x, num_codewords, seed, init)

    def assign() -> Tensor:
        return balanced_codes(x, codebook) if balanced else search(x, codebook, "exact", False, False)[0]

    codes = assign()
    for _ in range(iterations):
        sums, counts = statistics(x, codes, num_codewords, False)
        codebook = torch.where(counts.unsqueeze(1) > 0, sums / counts.unsqueeze(1).clamp(min=1), codebook)
        _move_empty(x, codes, codebook, counts)
        codes = assign()
    return codebook, codes


def _start(x: Tensor, num_codewords: int, seed: int, init: str) -> Tensor:
    """Draw rows as the reference does; with `random` and rows that aren't finite, the rows differ from its own."""
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
    """Draw rows one by one, with probabilities proportional to the squared distance from those already drawn."""
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


def _move_empty(x: Tensor, codes: Tensor, codebook: Tensor, counts: Tensor) -> None:
    """Move codewords without rows to the rows farthest from their own, in place."""
    rows, width = x.shape
    config = configs.rowwise(target_of(x), width)
    programs = triton.cdiv(rows, config.block_rows)
    missing = counts.eq(0).sum()
    keys, parts = torch.empty_like(codes), codes.new_empty(programs)
    sizes = {"D": width, "BD": configs.power_of_two(width), "BN": config.block_rows}
    launch(_farness, (programs,), x, codes, codebook, missing, keys, parts, rows, config=config, **sizes)
    launch(
        _revive, (1,), x, counts, missing, keys, parts, codebook, rows, len(codebook), programs,
        config=configs.SUMS, **sizes, BP=configs.SUMS.block_rows,
    )  # fmt: skip
