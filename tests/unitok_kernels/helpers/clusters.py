"""Rows in clusters, and what a clustering of them costs."""

from __future__ import annotations

import torch

from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import normal


def inertia(x, codebook, codes=None):
    distance = oracle.squared_distances(x, codebook)
    return float((distance.min(1).values if codes is None else distance.gather(1, codes[:, None])).sum())


def blobs(clusters=12, each=40, width=5, spread=30.0):
    centers = normal(clusters, width, seed=1) * spread
    return centers.repeat_interleave(each, 0) + normal(clusters * each, width, seed=2)


def skewed(rows, width):
    """Half of the rows in one cluster, a quarter in the next, and so on."""
    centres = normal(12, width, seed=1) * 4
    which = torch.frexp(torch.rand(rows, generator=torch.Generator().manual_seed(2)))[1].neg().clamp(max=11)
    return centres[which.long()] + normal(rows, width, seed=3)
