"""residual_loss, forward and backward, with gradients of z and of the codebooks."""

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


def with_gradients(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Make a call that returns the loss and its gradients with respect to z and the codebooks."""

    def run(z: Tensor, codes: Tensor, codebooks: Tensor) -> tuple[Tensor, ...]:
        z, codebooks = z.detach().requires_grad_(), codebooks.detach().requires_grad_()
        value = loss(z, codes, codebooks)
        return value.detach(), *torch.autograd.grad(value, (z, codebooks))

    return run


@pytest.mark.parametrize("case", SHAPES)
def test_residual_loss(race, case: str) -> None:
    rows, width, size, levels = SHAPES[case]
    z, codebooks = inputs.normal(rows, width), inputs.codebooks(levels, size, width)
    codes = uk.residual_encode(z, codebooks).codes
    race(
        "residual_loss",
        case,
        [
            *ours("residual_loss", with_gradients(uk.residual_loss)),
            Level("torch eager", with_gradients(peers.chain_loss)),
            Level("torch.compile", with_gradients(peers.compiled(peers.chain_loss)), compiled=True),
        ],
        (z, codes, codebooks),
        small=(z[:200], codes[:200], codebooks),
        check=CloseCheck(with_gradients(peers.chain_loss)(z.double(), codes, codebooks.double())),
    )
