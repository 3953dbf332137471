"""Sums over the rows of each group, in a fixed order and in float64, however many rows a group has.

Rows are ordered by group. Each group's rows are cut into chunks of `CHUNK`; one program sums each chunk, and one
program per group sums its chunks. Chunk i of group g has slot starts[g] // CHUNK + g + i: so the slots of one group
never reach those of the next, and N rows in G groups have at most ceil(N / CHUNK) + G slots, whatever the data. Some
stay empty.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels.ops._triton.configs import Config
from unitok_kernels.ops._triton.grouping import group_rows
from unitok_kernels.ops._triton.launch import launch

CHUNK = 512
_CHUNK = tl.constexpr(CHUNK)


class Segments(NamedTuple):
    """Rows ordered by group.

    Attributes:
        order: (keys,) int64, the numbers of the rows; those of no group come last.
        starts: (G + 1,) int64, where each group begins in it, and where the last group ends.
        owners: (slots,) int32, the group of each slot, plus one.
    """

    order: Tensor
    starts: Tensor
    owners: Tensor

    def sums(self, width: int) -> Tensor:
        """Make room for the sum of each slot's rows; (slots, D) float64."""
        return self.order.new_empty(len(self.owners), width, dtype=torch.float64)


def cut(keys: Tensor, groups: int) -> Segments:
    """Order rows by key and cut each group into chunks.

    Args:
        keys: (N,) int64, or (M, N) if rows are in up to M groups.
        groups: G; keys outside 0 .. G - 1 belong to none.

    Returns:
        Segments: the groups and their slots.
    """
    order, starts = group_rows(keys.flatten(), groups)
    if keys.dim() == 2:
        order = order % keys.shape[1]
    first = starts.narrow(0, 0, groups) // CHUNK + torch.arange(groups, device=keys.device)
    slots = torch.arange(triton.cdiv(keys.numel(), CHUNK) + groups, device=keys.device)
    return Segments(order, starts, torch.searchsorted(first, slots, right=True, out_int32=True))


@triton.jit
def slot_rows(p_starts, p_owners, slot):
    """Find the group of a slot, and where its rows begin and end in the order; an empty slot ends before it begins."""
    group = tl.load(p_owners + slot).to(tl.int64) - 1
    start = tl.load(p_starts + group)
    begin = start + (slot - (start // _CHUNK + group)) * _CHUNK
    return group, begin, tl.minimum(begin + _CHUNK, tl.load(p_starts + group + 1))


@triton.jit
def share(factor, count):
    """Give factor / count in float64; the factor is rounded to float32, since some launches pass it as that."""
    return tl.cast(tl.cast(factor, tl.float32), tl.float64) / tl.maximum(tl.cast(count, tl.int64), 1).to(tl.float64)


@triton.jit
def _add_slots(p_parts, p_starts, p_sums, factor, count, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """sums_g = factor / count * sum over the slots of group g."""
    group = tl.cast(tl.program_id(0), tl.int64)
    o_n = tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    start = tl.load(p_starts + group)
    first = start // _CHUNK + group
    end = first + (tl.load(p_starts + group + 1) - start + _CHUNK - 1) // _CHUNK
    b_sum = tl.full((BN, BD), 0.0, tl.float64)
    for i_slot in range(first, end, BN):
        i_slots = i_slot + o_n
        mask = (i_slots < end)[:, None] & (o_d < D)[None, :]
        b_sum += tl.load(p_parts + i_slots[:, None] * D + o_d[None, :], mask=mask, other=0.0)
    tl.store(p_sums + group * D + o_d, (tl.sum(b_sum, axis=0) * share(factor, count)).to(tl.float32), mask=o_d < D)


def add_slots(parts: Tensor, segments: Segments, factor: float, count: int, config: Config) -> Tensor:
    """Sum the slots of each group.

    Args:
        parts: (slots, D) float64, the sum of each slot's rows; those of empty slots aren't read.
        segments: whose slots they are.
        factor: the sums are multiplied by it; a plain number, since one made of a traced size would become an integer.
        count: the sums are divided by it, if it isn't 0.
        config: the tile, `configs.segments`.

    Returns:
        Tensor: (G, D) float32.
    """
    groups, width = len(segments.starts) - 1, parts.shape[1]
    sums = parts.new_empty(groups, width, dtype=torch.float32)
    launch(
        _add_slots, (groups, triton.cdiv(width, config.block_columns)), parts, segments.starts, sums, factor, count,
        config=config, D=width, BN=min(config.block_rows, 16), BD=config.block_columns,
    )  # fmt: skip
    return sums
