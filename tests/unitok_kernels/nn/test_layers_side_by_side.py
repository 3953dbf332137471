"""Each option gives what vector-quantize-pytorch's layers give, over steps of training and in evaluation."""

from __future__ import annotations

import pytest
import torch

from tests.unitok_kernels.helpers.side_by_side import batch, close, evaluated, pair, same_draws, trained

__all__ = ["same_draws"]

SINGLE = {"dim": 16, "codebook_size": 32}
CHAIN = {**SINGLE, "num_quantizers": 3}
SHAPE = (2, 50, 16)
MANY = (2, 400, 16)

CASES = {
    "one codebook": ("VectorQuantize", SINGLE, SHAPE),
    "straight-through": ("VectorQuantize", {**SINGLE, "rotation_trick": False}, SHAPE),
    "cosine": ("VectorQuantize", {**SINGLE, "use_cosine_sim": True}, SHAPE),
    "learnt": ("VectorQuantize", {**SINGLE, "learnable_codebook": True, "ema_update": False}, SHAPE),
    "narrow": ("VectorQuantize", {**SINGLE, "codebook_dim": 8, "layernorm_after_project_in": True}, SHAPE),
    "heads": ("VectorQuantize", {**SINGLE, "codebook_dim": 4, "heads": 2}, SHAPE),
    "a codebook a head": (
        "VectorQuantize",
        {**SINGLE, "codebook_dim": 4, "heads": 4, "separate_codebook_per_head": True},
        SHAPE,
    ),
    "heads, cosine": ("VectorQuantize", {**SINGLE, "codebook_dim": 4, "heads": 2, "use_cosine_sim": True}, SHAPE),
    "orthogonal": ("VectorQuantize", {**SINGLE, "orthogonal_reg_weight": 2.0}, SHAPE),
    "orthogonal, used codewords": (
        "VectorQuantize",
        {**SINGLE, "orthogonal_reg_weight": 2.0, "orthogonal_reg_active_codes_only": True},
        SHAPE,
    ),
    "channels first": ("VectorQuantize", {**SINGLE, "channel_last": False}, (2, 16, 50)),
    "image": ("VectorQuantize", {**SINGLE, "accept_image_fmap": True}, (2, 16, 5, 6)),
    "image, heads": (
        "VectorQuantize",
        {**SINGLE, "accept_image_fmap": True, "heads": 2, "codebook_dim": 8, "separate_codebook_per_head": True},
        (2, 16, 5, 6),
    ),
    "video": ("VectorQuantize", {**SINGLE, "accept_3d_fmap": True}, (2, 16, 3, 4, 5)),
    "no time": ("VectorQuantize", SINGLE, (40, 16)),
    "no time, heads": ("VectorQuantize", {**SINGLE, "codebook_dim": 4, "heads": 2}, (40, 16)),
    "rows of width 1": ("VectorQuantize", {**SINGLE, "dim": 1, "codebook_dim": 8}, (2, 50, 1)),
    "chain, codewords of width 1": ("ResidualVQ", {**CHAIN, "codebook_dim": 1, "num_quantizers": 1}, SHAPE),
    "chain": ("ResidualVQ", CHAIN, SHAPE),
    "chain, straight-through": ("ResidualVQ", {**CHAIN, "rotation_trick": False}, SHAPE),
    "chain, cosine": ("ResidualVQ", {**CHAIN, "use_cosine_sim": True}, SHAPE),
    "chain, one codebook": ("ResidualVQ", {**CHAIN, "shared_codebook": True}, SHAPE),
    "chain, narrow": ("ResidualVQ", {**CHAIN, "codebook_dim": 8}, SHAPE),
    "chain, sizes": ("ResidualVQ", {"dim": 16, "codebook_size": (8, 32, 16)}, SHAPE),
    "chain, learnt": ("ResidualVQ", {**CHAIN, "learnable_codebook": True, "ema_update": False}, SHAPE),
    "chain, slow": ("ResidualVQ", {**CHAIN, "decay": 0.99, "eps": 1e-2, "commitment_weight": 0.25}, SHAPE),
    "chain, no time": ("ResidualVQ", CHAIN, (40, 16)),
    "groups": ("GroupedResidualVQ", {**CHAIN, "groups": 2}, SHAPE),
}


@pytest.mark.parametrize("case", CASES)
def test_training_and_evaluation_agree(case):
    kind, options, shape = CASES[case]
    layers = pair(kind, **options)
    trained(layers, shape)
    one_of_several = options.get("heads", 1) > 1 and not options.get("separate_codebook_per_head")
    evaluated(layers, shape, decodes=not one_of_several)  # theirs can't decode those


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("VectorQuantize", SINGLE),
        ("VectorQuantize", {**SINGLE, "return_zeros_for_masked_padding": False}),
        ("VectorQuantize", {**SINGLE, "channel_last": False}),
        ("ResidualVQ", CHAIN),
        ("ResidualVQ", {**CHAIN, "return_zeros_for_masked_padding": False, "rotation_trick": False}),
        ("ResidualVQ", {**CHAIN, "codebook_dim": 8}),
        ("GroupedResidualVQ", {**CHAIN, "groups": 2}),
    ],
)
def test_masks_leave_out_the_same_rows(kind, options):
    shape = (2, 16, 50) if options.get("channel_last") is False else SHAPE
    mask = torch.arange(50) < torch.tensor([[30], [41]])
    layers = pair(kind, **options)
    trained(layers, shape, mask=mask)
    evaluated(layers, shape, mask=mask)


