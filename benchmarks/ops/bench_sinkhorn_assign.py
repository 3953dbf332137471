"""sinkhorn_assign, against the plan as a matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk
from benchmarks import inputs
from benchmarks.checks import WrongResultError
from benchmarks.harness import Level, ours

SHAPES = {
    "16k x 32, K=256, 20 iterations": (inputs.ROWS["16k"], 32, 256),
    "64k x 32, K=256, 20 iterations": (inputs.ROWS["64k"], 32, 256),
}
EPSILON, ITERATIONS = 0.05, 20


def scores(x: Tensor, codebook: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Return log P_nk up to a constant per row, from the whole matrix of costs."""
    cost = torch.cdist(x, codebook).square()
    score = -cost / (EPSILON * cost.mean())
    columns = torch.zeros_like(score[0])
    for _ in range(iterations):
        rows = -math.log(len(x)) - torch.logsumexp(score + columns, 1, keepdim=True)
        columns = -math.log(len(codebook)) - torch.logsumexp(score + rows, 0)
    return score + columns


def matrix(x: Tensor, codebook: Tensor, iterations: int = ITERATIONS) -> Tensor:
    return scores(x, codebook, iterations).argmax(1)


def streaming(x: Tensor, codebook: Tensor) -> Tensor:
    return uk.sinkhorn_assign(x, codebook, epsilon=EPSILON, iterations=ITERATIONS)


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if "64k" in c else ()) for c in SHAPES])
def test_sinkhorn_assign(race, case: str) -> None:
    rows, width, size = SHAPES[case]
    x, codebook = inputs.clusters(rows, width, size, skew=1.0), inputs.normal(size, width, seed=2)
    plan = scores(x.double(), codebook.double())
    best = plan.max(1).values

    def check(level: Level, codes: Any) -> None:
        lost = (best - plan.gather(1, codes[:, None]).squeeze(1)).max().item()
        if lost > 1e-3:  # in log P: the largest error of float32 potentials
            raise WrongResultError(f"{level.name}: a row's code has exp(-{lost:.1e}) of the largest mass in its row")

    race(
        "sinkhorn_assign",
        case,
        [
            *ours("sinkhorn_assign", streaming),
            Level("torch eager, matrix form", matrix),
        ],
        (x, codebook),
        small=(x[:300], codebook),
        check=check,
    )
