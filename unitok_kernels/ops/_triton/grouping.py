"""Rows in the order of their groups, without asking the device how many rows each has."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def group_rows(keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Order rows by key; rows with equal keys stay in order, and rows whose key is out of range come last.

    Args:
        keys: (N,) int64.
        groups: G; keys outside 0 .. G - 1 belong to none.

    Returns:
        tuple: order (N,) int64, the numbers of the rows; starts (G + 1,) int64, where each group begins in it, and
        finally where the last group ends.
    """
    in_range = (keys >= 0) & (keys < groups)
    ordered, order = torch.where(in_range, keys, groups).to(torch.int32).sort(stable=True)
    bounds = torch.arange(groups + 1, dtype=torch.int32, device=keys.device)
    return order, torch.searchsorted(ordered, bounds)


@triton.jit
def find_group(p_starts, program, N, E, BN: tl.constexpr, BE: tl.constexpr):
    """Find a program's group, its first row in it, and where the group ends.

    Groups g < E are the rows of an expert, group E those of none. Each group is cut into tiles of BN rows, and programs
    take the tiles in order; those beyond the last tile get a group above E.
    """
    o_g = tl.arange(0, BE)
    b_start = tl.load(p_starts + o_g, mask=o_g <= E, other=N)
    b_end = tl.load(p_starts + o_g + 1, mask=o_g < E, other=N)
    b_tiles = tl.cdiv(b_end - b_start, BN)
    b_last = tl.cumsum(b_tiles, axis=0)
    group = tl.sum((b_last <= program).to(tl.int32), axis=0)
    b_first = b_start + (program - (b_last - b_tiles)) * BN
    first = tl.sum(tl.where(o_g == group, b_first, 0), axis=0)
    end = tl.sum(tl.where(o_g == group, b_end, 0), axis=0)
    return group, first, end