@pytest.mark.parametrize("dim", [1, 16])
@pytest.mark.parametrize("codebook_dim", [1, 8])
def test_gradients_are_rotated_by_default_where_theirs_are(dim, codebook_dim):
    peer, own = pair("VectorQuantize", dim=dim, codebook_size=8, codebook_dim=codebook_dim)
    assert (own.config.estimator == "rotation") is peer.rotation_trick
    peer, own = pair("ResidualVQ", dim=dim, codebook_size=8, num_quantizers=1, codebook_dim=codebook_dim)
    assert (own.config.estimator == "rotation") is peer.layers[0].rotation_trick


def test_lengths_leave_out_the_same_rows():
    layers = pair("VectorQuantize", **SINGLE)
    trained(layers, SHAPE, lens=torch.tensor([30, 41]))
    evaluated(layers, SHAPE, lens=torch.tensor([30, 41]))


@pytest.mark.parametrize("kind", ["VectorQuantize", "ResidualVQ"])
@pytest.mark.parametrize("cosine", [False, True])
def test_drawn_codes_are_the_same(kind, cosine):
    options = {**(SINGLE if kind == "VectorQuantize" else CHAIN), "use_cosine_sim": cosine}
    layers = pair(kind, **options, stochastic_sample_codes=True, sample_codebook_temp=0.5)
    trained(layers, SHAPE)
    trained(layers, SHAPE, steps=2, sample_codebook_temp=0.1)
    evaluated(layers, SHAPE)  # draws nothing


@pytest.mark.parametrize("kind", ["VectorQuantize", "ResidualVQ"])
@pytest.mark.parametrize(
    "options",
    [{"kmeans_init": True, "kmeans_iters": 5}, {"kmeans_init": True, "use_cosine_sim": True}, {}],
    ids=["start", "start, cosine", "random"],
)
def test_starts_and_revivals_agree(kind, options, same_draws):
    # A codeword of one row leaves it nothing but rounding, by whose length the rotation trick would divide.
    common = SINGLE if kind == "VectorQuantize" else {**CHAIN, "rotation_trick": False}
    layers = pair(kind, **common, **options, threshold_ema_dead_code=2)
    same_draws(layers[0])
    trained(layers, MANY)
    evaluated(layers, MANY)


def test_starts_and_revivals_leave_padding_out(same_draws):
    layers = pair("VectorQuantize", **SINGLE, kmeans_init=True, threshold_ema_dead_code=2)
    same_draws(layers[0])
    trained(layers, SHAPE, mask=torch.arange(50) < torch.tensor([[30], [41]]))


def test_a_shared_codebook_starts_alike(same_draws):
    layers = pair("ResidualVQ", **CHAIN, kmeans_init=True, shared_codebook=True, rotation_trick=False)
    same_draws(layers[0])
    trained(layers, MANY)


@pytest.mark.parametrize(
    "options", [{}, {"quantize_dropout_cutoff_index": 1}, {"quantize_dropout_multiple_of": 2}, {"ema_update": True}]
)
def test_dropped_levels_are_the_same(options):
    layers = pair("ResidualVQ", **{**CHAIN, "num_quantizers": 6}, quantize_dropout=True, **options)
    for seed in range(12):
        trained(layers, SHAPE, steps=2, rand_quantize_dropout_fixed_seed=seed)
    evaluated(layers, SHAPE)
    (peer, own), (_, indices, _) = layers, layers[1](torch.randn(SHAPE))
    coarse = indices[..., :2]
    torch.testing.assert_close(own.get_output_from_indices(coarse), peer.get_output_from_indices(coarse))
    torch.testing.assert_close(own.get_codes_from_indices(coarse), peer.get_codes_from_indices(coarse))


def also_later_levels(layer):
    """Have their layer learn at every level under a beam: its own loop ends after the first."""
    forward = layer.forward

    def learn(x, mask=None, **call):
        before = layer.codebooks.clone()
        out = forward(x, mask=mask, **call)
        residual = x.detach()
        for level, (vq, codes) in enumerate(zip(layer.layers, out[1].unbind(-1), strict=True)):
            if layer.training and level and bool((codes >= 0).any()):
                vq.update_indices(residual, codes, mask=mask)
            residual = residual - before[level][codes.clamp(min=0)]
        return out

    layer.forward = learn


BEAMS = [{}, {"use_cosine_sim": True}, {"beam_score_quantizer_weights": [1.0, 0.5, 0.25]}, {"commitment_weight": 0.25}]


@pytest.mark.parametrize("options", [*BEAMS, {"commitment_weight": 0.0}])
@pytest.mark.parametrize("masked", [False, True])
def test_beams_find_the_same_chains(options, masked):
    layers = pair("ResidualVQ", **CHAIN, beam_size=4, **options)
    mask = {"mask": torch.arange(50) < torch.tensor([[30], [41]])} if masked else {}
    evaluated(layers, SHAPE, **mask)
    evaluated(layers, SHAPE, beam_size=2, return_all_codes=True, **mask)


