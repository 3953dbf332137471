"""Compiled and exported layers do what they do in eager mode, as one graph."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels.nn import GroupedResidualVQ, ResidualVQ, VectorQuantize

CHAIN = {"dim": 16, "codebook_size": 32, "num_quantizers": 3}
LAYERS = {
    "one codebook": lambda: VectorQuantize(16, 32),
    "heads": lambda: VectorQuantize(16, 32, heads=2, separate_codebook_per_head=True, threshold_ema_dead_code=2),
    "orthogonal": lambda: VectorQuantize(16, 32, orthogonal_reg_weight=1.0, orthogonal_reg_active_codes_only=True),
    "chain": lambda: ResidualVQ(**CHAIN),
    "revivals": lambda: ResidualVQ(**CHAIN, threshold_ema_dead_code=2),
    "start": lambda: ResidualVQ(**CHAIN, kmeans_init=True, kmeans_iters=2),
    "dropout": lambda: ResidualVQ(**CHAIN, quantize_dropout=True),
    "drawn": lambda: ResidualVQ(**CHAIN, stochastic_sample_codes=True),
    "cosine": lambda: ResidualVQ(**CHAIN, use_cosine_sim=True),
    "shared": lambda: ResidualVQ(**CHAIN, shared_codebook=True),
    "sizes": lambda: ResidualVQ(dim=16, codebook_size=(8, 32)),
    "beam": lambda: ResidualVQ(**CHAIN, beam_size=2),
    "learnt": lambda: ResidualVQ(**CHAIN, learnable_codebook=True, ema_update=False),
    "diveq": lambda: ResidualVQ(**CHAIN, diveq=True),
    "narrow": lambda: ResidualVQ(**CHAIN, codebook_dim=8),
    "groups": lambda: GroupedResidualVQ(**CHAIN, groups=2, quantize_dropout=True),
}


def made(name):
    torch.manual_seed(0)
    return LAYERS[name]()


def step(layer, call, x, **keywords):
    """One training step, and the state that it leaves; draws are those of one seed."""
    torch.manual_seed(1)
    layer.zero_grad()
    rows = x.clone().requires_grad_()
    quantized, codes, losses = call(rows, **keywords)
    (quantized.square().sum() + losses.sum()).backward()
    return quantized, codes, losses, rows.grad, [p.grad for p in layer.parameters()], copy.deepcopy(layer.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_one_graph_is_made_of_training_and_of_evaluation(name):
    torch.compiler.reset()
    eager, traced = made(name), made(name)
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x = normal(2, 20, 16, seed=seed)
        torch.testing.assert_close(step(traced, compiled, x), step(eager, eager, x))
    eager.eval()
    traced.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), eager(x))


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_graph_keeps_the_start_that_was_loaded(by_hand):
    torch.compiler.reset()
    trained, x = made("start"), normal(2, 200, 16)
    trained(x)
    loaded = made("start")
    if by_hand:
        for own, other in zip(loaded.buffers(), trained.buffers(), strict=True):
            own.copy_(other)
    else:
        loaded.load_state_dict(trained.state_dict())
    compiled = torch.compile(loaded.eval(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(3 * x)[1], trained.eval()(3 * x)[1])


def test_a_mask_stands_in_the_one_graph():
    torch.compiler.reset()
    eager, traced, mask = made("revivals"), made("revivals"), torch.arange(20) < torch.tensor([[7], [20]])
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    x = normal(2, 20, 16)
    torch.testing.assert_close(step(traced, compiled, x, mask=mask), step(eager, eager, x, mask=mask))


@pytest.mark.compiled
@pytest.mark.slow
def test_inductor_s_code_gives_the_same_training_step():
    torch.compiler.reset()
    eager, traced, x = made("revivals"), made("revivals"), normal(2, 20, 16)
    compiled = torch.compile(traced, fullgraph=True)
    assert torch.equal(compiled(x)[1], eager(x)[1])


def test_theirs_breaks_into_many_graphs_and_ours_is_one():
    theirs = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch isn't installed")
    options, x = {**CHAIN, "threshold_ema_dead_code": 2}, normal(2, 20, 16)
    breaks = {}
    for name, kind in (("theirs", theirs.ResidualVQ), ("ours", ResidualVQ)):
        torch.compiler.reset()
        breaks[name] = torch._dynamo.explain(kind(**options))(x).graph_break_count
    assert breaks["ours"] == 0
    assert breaks["theirs"] >= 7


@pytest.mark.parametrize("name", ["chain", "revivals", "cosine", "learnt", "narrow", "dropout", "groups"])
@pytest.mark.parametrize("training", [False, True])
def test_an_exported_layer_gives_what_the_layer_gives(name, training):
    layer, x = made(name).train(training), normal(2, 20, 16)
    program = torch.export.export(copy.deepcopy(layer), (x,))
    exported = program.module()
    for seed in range(2):
        x = normal(2, 20, 16, seed=seed)
        results = []
        for call in (exported, layer):
            torch.manual_seed(seed)
            results.append(call(x))
        torch.testing.assert_close(*results)
    state = {name: value for name, value in exported.state_dict().items() if "embed" in name}
    torch.testing.assert_close(state, {name: layer.state_dict()[name] for name in state})


@pytest.mark.parametrize("name", ["revivals", "drawn", "beam"])
@pytest.mark.parametrize("training", [False, True])
def test_an_exported_graph_takes_any_number_of_rows(name, training):
    layer = made(name).train(training)
    rows = {1: torch.export.Dim("time", min=2)}
    exported = torch.export.export(layer, (normal(2, 20, 16),), dynamic_shapes=(rows,)).module()
    assert exported(normal(2, 99, 16))[1].shape == (2, 99, 3)


def test_an_exported_training_graph_keeps_its_gradients():
    layer, x = made("chain"), normal(2, 20, 16)
    exported = torch.export.export(copy.deepcopy(layer), (x.clone().requires_grad_(),)).module()
    gradients = []
    for call in (exported, layer):
        rows = x.clone().requires_grad_()
        quantized, _, losses = call(rows)
        (quantized.square().sum() + losses.sum()).backward()
        gradients.append(rows.grad)
    torch.testing.assert_close(*gradients)


def test_an_export_before_the_start_is_refused():
    with raises("ResidualVQ: kmeans_init must be done before an export"):
        torch.export.export(made("start"), (normal(2, 20, 16),), strict=False)
