"""What ranks agree on: sums, and rows that are drawn once. Every rank makes the same calls, whatever its batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


def is_synced(sync_codebook: bool | None) -> bool:
    """Tell whether there are other ranks to agree with; None asks torch.distributed at each call."""
    if sync_codebook is False or not dist.is_available() or not dist.is_initialized():
        return False
    return dist.get_world_size() > 1


def summed(x: Tensor, synced: bool) -> Tensor:
    """Add a tensor up over all ranks."""
    if synced:
        x = x.clone()
        dist.all_reduce(x)
    return x


def uniform(shape: tuple[int, ...], device: torch.device, synced: bool) -> Tensor:
    """Draw numbers between 0 and 1, equal on every rank: those of rank 0."""
    drawn = torch.rand(shape, device=device)
    return summed(drawn if dist.get_rank() == 0 else torch.zeros_like(drawn), True) if synced else drawn


class Draw(NamedTuple):
    """Rows of the global batch, one for each codeword.

    Attributes:
        row: (K,) where each is in this rank's batch, if it is there.
        mine: (K,) whether it is.
        found: (K,) whether the batch has a row for the codeword; fewer rows than codewords leave some without.
    """

    row: Tensor
    mine: Tensor
    found: Tensor


def draw_rows(numbers: Tensor, rows: int, valid: Tensor | None, synced: bool) -> Draw:
    """Draw as many rows as there are numbers from the batches of all ranks, none twice, and wait for nothing.

    The valid rows of all ranks in their order are cut into K even strata, and each gives the row at its number. So one
    process that has the batches of all draws the same rows.

    Args:
        numbers: (K,) between 0 and 1, equal on every rank.
        rows: N, of this rank.
        valid: (N,) bool, which of them may be drawn; None is all.
        synced: whether there are other ranks.

    Returns:
        Draw: where the rows are.
    """
    size, device = len(numbers), numbers.device
    own = torch.full((), rows, device=device) if valid is None else valid.sum()
    before, total = torch.zeros_like(own), own
    if synced:
        ranks = torch.arange(dist.get_world_size(), device=device)
        sizes = summed(torch.where(ranks == dist.get_rank(), own, 0), True)
        before, total = sizes[: dist.get_rank()].sum(), sizes.sum()
    edges = torch.arange(size + 1, device=device) * total // size
    strata = edges.diff()
    place = edges[:-1] + (numbers.double() * strata).long() - before
    mine = (place >= 0) & (place < own)
    if valid is not None and rows:
        place = torch.searchsorted(valid.long().cumsum(0), place + 1)
    return Draw(place.clamp(0, max(rows - 1, 0)), mine, strata > 0)


def gathered(x: Tensor, draw: Draw, synced: bool) -> Tensor:
    """Give the drawn rows of `x` (N, D) to every rank: (K, D)."""
    if x.shape[0] == 0:  # an empty batch draws nothing, but takes part
        return summed(x.new_zeros(len(draw.row), x.shape[1]), synced)
    return summed(torch.where(draw.mine[:, None], x[draw.row], 0), synced)
