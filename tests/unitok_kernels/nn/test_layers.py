"""The drop-in layers: their codes keep the promise, their codebooks learn, start, revive, and are tied and copied."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import random
import re

import pytest
import torch
from torch.nn import functional as F

import unitok_kernels as uk
from tests.unitok_kernels.helpers.codebooks import books
from tests.unitok_kernels.helpers.oracle import assert_chain, normal, raises
from unitok_kernels.nn import (
    GroupedResidualVQ,
    GroupedResidualVQConfig,
    ResidualVQ,
    ResidualVQConfig,
    VectorQuantize,
    VectorQuantizeConfig,
)

CHAIN = {"dim": 16, "codebook_size": 32, "num_quantizers": 3}


def made(**options):
    torch.manual_seed(0)
    return ResidualVQ(**{**CHAIN, **options})


def test_evaluation_is_one_call(monkeypatch):
    calls, real = [], uk.residual_encode
    monkeypatch.setattr(uk, "residual_encode", lambda *a, **k: (calls.append(k), real(*a, **k))[1])
    layer, x = made(precision="fast", check_finite=False, backend="reference"), normal(2, 50, 16)
    layer.eval()(x)
    layer.train()(x)
    assert calls == 2 * [{"precision": "fast", "check_finite": False, "backend": "reference"}]


@pytest.mark.parametrize("options", [{}, {"codebook_size": (8, 32, 16), "num_quantizers": None}])
def test_codes_keep_the_promise(options):
    layer, x = made(**options).eval(), normal(2, 50, 16)
    quantized, codes, losses = layer(x)
    flat, codebooks = codes.flatten(0, 1), layer.codebooks
    if not isinstance(codebooks, torch.Tensor):  # filled up by codewords that are nobody's nearest
        codebooks = torch.stack([F.pad(book, (0, 0, 0, 32 - len(book)), value=1e3) for book in codebooks])
    residuals = assert_chain(flat, x.flatten(0, 1), codebooks)
    assert all(int(flat[:, level].max()) < size for level, size in enumerate(layer.config.sizes))
    torch.testing.assert_close(quantized.flatten(0, 1), x.flatten(0, 1) - residuals[-1])
    assert torch.equal(losses, torch.zeros(3))


@pytest.mark.parametrize("options", [{}, {"use_cosine_sim": True}, {"beam_size": 3}])
@pytest.mark.parametrize("training", [False, True])
def test_no_rows_work_and_move_nothing(options, training):
    layer = made(**options, threshold_ema_dead_code=2).train(training)
    before = copy.deepcopy(layer.state_dict())
    quantized, codes, losses = layer(torch.empty(2, 0, 16, requires_grad=training))
    assert quantized.shape == (2, 0, 16)
    assert codes.shape == (2, 0, 3)
    assert losses.eq(0).all()
    assert layer.get_output_from_indices(codes).shape == (2, 0, 16)
    assert layer.get_codes_from_indices(codes).shape == (3, 2, 0, 16)
    revived = [name for name, value in layer.state_dict().items() if "embed" in name and not value.isfinite().all()]
    assert not revived
    assert set(before) == set(layer.state_dict())


def test_training_is_repeatable_to_the_bit_for_any_number_of_threads(one_and_two_threads):
    def train():
        layer = made(threshold_ema_dead_code=2)
        torch.manual_seed(1)
        for seed in range(3):
            rows = normal(4, 500, 16, seed=seed).requires_grad_()
            quantized, _, losses = layer(rows)
            (quantized.square().sum() + losses.sum()).backward()
        return [rows.grad, *layer.state_dict().values()]

    one, two = one_and_two_threads(train)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_dead_codewords_are_revived_by_rows_of_the_batch():
    layer, x = made(num_quantizers=1, threshold_ema_dead_code=2), normal(1, 40, 16).abs()
    (book,) = books(layer)
    book.embed.copy_(torch.cat((normal(1, 4, 16, seed=1).abs(), -100 * torch.ones(1, 28, 16)), 1))
    book.embed_avg.copy_(book.embed)
    layer(x)
    gone = (book.embed[0] < -50).all(1)
    assert not gone.any()
    assert (book.embed[0][4:, None] == x[0]).all(2).any(1).all()
    assert len(book.embed[0][4:].unique(dim=0)) == 28
    assert book.cluster_size[0][4:].eq(2).all()
    torch.testing.assert_close(book.embed_avg[0][4:], 2 * book.embed[0][4:])


def test_fewer_rows_than_dead_codewords_revive_as_many():
    layer, x = made(num_quantizers=1, threshold_ema_dead_code=2), normal(1, 5, 16)
    before = layer.codebooks[0].clone()
    layer(x)
    moved = (layer.codebooks[0] - before).abs().amax(1) > 0.05
    assert 1 <= int(moved.sum()) <= 10  # five rows, and the codewords that they chose


def test_a_shared_codebook_is_revived_by_rows_of_all_levels():
    layer, x = made(shared_codebook=True, threshold_ema_dead_code=1e9), normal(1, 60, 16)
    codes = layer(x)[1]
    book, before = layer.codebooks[0], made(shared_codebook=True).codebooks[0]
    inputs, residual = [], x[0]
    for level in range(3):
        inputs.append(residual)
        residual = residual - before[codes[0, :, level]]
    found = [bool((rows == codeword).all(1).any()) for codeword in book for rows in inputs]
    assert sum(found) == 32
    assert all(any(found[level::3]) for level in range(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_layer_in_another_precision_learns(dtype):
    layer, x = made(threshold_ema_dead_code=2, codebook_dim=8).to(dtype), normal(2, 50, 16).to(dtype)
    before = layer.codebooks.clone()
    quantized, _, losses = layer(x.requires_grad_())
    (quantized.square().sum() + losses.sum()).backward()
    assert quantized.dtype == layer.codebooks.dtype == x.grad.dtype == dtype
    assert not torch.equal(layer.codebooks, before)
    assert bool(layer.codebooks.isfinite().all())


def test_dropped_levels_are_drawn_on_the_device():
    layer, x = made(num_quantizers=6, quantize_dropout=True, quantize_dropout_cutoff_index=1), normal(2, 5, 16)
    kept = {int((layer(x)[1][0, 0] >= 0).sum()) for _ in range(60)}
    assert kept == {2, 3, 4, 5, 6}
    layer = made(num_quantizers=6, quantize_dropout=True, quantize_dropout_multiple_of=2)
    assert {int((layer(x)[1][0, 0] >= 0).sum()) for _ in range(60)} == {2, 4, 6}
    state = random.getstate()
    layer(x)
    assert random.getstate() == state


def test_groups_drop_the_same_levels():
    layer = GroupedResidualVQ(**{**CHAIN, "num_quantizers": 6}, groups=2, quantize_dropout=True)
    for _ in range(10):
        codes = layer(normal(2, 5, 16))[1]
        assert torch.equal(codes[0] < 0, codes[1] < 0)


def test_diveq_teaches_the_codebooks():
    layer, x = made(diveq=True), normal(2, 50, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    errors = []
    for _ in range(40):
        quantized = layer(x.clone().requires_grad_())[0]
        loss = (quantized - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.8 * errors[0]


def test_a_directional_step_is_as_long_as_the_error():
    torch.manual_seed(0)
    layer = VectorQuantize(16, 32, directional_reparam=True)
    x = normal(2, 50, 16).requires_grad_()
    quantized, codes, loss = layer(x)
    error = torch.linalg.vector_norm(layer.codebook[codes] - x, dim=-1)
    torch.testing.assert_close(torch.linalg.vector_norm(quantized - x, dim=-1), error)
    assert loss == 0
    quantized.square().sum().backward()
    (codewords,) = layer.parameters()
    assert codewords.grad.ne(0).any()


def test_a_start_is_kept_by_the_state():
    layer, x = made(kmeans_init=True), normal(2, 200, 16)
    assert not any(book.initted for book in books(layer))
    layer.eval()(x)
    assert all(book.initted for book in books(layer))
    assert layer(x)[0].sub(x).square().mean() < 0.5 * x.square().mean()
    other = made(kmeans_init=True).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(2 * x)[1], layer(2 * x)[1])  # no second start
    for book in books(layer):
        book.initted.fill_(False)
    fresh = made(kmeans_init=True).eval()
    fresh.load_state_dict(layer.state_dict())
    fresh(2 * x)
    assert not torch.equal(fresh.codebooks, layer.codebooks)


@pytest.mark.parametrize("kind", ["rows", "mask", "heads"])
def test_a_start_waits_for_rows(kind):
    if kind == "heads":
        layer = VectorQuantize(16, 8, codebook_dim=8, heads=2, separate_codebook_per_head=True, kmeans_init=True)
    else:
        layer = made(kmeans_init=True, threshold_ema_dead_code=2)
    book = books(layer)[0]
    if kind == "mask":
        layer(normal(2, 50, 16), mask=torch.zeros(2, 50, dtype=torch.bool))
    else:
        layer(torch.empty(2, 0, 16))
    assert not book.initted
    assert book.embed.eq(0).all()
    x = normal(2, 200, 16)
    layer(x)
    assert book.initted
    assert layer.eval()(x)[0].sub(x).square().mean() < 0.95 * x.square().mean()


def test_averages_without_a_row_move_nothing():
    layer = made(decay=0.0)
    before = layer.codebooks.clone()
    layer(torch.empty(2, 0, 16))
    assert torch.equal(layer.codebooks, before)


def test_layers_can_be_tied():
    one, other, x = VectorQuantize(16, 32), VectorQuantize(16, 32), normal(2, 50, 16)
    other._codebook = one._codebook
    assert torch.equal(other.eval()(x)[1], one.eval()(x)[1])
    chain = made()
    chain.layers[1]._codebook = chain.layers[0]._codebook
    assert int(chain(x)[1].max()) < 32
    assert torch.equal(chain.codebooks[0], chain.codebooks[1])


def test_copies_hold_no_step():
    layer = made()
    size = len(pickle.dumps(layer))
    layer(normal(2, 50, 16))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert len(pickle.dumps(twin)) <= size + 100
        assert torch.equal(twin.eval()(normal(2, 50, 16))[1], layer.eval()(normal(2, 50, 16))[1])


@pytest.mark.parametrize("options", [{}, {"commitment_weight": 0.0}])
def test_the_loss_of_a_step_takes_backward_where_nothing_learns_by_it(options):
    for layer in (made(**options), VectorQuantize(16, 32, **options)):
        layer(normal(2, 5, 16))[2].sum().backward()
        assert not layer.eval()(normal(2, 5, 16))[2].requires_grad
        with torch.no_grad():
            assert not layer.train()(normal(2, 5, 16))[2].requires_grad


def test_a_codebook_can_be_set():
    layer = VectorQuantize(16, 32)
    layer.codebook = normal(32, 16)
    assert torch.equal(layer.codebook, normal(32, 16))
    assert torch.equal(books(layer)[0].embed[0], normal(32, 16))


@pytest.mark.parametrize(
    ("kind", "config", "options"),
    [
        (VectorQuantize, VectorQuantizeConfig, {"dim": 16, "codebook_size": 32, "heads": 2}),
        (ResidualVQ, ResidualVQConfig, {**CHAIN, "decay": 0.9}),
        (GroupedResidualVQ, GroupedResidualVQConfig, {**CHAIN, "groups": 2}),
    ],
)
def test_a_config_says_the_same(kind, config, options):
    assert kind(config(**options)).config == kind(**options).config
    name = kind.__name__
    with raises(f"{name}: config must be a {config.__name__}, alone, got {config.__name__} and decay", TypeError):
        kind(config(**options), decay=0.5)
    for made in (kind, config):
        name, mistake = made.__name__, {**options, "codebook_sise": 3}
        message = f"{name}: codebook_sise must be an option of {name}, got 3. Did you mean codebook_size?"
        with raises(re.escape(message), TypeError):
            made(**mistake)
    name = kind.__name__
    with raises(f"{name}: dim must be given, got nothing", TypeError):
        kind(codebook_size=3)
    for option, off in config.off.items():
        kind(**options, **{option: off})
        with raises(f"{name}: {option} must be left at ", TypeError):
            kind(**options, **{option: "on"})


@pytest.mark.parametrize("kind", ["VectorQuantize", "ResidualVQ"])
def test_every_option_of_theirs_is_known_with_its_default(kind):
    theirs = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch isn't installed")
    config = {"VectorQuantize": VectorQuantizeConfig, "ResidualVQ": ResidualVQConfig}[kind]
    own = {field.name: field.default for field in dataclasses.fields(config)} | config.off
    parameters = dict(inspect.signature(getattr(theirs, kind)).parameters)
    if parameters.pop("vq_kwargs", None):  # theirs hands the rest on to its levels
        parameters = {**inspect.signature(theirs.VectorQuantize).parameters, **parameters}
    for name, parameter in parameters.items():
        assert name in own, name
        if parameter.default is not inspect.Parameter.empty:
            assert own[name] == parameter.default, name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"heads": 2}, TypeError, "heads must be 1, got 2"),
        ({"num_quantizers": None}, ValueError, "num_quantizers must be an int beside one codebook_size"),
        ({"codebook_size": (4, 4)}, ValueError, "codebook_size must be of 3 levels, got 2"),
        ({"codebook_size": (4, 8, 4), "shared_codebook": True}, ValueError, "codebook_size must be one where"),
        ({"learnable_codebook": True}, ValueError, "ema_update must be False where"),
        ({"learnable_codebook": True, "ema_update": False, "use_cosine_sim": True}, ValueError, "use_cosine_sim must"),
        ({"eval_beam_size": 3}, ValueError, "beam_size must be an int"),
        ({"beam_score_quantizer_weights": (1.0,)}, ValueError, "beam_score_quantizer_weights must be of 3 weights"),
        ({"quantize_dropout": True, "quantize_dropout_cutoff_index": 3}, ValueError, "quantize_dropout_cutoff_index"),
        ({"quantize_dropout_cutoff_index": -1}, ValueError, "quantize_dropout_cutoff_index must be between 0 and 2"),
        ({"quantize_dropout_multiple_of": 0}, ValueError, "quantize_dropout_multiple_of must be at least 1"),
        ({"codebook_dim": 0}, ValueError, "codebook_dim must be at least 1"),
        ({"codebook_size": 8.0}, TypeError, "codebook_size must be an int, got float"),
        ({"num_quantizers": 2.0}, TypeError, "num_quantizers must be an int, got float"),
        ({"decay": "slow"}, TypeError, "decay must be a float or an int, got str"),
        ({"kmeans_init": "yes"}, TypeError, "kmeans_init must be a bool, got str"),
        ({"precision": "low"}, ValueError, "precision must be one of 'exact', 'fast'"),
        ({"dim": 1.5}, TypeError, "dim must be an int"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, message):
    with raises("ResidualVQ: " + message, error):
        made(**options)


def test_an_estimator_is_asked_for_once():
    with raises("VectorQuantize: rotation_trick must be left out beside directional_reparam"):
        VectorQuantize(16, 32, directional_reparam=True, rotation_trick=True)


def test_a_cutoff_is_free_where_nothing_is_dropped():
    assert (
        made(num_quantizers=1, quantize_dropout=True, quantize_dropout_cutoff_index=1)(normal(2, 5, 16))[1].ge(0).all()
    )


@pytest.mark.parametrize("sizes", [32, (8, 32, 32)])
def test_indices_that_do_not_fit_are_refused(sizes):
    layer = made(codebook_size=sizes)
    for decode in (layer.get_codes_from_indices, layer.get_output_from_indices):
        with raises("ResidualVQ: indices must be of at most 3 levels, got 4"):
            decode(torch.zeros(2, 5, 4, dtype=torch.int64))
        with raises("codes must be between -1 and "):
            decode(torch.full((2, 5, 3), 31 if sizes != 32 else 32))
    with raises("codes must be between -1 and 31, got 32"):
        VectorQuantize(16, 32).get_output_from_indices(torch.full((2, 5), 32))


def test_levels_of_several_sizes_decode():
    layer = made(codebook_size=(8, 32, 16)).eval()
    quantized, codes, _ = layer(normal(2, 5, 16))
    torch.testing.assert_close(layer.get_output_from_indices(codes), quantized)
    groups = GroupedResidualVQ(dim=16, codebook_size=(8, 32), groups=2).codebooks
    assert [[tuple(book.shape) for book in group] for group in groups] == 2 * [[(8, 8), (32, 8)]]


def test_inputs_that_do_not_fit_are_refused():
    layer, x = made(), normal(2, 5, 16)
    with raises("ResidualVQ: x must be of width 16"):
        layer(x[..., :8])
    with raises("ResidualVQ: mask must be of shape .2, 5., got .2, 4."):
        layer(x, torch.ones(2, 4, dtype=torch.bool))
    with raises("ResidualVQ: mask must be of bools, got torch.int64", TypeError):
        layer(x, torch.ones(2, 5, dtype=torch.int64))
    for rows, lens in ((x, 3), (x[0], 5)):
        with raises("ResidualVQ: lens must be of shape .B,., beside x of shape .B, T, D."):
            layer(rows, lens=torch.ones(lens, dtype=torch.int64))
    with raises("ResidualVQ: lens must be left out beside mask"):
        layer(x, torch.ones(2, 5, dtype=torch.bool), lens=torch.tensor([1, 2]))
    with raises("ResidualVQ: x must be of shape .B, D, H, W."):
        made(accept_image_fmap=True)(x)
    with pytest.raises(TypeError, match="indices"):
        layer(x, indices=torch.zeros(2, 5, 3))
    with raises("z must be finite, got nan"):
        layer(torch.full((2, 5, 16), torch.nan))


def test_the_printed_form_tells_the_sizes():
    assert "dim=16, codebook_sizes=(32, 32, 32)" in repr(made())
    assert "dim=16, codebook_size=32, heads=1" in repr(VectorQuantize(16, 32))
