"""hsic, forward and backward, against the matrix form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import CloseCheck
from benchmarks.harness import Level, ours

ROWS = {
    "n=1024, 384 and 32, forward + backward": 1024,
    "n=8192, 384 and 32, forward + backward": 8192,
}


def blockwise(x: Tensor, z: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Ours: one segment, value and gradient."""
    z = z.detach().requires_grad_()
    value = uk.hsic(x, z, segments, num_segments=1)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


def matrix(x: Tensor, z: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix form and autograd."""
    z = z.detach().requires_grad_()
    value = peers.hsic_matrix(x, z)
    return value.detach()[None], torch.autograd.grad(value, z)[0]


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if n > 4096 else ()) for c, n in ROWS.items()])
def test_hsic(race, case: str) -> None:
    rows = ROWS[case]
    x = torch.nn.functional.normalize(inputs.clusters(rows, 384, 50), dim=1)
    z = x @ inputs.normal(384, 32, seed=8) + 0.5 * inputs.normal(rows, 32, seed=9)
    segments = torch.zeros(rows, dtype=torch.int64)
    exact = CloseCheck(matrix(x.double(), z.double(), segments), 1e-5)
    loose = CloseCheck(exact.expected, 1e-3)  # the sums of float32 matrices cancel

    def check(level: Level, result: Any) -> None:
        (exact if level.name.startswith("ours") else loose)(level, result)

    flops = 2.0 * rows**2 * (384 + 32 + 32)  # distances of x and of z, and the gradient of z
    race(
        "hsic",
        case,
        [*ours("hsic", blockwise, flops=flops, budget=15), Level("torch, matrix form", matrix, budget=15)],
        (x, z, segments),
        small=(x[:300], z[:300], segments[:300]),
        check=check,
        flops=flops,
    )
