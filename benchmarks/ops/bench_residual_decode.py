"""residual_decode, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import CloseCheck
from benchmarks.harness import Level, ours

SHAPES = {  # N, D, K, L
    "1k x 32, K=256, L=4, forward + backward": (inputs.ROWS["1k"], 32, 256, 4),
    "64k x 32, K=256, L=4, forward + backward": (inputs.ROWS["64k"], 32, 256, 4),
    "16k x 128, K=1024, L=8, forward + backward": (inputs.ROWS["16k"], 128, 1024, 8),
}


def with_gradient(decode: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Make a call that decodes and also returns the gradient of the codebooks."""

    def run(codes: Tensor, codebooks: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        tables = codebooks.detach().requires_grad_()
        quantized = decode(codes, tables)
        return quantized.detach(), torch.autograd.grad(quantized, tables, gradient)[0]

    return run


@pytest.mark.parametrize("case", SHAPES)
def test_residual_decode(race, case: str) -> None:
    rows, width, size, levels = SHAPES[case]
    codebooks, gradient = inputs.codebooks(levels, size, width), inputs.normal(rows, width, seed=6)
    codes = torch.randint(size, (rows, levels), generator=torch.Generator().manual_seed(7))
    race(
        "residual_decode",
        case,
        [
            *ours("residual_decode", with_gradient(uk.residual_decode)),
            Level("torch eager, indexing", with_gradient(peers.decoded)),
            Level("torch eager, F.embedding", with_gradient(peers.decoded_by_embedding)),
            Level("torch.compile", with_gradient(peers.compiled(peers.decoded_by_embedding)), compiled=True),
        ],
        (codes, codebooks, gradient),
        small=(codes[:200], codebooks, gradient[:200]),
        check=CloseCheck(with_gradient(peers.decoded)(codes, codebooks.double(), gradient.double())),
    )
