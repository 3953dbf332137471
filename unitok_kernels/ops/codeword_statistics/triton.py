"""Codeword statistics on a GPU: rows are sorted by code, one launch sums chunks of them, one sums the chunks."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.segments import Segments, add_slots, cut, slot_rows


@triton.jit
def _kernel(
    p_x, p_order, p_starts, p_owners, p_parts,
    D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """parts_s = sum over the rows of slot s of x_n, in float64."""
    slot = tl.cast(tl.program_id(0), tl.int64)
    o_n = tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    _, begin, end = slot_rows(p_starts, p_owners, slot)
    b_sum = tl.full((BN, BD), 0.0, tl.float64)
    for i_n in range(begin, end, BN):
        m_n = i_n + o_n < end
        i_rows = tl.load(p_order + i_n + o_n, mask=m_n, other=0)
        mask = m_n[:, None] & (o_d < D)[None, :]
        b_sum += tl.load(p_x + i_rows[:, None] * D + o_d[None, :], mask=mask, other=0.0).to(tl.float64)
    tl.store(p_parts + slot * D + o_d, tl.sum(b_sum, axis=0), mask=o_d < D)


def codeword_statistics(
    x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None
) -> tuple[Tensor, Tensor]:
    """Launch the kernels."""
    if checks.reads_data(check_finite, codes):
        checks.finite("codeword_statistics", "x", x, "Remove or repair it.")
        checks.in_range("codeword_statistics", "codes", codes, num_codewords, minimum=-1)
    segments = cut(codes, num_codewords)
    return add_rows(x, segments), segments.starts.diff()


def add_rows(x: Tensor, segments: Segments) -> Tensor:
    """Sum the rows of each group; (N, D) -> (G, D) float32."""
    width = x.shape[1]
    config = configs.segments(target_of(x), width)
    parts = segments.sums(width)
    launch(
        _kernel, (len(parts), triton.cdiv(width, config.block_columns)), x, *segments, parts,
        config=config, D=width, BN=config.block_rows, BD=config.block_columns,
    )  # fmt: skip
    return add_slots(parts, segments, 1.0, 1, config)
