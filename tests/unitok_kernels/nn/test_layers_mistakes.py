"""Plain mistakes: each gets one line of ours that names the remedy, instead of Python's or torch's words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels import nn

CHAIN = {"dim": 4, "num_quantizers": 2, "codebook_size": 8}
X, BOOKS = normal(3, 6, 4), normal(2, 8, 4, seed=1)
KINDS = {
    "ResidualVQ": nn.ResidualVQ(**CHAIN),
    "VectorQuantize": nn.VectorQuantize(4, 8),
    "GroupedResidualVQ": nn.GroupedResidualVQ(**CHAIN, groups=2),
}
IDS, WEIGHTS = torch.zeros(6, 1).long(), torch.ones(6, 1)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_float_tensor_on_the_layer_s_device_is_refused(name):
    layer = KINDS[name]
    for wrong, kind in ((X.tolist(), "list"), (X.numpy(), "ndarray")):
        with raises(f"{name}: x must be a torch.Tensor, got {kind}. Convert it with torch.as_tensor", TypeError):
            layer(wrong)
    with raises(f"{name}: x must be float32, .* got torch.int32. Convert it with x.float", TypeError):
        layer(X.int())
    with raises(f"{name}: x must be on cpu, as the layer is, got meta. Move it with x.to"):
        layer(X.to("meta"))
    with raises(f"{name}: x must be of width 4, as dim is, got 5"):
        layer(normal(3, 5))
    with raises("mask must be a torch.Tensor, got list", TypeError):
        layer(X, mask=[[True] * 6] * 3)
    with raises("lens must be a torch.Tensor, got list", TypeError):
        layer(X, lens=[6, 6, 6])
    with raises("mask must be on cpu, as x is, got meta"):
        layer(X, mask=torch.ones(3, 6, dtype=torch.bool, device="meta"))
    with raises(f"{name}: sample_codebook_temp must be a float or an int, got str", TypeError):
        layer(X, sample_codebook_temp="1")
    for decode in (layer.get_codes_from_indices, layer.get_output_from_indices):
        with raises(f"{name}: indices must be a torch.Tensor, got list", TypeError):
            decode([[0, 1]])
        with raises(f"{name}: indices must be an integer tensor, got torch.float32", TypeError):
            decode(torch.zeros(2, 2))


def test_settings_of_a_call_are_checked():
    layer, groups = KINDS["ResidualVQ"], KINDS["GroupedResidualVQ"]
    with raises("ResidualVQ: beam_size must be an int, got str", TypeError):
        layer(X, beam_size="2")
    with raises("ResidualVQ: rand_quantize_dropout_fixed_seed must be an int, got list", TypeError):
        layer(X, rand_quantize_dropout_fixed_seed=[1])
    with raises("GroupedResidualVQ: indices must be of length 2, as groups is, got 3"):
        groups.get_output_from_indices(torch.zeros(3, 2, 2).long())
    projected = nn.ResidualVQ(**CHAIN, codebook_dim=2)
    with raises("ResidualVQ: x must be torch.float32, as the layer's projection is, got torch.bfloat16", TypeError):
        projected(X.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert projected(X.bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "wrong", "meant"),
    [
        (nn.ResidualVQ, {**CHAIN, "num_quantisers": 4}, "num_quantizers"),
        (nn.ResidualVQConfig, {**CHAIN, "num_quantisers": 4}, "num_quantizers"),
        (nn.GroupedResidualVQ, {**CHAIN, "group": 4}, "groups"),
        (nn.VectorQuantize, {"dim": 4, "codebook_size": 8, "use_cosine": True}, "use_cosine_sim"),
        (nn.MoEResidualVQ, {"dim": 4, "num_expert": 2}, "num_experts"),
        (nn.replace_quantizers, {"model": KINDS["ResidualVQ"], "precison": "fast"}, "precision"),
    ],
)
def test_an_unknown_option_names_the_one_that_was_meant(make, wrong, meant):
    name = make.__name__
    with raises(rf"{name}: \w+ must be an option of {name}, got .*. Did you mean {meant}\?", TypeError):
        make(**wrong)


def test_an_option_like_no_other_is_refused_alone():
    with raises("ResidualVQ: zebra must be an option of ResidualVQ, got 1. The docs list them", TypeError):
        nn.ResidualVQ(**CHAIN, zebra=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: uk.kmeans(X[0], 2, iterations=n, seed=0),
        lambda n: uk.kmeans(X[0], 2, iterations=1, seed=n),
        lambda n: uk.kmeans(X[0], n, iterations=1, seed=0),
        lambda n: uk.sinkhorn_assign(X[0], BOOKS[0], epsilon=0.1, iterations=n),
        lambda n: uk.sinkhorn_assign(X[0], BOOKS[0], epsilon=n, iterations=1),
        lambda n: uk.codeword_statistics(X[0], IDS[:, 0], n),
        lambda n: uk.hsic(X[0], X[0], IDS[:, 0], num_segments=n),
        lambda n: uk.moe_residual_encode(X[0], BOOKS[None], IDS, WEIGHTS, BOOKS, n),
    ],
)
def test_a_number_that_no_kernel_can_read_is_refused(call):
    for number in (10**30, np.iinfo(np.int64).max + 1):
        with raises("must be a number of at most 64 bits, got one of"):
            call(number)


@pytest.mark.parametrize("function", [nn.replace_quantizers, nn.restore_quantizers])
def test_what_is_no_module_is_refused(function):
    with raises(f"{function.__name__}: model must be a torch.nn.Module, got str", TypeError):
        function("model")
