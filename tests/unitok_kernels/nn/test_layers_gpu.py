"""On a CUDA device: no step waits for it, and codes and averages are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.unitok_kernels.helpers.codebooks import books
from tests.unitok_kernels.helpers.fake_cuda import NoSynchronisation, fake_cuda
from tests.unitok_kernels.helpers.oracle import normal
from unitok_kernels.nn import GroupedResidualVQ, ResidualVQ, VectorQuantize
from unitok_kernels.ops.residual_straight_through import reference

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


def started(layer):
    """Have a layer know that its codebooks are there: reading whether they are is the one thing that waits, once."""
    for book in books(layer):
        book.initted.fill_(True)
        assert book.is_started()
    return layer


def moved(layer):
    """Give a layer fake parameters and buffers."""
    for module in layer.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            setattr(module, name, torch.nn.Parameter(fake) if isinstance(value, torch.nn.Parameter) else fake)


def step(layer, x, **call):
    quantized, codes, losses = layer(x, **call)
    (quantized.square().sum() + losses.sum()).backward()
    return codes


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_reads_a_value_on_fake_tensors(name, masked):
    layer = started(LAYERS[name]())
    with fake_cuda():
        moved(layer)
        x = torch.empty(2, 200, 16, device="cuda")
        mask = torch.empty(2, 200, dtype=torch.bool, device="cuda") if masked else None
        with NoSynchronisation(), torch.no_grad():  # autograd would ask for a driver
            layer(x, mask=mask)
            layer.eval()(x, mask=mask)


@pytest.mark.parametrize("estimator", ["rotation", "straight", "none"])
@pytest.mark.parametrize("cosine", [False, True])
def test_nor_does_the_reference_of_a_step(estimator, cosine):
    with fake_cuda():
        z, books = torch.empty(50, 16, device="cuda"), torch.empty(3, 32, 16, device="cuda")
        codes = torch.empty(50, 3, dtype=torch.int64, device="cuda")
        with NoSynchronisation():
            step_of = reference.residual_straight_through
            quantized, errors, *_ = step_of(z, codes, books, estimator, cosine, True)
            reference.residual_straight_through_backward(quantized, errors, z, codes, books, estimator, cosine, True)


@pytest.mark.gpu
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


@pytest.mark.gpu
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
