"""Rows in the order of their groups, without asking the device how many each has."""

from __future__ import annotations

import torch
from torch import Tensor


def group_rows(keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Order rows by key; rows of one key stay in their order, those whose key is out of range come last.

    Args:
        keys: (N,) int64.
        groups: G; keys outside 0 .. G - 1 belong to none.

    Returns:
        tuple: order (N,) int64, the numbers of the rows; starts (G + 1,) int64, where each group's begin in it, and at
        the end where the last group ends.
    """
    in_range = (keys >= 0) & (keys < groups)
    ordered, order = torch.where(in_range, keys, groups).to(torch.int32).sort(stable=True)
    bounds = torch.arange(groups + 1, dtype=torch.int32, device=keys.device)
    return order, torch.searchsorted(ordered, bounds)
