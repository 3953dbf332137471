"""residual_encode: long and short batches, and the latency of a single row."""

from __future__ import annotations

import math

import pytest
import torch

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import ChainCheck
from benchmarks.harness import Level, instruction_sets, ours

SHAPES = {  # N, D, K, L
    "1k x 32, K=256, L=4": (inputs.ROWS["1k"], 32, 256, 4),
    "64k x 32, K=256, L=4": (inputs.ROWS["64k"], 32, 256, 4),
    "16k x 128, K=1024, L=8": (inputs.ROWS["16k"], 128, 1024, 8),
    "1M x 32, K=256, L=4": (inputs.ROWS["1M"], 32, 256, 4),
}


def fast(z: torch.Tensor, codebooks: torch.Tensor) -> uk.ResidualCodes:
    return uk.residual_encode(z, codebooks, precision="fast")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if math.prod(shape) > 4e9 else ()) for c, shape in SHAPES.items()],
)
def test_residual_encode(race, case: str) -> None:
    rows, width, size, levels = SHAPES[case]
    z, codebooks = inputs.normal(rows, width), inputs.codebooks(levels, size, width)
    flops = 2.0 * rows * size * width * levels
    race(
        "residual_encode",
        case,
        [
            *ours("residual_encode", uk.residual_encode, flops=flops),
            Level("ours, fast", fast, isa=next(iter(instruction_sets()), None)),
            *peers.chains(codebooks),
        ],
        (z, codebooks),
        small=(z[:200], codebooks),
        check=ChainCheck(z, codebooks),
        flops=flops,
    )


def test_latency_of_one_row(race) -> None:
    # Compiled as most people do: `dynamic=False` would add 10 microseconds per call.
    z, codebooks = inputs.normal(1, 32), inputs.codebooks(4, 256, 32)

    def through(z: torch.Tensor, codebooks: torch.Tensor) -> uk.ResidualCodes:
        return uk.residual_encode(z, codebooks)

    eager = peers.chain(peers.nearest_expanded)
    torch.compiler.reset()
    race(
        "residual_encode",
        "1 x 32, K=256, L=4",
        [
            *ours("residual_encode", uk.residual_encode),
            Level("ours, through torch.compile", torch.compile(through), compiled=True),
            Level("torch eager", eager),
            Level("torch.compile", torch.compile(eager), compiled=True),
        ],
        (z, codebooks),
        check=ChainCheck(z, codebooks),
    )
