"""What ranks agree on: sums, and random rows. Every rank makes the same calls, whatever its batch."""

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
    """Sum a tensor over all ranks."""
    if synced:
        x = x.clone()
        dist.all_reduce(x)
    return x


def uniform(shape: tuple[int, ...], device: torch.device, synced: bool) -> Tensor:
    """Draw numbers between 0 and 1; every rank gets those of rank 0."""
    drawn = torch.rand(shape, device=device)
    return summed(drawn if dist.get_rank() == 0 else torch.zeros_like(drawn), True) if synced else drawn


class Draw(NamedTuple):
    """Rows of the global batch, one for each codeword.

    Attributes:
        row: (K,) each row's place in this rank's batch, if it is there.
        mine: (K,) whether it is there.
        found: (K,) whether the batch has a row for the codeword; it lacks some if it has fewer rows than codewords.
    """

    row: Tensor
    mine: Tensor
    found: Tensor


def draw_rows(numbers: Tensor, rows: int, valid: Tensor | None, synced: bool) -> Draw:
    """Draw a row for each number from the batches of all ranks, no row twice, without waiting for the device.

    The valid rows of all ranks, in order, are cut into K even strata; each stratum gives the row at its number. So a
    single process with the batches of all ranks draws the same rows.

    Args:
        numbers: (K,) between 0 and 1, equal on every rank.
        rows: N, rows of this rank.
        valid: (N,) bool, which of them may be drawn; None means all.
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
    """Give every rank the drawn rows (K, D) of `x` (N, D)."""
    if x.shape[0] == 0:  # an empty batch gives no row, but takes part
        return summed(x.new_zeros(len(draw.row), x.shape[1]), synced)
    return summed(torch.where(draw.mine[:, None], x[draw.row], 0), synced)
