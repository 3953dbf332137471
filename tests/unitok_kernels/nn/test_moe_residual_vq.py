"""MoEResidualVQ is its operations put together: values, losses, and where gradients go and where not."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal, raises
from unitok_kernels.nn import MoEResidualVQ


def case(rows=60, slots=2):
    weights = normal(rows, slots, seed=1).softmax(1)
    return normal(rows, 6), integers(3, rows, slots, seed=2), weights


def layer(**options):
    torch.manual_seed(0)
    made = MoEResidualVQ(6, 3, num_levels=2, codebook_size=8, **options)
    for parameter in made.parameters():
        parameter.data.mul_(8)  # from 1/K to the spread of the rows, so that codes differ
    return made


def test_parallel_is_the_operation_with_the_shared_chain():
    made, (z, ids, weights) = layer(shared_weight=0.5), case()
    output = made(z, ids, weights)
    found = uk.moe_residual_encode(z, made.codebooks, ids, weights, made.shared_codebooks, 0.5)
    assert torch.equal(output.quantized, found.combined)
    assert torch.equal(output.codes, found.codes)
    assert torch.equal(output.shared_codes, found.shared_codes)
    assert torch.equal(output.level_error, found.level_error)


def test_none_is_the_operation_without_it():
    made, (z, ids, weights) = layer(shared="none"), case()
    output = made(z, ids, weights)
    assert made.shared_codebooks is None
    assert output.shared_codes is None
    assert torch.equal(output.quantized, uk.moe_residual_encode(z, made.codebooks, ids, weights).combined)


def test_first_routes_what_the_shared_chain_left():
    made, (z, ids, weights) = layer(shared="first"), case()
    output = made(z, ids, weights)
    shared = uk.residual_encode(z, made.shared_codebooks)
    routed = uk.moe_residual_encode(z - shared.quantized, made.codebooks, ids, weights)
    assert torch.equal(output.quantized, shared.quantized + routed.combined)
    assert torch.equal(output.codes, routed.codes)
    assert torch.equal(output.shared_codes, shared.codes)


@pytest.mark.parametrize("shared", ["parallel", "first", "none"])
def test_the_loss_is_the_sum_over_the_chains_used(shared):
    made, (z, ids, weights) = layer(shared=shared, commitment_weight=0.5), case()
    output = made(z, ids, weights)
    rest, expected = z, torch.zeros(())
    if shared != "none":
        chain = uk.residual_encode(z, made.shared_codebooks)
        expected = uk.residual_loss(z, chain.codes, made.shared_codebooks, commitment_weight=0.5)
        rest = z - chain.quantized if shared == "first" else z
    expected = expected + uk.moe_residual_loss(rest, output.codes, made.codebooks, ids, commitment_weight=0.5)
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(("shared", "slope"), [("parallel", 1.25), ("first", 1.0), ("none", 1.0)])
def test_quantized_carries_gradients_to_rows_and_router_and_none_to_codebooks(shared, slope):
    made, (z, ids, weights) = layer(shared=shared, shared_weight=0.25), case()
    z.requires_grad_()
    weights.requires_grad_()
    upstream = normal(60, 6, seed=5)
    made(z, ids, weights).quantized.backward(upstream)
    torch.testing.assert_close(z.grad, slope * upstream)  # the routed weights sum to 1
    assert weights.grad.ne(0).all()
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("shared", ["parallel", "first", "none"])
def test_the_loss_carries_gradients_to_codebooks_and_rows_and_none_to_the_router(shared):
    made, (z, ids, weights) = layer(shared=shared), case()
    z.requires_grad_()
    weights.requires_grad_()
    made(z, ids, weights).loss.backward()
    assert z.grad.ne(0).any()
    assert weights.grad is None
    assert all(parameter.grad.ne(0).any() for parameter in made.parameters())


@pytest.mark.parametrize("shared", ["parallel", "first", "none"])
def test_training_lowers_the_error(shared):
    made, (z, ids, weights) = layer(shared=shared), case()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = made(z, ids, weights).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("shared", ["parallel", "first", "none"])
def test_settings_reach_every_operation(shared, monkeypatch):
    settings = {"check_finite": False, "backend": "reference"}
    seen = {}

    def recorded(name, real):
        def call(*arguments, **keywords):
            seen[name] = keywords
            return real(*arguments, **keywords)

        return call

    for name in ("residual_encode", "moe_residual_encode", "residual_loss", "moe_residual_loss"):
        monkeypatch.setattr(uk, name, recorded(name, getattr(uk, name)))
    layer(shared=shared, precision="fast", **settings)(*case())
    assert "moe_residual_encode" in seen
    assert ("residual_loss" in seen) == (shared != "none")
    assert ("residual_encode" in seen) == (shared == "first")
    for name, keywords in seen.items():
        assert {key: keywords[key] for key in settings} == settings
        assert keywords.get("precision", "fast" if "loss" in name else None) == "fast"


@pytest.mark.parametrize("shared", ["parallel", "first", "none"])
def test_a_bad_row_is_refused_or_learns_and_teaches_nothing(shared):
    z, ids, weights = case()
    bad_z, bad_weights = z.clone(), weights.clone()
    bad_z[0], bad_weights[0] = torch.nan, torch.nan
    with raises("z must be finite, got nan at row 0"):
        layer(shared=shared)(bad_z, ids, bad_weights)
    made = layer(shared=shared, check_finite=False)
    output, clean = made(bad_z.requires_grad_(), ids, bad_weights.requires_grad_()), made(z, ids, weights)
    assert output.codes[0].eq(-1).all()
    assert output.quantized[0].eq(0).all()
    assert torch.equal(output.quantized[1:], clean.quantized[1:])
    (output.quantized.sum() + output.loss).backward()
    grads = [bad_z.grad, bad_weights.grad, *(parameter.grad for parameter in made.parameters())]
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert bad_z.grad[0].eq(0).all()
    assert bad_weights.grad[0].eq(0).all()


def test_no_rows_give_no_loss():
    made, (z, ids, weights) = layer(), case(rows=0)
    output = made(z, ids, weights)
    assert output.quantized.shape == (0, 6)
    assert float(output.loss.detach()) == 0


def test_the_state_holds_the_codebooks_and_comes_back():
    made = layer()
    shapes = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    assert shapes == {"codebooks": (3, 2, 8, 6), "shared_codebooks": (2, 8, 6)}
    assert "dim=6, num_experts=3, num_levels=2, codebook_size=8, shared='parallel'" in repr(made)
    other = layer()
    other.load_state_dict(made.state_dict())
    z, ids, weights = case()
    assert torch.equal(other(z, ids, weights).quantized, made(z, ids, weights).quantized)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_levels": 0}, "num_levels must be at least 1, got 0"),
        ({"codebook_size": -1}, "codebook_size must be at least 1, got -1"),
        ({"precision": "low"}, "precision must be one of 'exact', 'fast', got 'low'"),
        ({"shared": "last"}, "shared must be one of 'parallel', 'first', 'none', got 'last'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, match):
    with raises("^MoEResidualVQ: " + match):
        MoEResidualVQ(**{"dim": 4, "num_experts": 2, **arguments})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 4.0),
        ("num_experts", None),
        ("num_levels", "4"),
        ("codebook_size", True),
        ("shared_weight", "x"),
        ("commitment_weight", None),
        ("precision", 3),
        ("check_finite", "yes"),
        ("backend", 3),
    ],
)
def test_a_wrong_type_is_named(name, value):
    with raises(f"^MoEResidualVQ: {name} must be .*, got {type(value).__name__}", TypeError):
        MoEResidualVQ(**{"dim": 4, "num_experts": 2, name: value})


def test_the_operation_s_errors_come_through():
    made, (z, ids, weights) = layer(), case()
    with raises("^moe_residual_encode: z must be of width 6, as codebooks is, got 5"):
        made(z[:, :5], ids, weights)
    with raises("^moe_residual_encode: expert_ids must be between 0 and 2, got 3 at index"):
        made(z, ids + 1, weights)


@pytest.mark.parametrize("shared", ["parallel", "first"])
def test_compiles_without_a_graph_break(shared):
    made, (z, ids, weights) = layer(shared=shared), case()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (compiled, made):
        made.zero_grad()
        rows = z.clone().requires_grad_()
        output = call(rows, ids, weights)
        (output.quantized.square().sum() + output.loss).backward()
        grads.append([rows.grad, *(parameter.grad.clone() for parameter in made.parameters())])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)
