"""On a CUDA device: no step waits for it, and codes and averages are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.kernels.oracle import normal
from unitok_kernels.nn import GroupedResidualVQ, ResidualVQ, VectorQuantize

pytestmark = pytest.mark.gpu

CHAIN = {"dim": 16, "codebook_size": 32, "num_quantizers": 3}
LAYERS = {
    "one codebook": lambda: VectorQuantize(16, 32, threshold_ema_dead_code=2),
    "heads": lambda: VectorQuantize(16, 32, heads=2, codebook_dim=8, separate_codebook_per_head=True),
    "orthogonal": lambda: VectorQuantize(16, 32, orthogonal_reg_weight=1.0, orthogonal_reg_active_codes_only=True),
    "chain": lambda: ResidualVQ(**CHAIN),
    "revivals": lambda: ResidualVQ(**CHAIN, threshold_ema_dead_code=2),
    "start": lambda: ResidualVQ(**CHAIN, kmeans_init=True),
    "dropout": lambda: ResidualVQ(**CHAIN, quantize_dropout=True),
    "drawn": lambda: ResidualVQ(**CHAIN, stochastic_sample_codes=True),
    "cosine": lambda: ResidualVQ(**CHAIN, use_cosine_sim=True),
    "shared": lambda: ResidualVQ(**CHAIN, shared_codebook=True, threshold_ema_dead_code=2),
    "beam": lambda: ResidualVQ(**CHAIN, beam_size=2, quantize_dropout=True),
    "learnt": lambda: ResidualVQ(**CHAIN, learnable_codebook=True, ema_update=False),
    "groups": lambda: GroupedResidualVQ(**CHAIN, groups=2),
}


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step(layer, x, **call):
    quantized, codes, losses = layer(x, **call)
    (quantized.square().sum() + losses.sum()).backward()
    return codes


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_waits_for_the_device(name, masked):
    layer, x = LAYERS[name]().cuda(), normal(2, 200, 16).cuda().requires_grad_()
    call = {"mask": torch.arange(200, device="cuda") < torch.tensor([[70], [200]], device="cuda")} if masked else {}
    step(layer, x, **call)  # kernels are compiled, and a start reads whether it is needed
    with no_waiting():
        step(layer, x, **call)
    layer.eval()
    layer(x, **call)
    with no_waiting(), torch.no_grad():
        layer(x, **call)


@pytest.mark.parametrize("name", ["one codebook", "heads", "chain", "learnt", "groups"])
def test_codes_and_averages_are_those_of_the_cpu(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    layer.train(name != "one codebook")  # whose revivals draw
    other = copy.deepcopy(layer).cuda()
    for seed in range(3):
        x = normal(2, 200, 16, seed=seed)
        found = step(other, x.cuda().requires_grad_()) if other.training else other(x.cuda())[1]
        expected = step(layer, x.requires_grad_()) if layer.training else layer(x)[1]
        assert torch.equal(found.cpu(), expected)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key].cpu(), value, rtol=1e-4, atol=1e-5)