@pytest.mark.parametrize("options", [*BEAMS, {"rotation_trick": False}, {"quantize_dropout": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_beams_learn_alike(options, masked):
    layers = pair("ResidualVQ", **CHAIN, beam_size=4, **options)
    also_later_levels(layers[0])
    mask = {"mask": torch.arange(50) < torch.tensor([[30], [41]])} if masked else {}
    seed = {"rand_quantize_dropout_fixed_seed": 3} if options.get("quantize_dropout") else {}
    trained(layers, SHAPE, **mask, **seed)
    evaluated(layers, SHAPE, **mask)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_beam_draws_codes_alike(cosine, monkeypatch):
    # The same noise for every row: theirs and ours keep the chains of a beam in another order.
    noise = {size: torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (32,)}
    monkeypatch.setattr("unitok_kernels.nn.search.gumbel", lambda scores: noise[scores.shape[-1]].expand_as(scores))
    monkeypatch.setattr(
        "vector_quantize_pytorch.vector_quantize_pytorch.gumbel_noise", lambda t: noise[t.shape[-1]].expand_as(t)
    )
    options = {"beam_size": 3, "use_cosine_sim": cosine, "stochastic_sample_codes": True, "sample_codebook_temp": 0.5}
    layers = pair("ResidualVQ", **CHAIN, **options)
    also_later_levels(layers[0])
    trained(layers, SHAPE, steps=5)
    nearest = pair("ResidualVQ", **{**CHAIN, **options, "stochastic_sample_codes": False})[1]
    x, _ = batch(0, *SHAPE)
    assert not torch.equal(nearest(x)[1], pair("ResidualVQ", **CHAIN, **options)[1](x)[1])


def test_evaluation_may_have_a_beam_of_its_own():
    evaluated(pair("ResidualVQ", **CHAIN, beam_size=2, eval_beam_size=4), SHAPE)


@pytest.mark.parametrize("used_alone", [False, True])
def test_orthogonality_takes_the_same_codewords(used_alone, monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda size, **_: torch.arange(size))
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.linspace(0, 1, size))
    options = {"orthogonal_reg_weight": 2.0, "orthogonal_reg_active_codes_only": used_alone}
    trained(pair("VectorQuantize", **SINGLE, **options, orthogonal_reg_max_codes=9), SHAPE)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("multiple", [1, 3])
def test_a_beam_ends_where_levels_are_dropped(seed, multiple):
    options = {"beam_size": 4, "quantize_dropout": True, "quantize_dropout_multiple_of": multiple}
    peer, own = pair("ResidualVQ", **{**CHAIN, "num_quantizers": 5}, **options)
    x, _ = batch(0, *SHAPE)
    expected, found = (layer(x, rand_quantize_dropout_fixed_seed=seed) for layer in (peer, own))
    close(found, expected, "a cut beam")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("VectorQuantize", {**SINGLE, "directional_reparam": True, "threshold_ema_dead_code": 1e-9}),
        ("ResidualVQ", {**CHAIN, "diveq": True}),
    ],
)
def test_noisy_directions_give_the_same_step(kind, options, same_draws):
    layers = pair(kind, **options)
    same_draws(layers[0])  # the noise is then all that is drawn
    trained(layers, SHAPE)


def test_codebooks_alone_learn_without_gradients_to_the_input():
    options = {"learnable_codebook": True, "ema_update": False, "route_gradients_to_input": False}
    trained(pair("ResidualVQ", **CHAIN, **options), SHAPE)


def test_frozen_codebooks_stay_and_all_codes_are_given():
    layers = pair("ResidualVQ", **CHAIN)
    trained(layers, SHAPE, freeze_codebook=True, return_all_codes=True)
    trained(layers, SHAPE, return_all_codes=True)
    evaluated(layers, SHAPE, return_all_codes=True)
    torch.testing.assert_close(layers[1].codebooks, layers[0].codebooks)
    layers = pair("VectorQuantize", **SINGLE, freeze_codebook=True)
    trained(layers, SHAPE)


def test_learnt_codebooks_get_gradients_without_the_input():
    layers = pair("ResidualVQ", **CHAIN, learnable_codebook=True, ema_update=False)
    x = torch.randn(SHAPE)
    for layer in layers:
        quantized, _, losses = layer(x)
        (quantized.square().sum() + losses.sum()).backward()
    for own, peer in zip(layers[1].parameters(), layers[0].parameters(), strict=True):
        torch.testing.assert_close(own.grad, peer.grad, rtol=1e-4, atol=1e-5)


def test_the_parts_of_the_loss_are_the_same():
    layers = pair("VectorQuantize", **SINGLE, orthogonal_reg_weight=2.0, commitment_weight=0.5)
    (*_, expected), (*_, found) = (layer(torch.ones(SHAPE), return_loss_breakdown=True) for layer in layers)
    assert found._fields == expected._fields
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-4, atol=1e-6)
