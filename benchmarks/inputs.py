"""Inputs that the cases share, from fixed seeds."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = {"1k": 1_000, "16k": 16_384, "64k": 65_536, "1M": 1_048_576}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codebooks(*shape: int, seed: int = 1) -> Tensor:
    """Return random codebooks (..., L, K, D); like fitted ones, each level has half the spread of the one before."""
    return normal(*shape, seed=seed) * 0.5 ** torch.arange(shape[-3])[:, None, None]


def clusters(rows: int, width: int, centres: int, *, skew: float = 0.0, seed: int = 2) -> Tensor:
    """Return rows around random centres; with `skew` s, centre i gets a share proportional to (i + 1)^-s."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(centres, width, generator=generator)
    share = torch.arange(1, centres + 1).double() ** -skew
    which = torch.multinomial(share, rows, replacement=True, generator=generator)
    return places[which] + 0.3 * torch.randn(rows, width, generator=generator)


def distinct_rows(x: Tensor, count: int, seed: int = 3) -> Tensor:
    """Draw rows without replacement, as the start that every k-means shares."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]].clone()
