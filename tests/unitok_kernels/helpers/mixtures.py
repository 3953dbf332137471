"""The small mixtures of experts that tests encode."""

from __future__ import annotations

import torch

from tests.unitok_kernels.helpers.oracle import integers, normal


def mixture(rows=120, experts=4, levels=3, codewords=11, width=6, slots=2, dtype=torch.float32, seed=0):
    """Rows, codebooks, expert ids (expert 2 gets no row), weights, shared codebooks of another L and K."""
    fine = 0.6 ** torch.arange(levels).view(levels, 1, 1)
    ids = integers(experts - 1, rows, slots, seed=seed + 3)
    ids[ids >= 2] += 1
    return (
        normal(rows, width, seed=seed).to(dtype),
        (normal(experts, levels, codewords, width, seed=seed + 1) * fine).to(dtype),
        ids,
        torch.rand(rows, slots, generator=torch.Generator().manual_seed(seed)).to(dtype),
        normal(levels + 1, codewords + 2, width, seed=seed + 2).to(dtype),
    )
