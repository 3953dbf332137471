"""What vector-quantize-pytorch 1.32 gets wrong, beside what our layers make of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.unitok_kernels.helpers.oracle import assert_nearest, normal
from tests.unitok_kernels.helpers.side_by_side import close, pair
from unitok_kernels import nn

CHAIN = {"dim": 16, "codebook_size": 32, "num_quantizers": 3}


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_codes_are_right_at_any_scale(scale):
    peer, own = (layer.eval() for layer in pair("VectorQuantize", dim=16, codebook_size=32))
    x, codebook = scale * normal(200, 16), scale * normal(32, 16, seed=1)
    for layer in (peer, own):
        layer.codebook = codebook
    right = torch.cdist(x.double(), codebook.double()).argmin(1)
    assert_nearest(own(x)[1], x, codebook)
    if scale < 1:  # theirs floors squared distances at 1e-8
        assert (peer(x)[1] != right).float().mean() > 0.9


def test_codes_are_right_at_an_offset():
    peer, own = (layer.eval() for layer in pair("VectorQuantize", dim=16, codebook_size=32))
    x, codebook = 1000 + normal(200, 16), 1000 + normal(32, 16, seed=1)
    for layer in (peer, own):
        layer.codebook = codebook
    assert_nearest(own(x)[1], x, codebook)
    right = torch.cdist(x.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert (peer(x)[1] != right).float().mean() > 0.2


def test_a_chain_in_bfloat16_keeps_its_codes():
    peer, own = (layer.eval() for layer in pair("ResidualVQ", **{**CHAIN, "num_quantizers": 6}))
    x = normal(2, 200, 16).bfloat16()
    right = own(x.float())[1]
    assert torch.equal(own(x)[1], right)  # residuals are float32, whatever the rows are
    assert own(x)[0].dtype == torch.bfloat16
    assert (peer(x)[1] != right).any()


@pytest.mark.parametrize("options", [{}, {"use_cosine_sim": True}, {"use_cosine_sim": True, "beam_size": 3}])
def test_autocast_keeps_codes_and_averages(options):
    plain, mixed = (nn.ResidualVQ(**CHAIN, **options, threshold_ema_dead_code=0.5) for _ in range(2))
    mixed.load_state_dict(plain.state_dict())
    x = normal(2, 200, 16)
    torch.manual_seed(0)
    expected = plain(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixed(x)
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(mixed.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_every_level_learns_under_a_beam():
    peer, own = pair("ResidualVQ", **CHAIN, beam_size=3)
    before = copy.deepcopy(own.state_dict())
    x = normal(2, 50, 16).requires_grad_()
    expected, found = peer(x), own(x)
    assert torch.equal(found[1], expected[1])
    close(found, expected, "a beam")
    name = "layers.2._codebook.cluster_size"
    counts = torch.bincount(found[1][..., 2].flatten(), minlength=32)
    close(own.state_dict()[name][0], torch.lerp(torch.ones(32), counts.float(), 0.2), "cluster_size")
    assert torch.equal(peer.state_dict()[name], before[name])  # theirs updates the first level alone


def test_a_chain_takes_images_and_channels_first():
    for options, shape in (({"accept_image_fmap": True}, (2, 16, 5, 6)), ({"channel_last": False}, (2, 16, 30))):
        peer, own = pair("ResidualVQ", **CHAIN, **options)
        x = normal(*shape)
        with pytest.raises(Exception, match=r"[Ss]ize|shape"):
            peer(x)
        rows = own.eval()(x)
        plain = nn.ResidualVQ(**CHAIN).eval()
        plain.load_state_dict(own.state_dict())
        expected = plain(x.flatten(2).transpose(1, 2))
        assert torch.equal(rows[0].flatten(2).transpose(1, 2), expected[0])
        assert torch.equal(rows[1].flatten(1, -2), expected[1])
        assert torch.equal(own.get_output_from_indices(rows[1]).flatten(1, -2), expected[0])


def test_a_full_mask_changes_no_loss():
    mask = torch.ones(2, 50, dtype=torch.bool)
    x = normal(2, 50, 16).requires_grad_()
    for options in ({"use_cosine_sim": True}, {"codebook_dim": 8}, {"heads": 2, "codebook_dim": 8}):
        peer, own = pair("VectorQuantize", dim=16, codebook_size=32, **options)
        plain = copy.deepcopy(own)
        close(own(x, mask=mask), plain(x), "with a mask")
        try:
            loss = peer(x, mask=mask)[2]
        except RuntimeError:  # shapes of projected rows
            continue
        assert (loss - plain(x)[2]).abs() > 0.1  # measured on the rows before they were normalised


def test_padding_counts_for_nothing():
    peer, own = pair("ResidualVQ", **CHAIN)
    mask = torch.zeros(2, 50, dtype=torch.bool)
    x = normal(2, 50, 16).requires_grad_()
    assert peer(x, mask=mask)[2].isnan().all()
    quantized, codes, losses = own(x, mask=mask)
    assert losses.eq(0).all()
    assert codes.eq(-1).all()
    assert quantized.eq(0).all()
    x = torch.where(mask[..., None], x.detach(), torch.nan)
    x[0, :10], mask[0, :10] = 1.0, True
    assert own(x, mask=mask)[2].isfinite().all()


def test_heads_that_share_a_codebook_decode():
    peer, own = pair("VectorQuantize", dim=16, codebook_size=32, heads=2, codebook_dim=4)
    quantized, codes, _ = own.eval()(normal(2, 50, 16))
    with pytest.raises(RuntimeError):
        peer.get_output_from_indices(codes)
    torch.testing.assert_close(own.get_output_from_indices(codes), quantized)


def test_a_checkpoint_of_learnt_codebooks_keeps_their_gradients():
    options = {**CHAIN, "learnable_codebook": True, "ema_update": False, "threshold_ema_dead_code": 0.9}
    plain = nn.ResidualVQ(**options)
    again = copy.deepcopy(plain)
    gradients = []
    for layer, call in ((plain, plain), (again, lambda x: checkpoint(again, x, use_reentrant=False))):
        torch.manual_seed(0)
        quantized, _, losses = call(normal(2, 50, 16).requires_grad_())
        (quantized.square().sum() + losses.sum()).backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    close(*gradients, "gradient")
    copy.deepcopy(again)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_checkpoint_of_what_stays_as_it_is_takes_the_codebooks_of_its_call(frozen):
    layer, after, x = nn.ResidualVQ(**CHAIN), torch.nn.Linear(16, 16), normal(2, 50, 16)
    layer(x)  # a step that moves them
    layer.train(frozen)
    gradients = []
    for through in (lambda call, x: call(x), lambda call, x: checkpoint(call, x, use_reentrant=False)):
        after.zero_grad()
        out = through(lambda x: after(layer(x, freeze_codebook=frozen)[0]), x.clone().requires_grad_())
        out.square().sum().backward()
        gradients.append(after.weight.grad.clone())
    assert torch.equal(*gradients)


def test_what_draws_after_a_checkpointed_layer_draws_the_same_again():
    plain = nn.ResidualVQ(**CHAIN, threshold_ema_dead_code=2, quantize_dropout=True, stochastic_sample_codes=True)
    again, x, gradients = copy.deepcopy(plain), normal(2, 50, 16), []
    for layer, through in (
        (plain, lambda call, x: call(x)),
        (again, lambda call, x: checkpoint(call, x, use_reentrant=False)),
    ):
        torch.manual_seed(1)
        rows = x.clone().requires_grad_()
        through(lambda x, layer=layer: torch.dropout(layer(x)[0], 0.5, True), rows).sum().backward()
        gradients.append(rows.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_learns_once(reentrant):
    def train(layer, through):
        rows = normal(2, 50, 16).requires_grad_()
        upstream = normal(2, 50, 16, seed=1)
        quantized, _, losses = through(layer, rows)
        ((quantized * upstream).sum() + losses.sum()).backward()
        return rows.grad, {name: value.clone() for name, value in layer.state_dict().items()}

    def checkpointed(layer, rows):
        return checkpoint(layer, rows, use_reentrant=reentrant)

    peer, own = pair("ResidualVQ", **CHAIN)
    again = copy.deepcopy(own)
    expected = train(own, lambda layer, rows: layer(rows))
    close(train(again, checkpointed)[0], expected[0], "gradient")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in expected[1].items())
    _, state = train(peer, checkpointed)
    name = "layers.0._codebook.cluster_size"
    assert not torch.allclose(state[name], expected[1][name])  # theirs learns from the batch twice


def test_evaluation_adds_no_noise():
    peer, own = (layer.eval() for layer in pair("ResidualVQ", **CHAIN, diveq=True))
    x = normal(2, 50, 16)
    quantized, codes, _ = own(x)
    torch.testing.assert_close(quantized, own.get_output_from_indices(codes))
    assert not torch.allclose(peer(x)[0], peer.get_output_from_indices(codes), atol=1e-2)


def test_gradients_reach_what_learns_beside_rows_that_need_none():
    # Theirs asks the rows of the layer, not those that it has projected; and an embedding that the orthogonal loss
    # alone is to teach gets the output's gradients as well.
    peer, own = pair("VectorQuantize", dim=16, codebook_size=32, codebook_dim=4)
    for layer, learns in ((peer, False), (own, True)):
        layer(normal(2, 50, 16))[0].square().sum().backward()
        assert (layer.project_in.weight.grad is not None) is learns
    peer, own = pair("VectorQuantize", dim=16, codebook_size=32, orthogonal_reg_weight=1.0)
    gradients = []
    for layer in (peer, own):
        quantized, _, loss = layer(normal(2, 50, 16))
        (quantized.square().sum() + loss).backward()
        (codewords,) = layer.parameters()
        gradients.append(codewords.grad.abs().max())
    assert gradients[0] > 100 * gradients[1]


def test_groups_of_images_decode():
    _, own = pair("GroupedResidualVQ", **CHAIN, groups=2, accept_image_fmap=True)
    quantized, codes, _ = own.eval()(normal(2, 16, 5, 6))
    assert torch.equal(own.get_output_from_indices(codes).movedim(-1, 1), quantized)
