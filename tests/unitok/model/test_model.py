"""The network against the equations of the paper, written out once more here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unitok import SemanticIds, UniTokConfig, UniTokModel
from unitok.config import PRESETS
from unitok.model.mixture import DenseMixtureVQ
from unitok.training.initialisation import place_router, start_codebooks
from unitok.training.losses import reconstruction_loss

CHAINS = [name for name in PRESETS if name != "public_code"]
WIDTH, EXPERTS, LEVELS, SIZE, DIM = 24, 4, 3, 16, 8


def parameters(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


@pytest.fixture
def make_model(make_config):
    """A model whose codebooks are drawn at the latents' scale, finer from level to level."""

    def make(preset: str, top_k: int = 1, num_experts: int = EXPERTS, **changes) -> UniTokModel:
        config = make_config(
            preset=preset, top_k=top_k, num_levels=LEVELS, codebook_size=SIZE, codebook_dim=DIM, **changes
        )
        torch.manual_seed(3)
        model = UniTokModel(WIDTH, num_experts, config)
        fine = 0.5 ** torch.arange(LEVELS)[:, None, None]
        with torch.no_grad():
            for codebooks in (model.quantizer.codebooks, model.quantizer.shared_codebooks):
                if codebooks is not None:
                    codebooks.copy_(torch.randn(codebooks.shape) * fine)
        return model

    return make


@pytest.fixture
def x() -> Tensor:
    return torch.randn(70, WIDTH, generator=torch.Generator().manual_seed(5))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def chain(row: np.ndarray, codebooks: np.ndarray) -> tuple[list[int], np.ndarray]:
    """c_l = argmin_k |r_l - C_lk|^2, r_{l+1} = r_l - C_l,c_l; codes and the sum of the codewords."""
    codes, total = [], np.zeros_like(row)
    for codebook in codebooks:
        codes.append(int(((row - total - codebook) ** 2).sum(1).argmin()))
        total = total + codebook[codes[-1]]
    return codes, total


def by_the_equations(model: UniTokModel, z: np.ndarray, preset: str, top_k: int):
    """z_hat, slot codes and shared codes, a row and an expert at a time."""
    weight, bias = array(model.router.weight), array(model.router.bias)
    experts, shared = array(model.quantizer.codebooks), array(model.quantizer.shared_codebooks)
    z_hat, codes, shared_codes = [], [], []
    for row in z:
        p = np.exp(weight @ row + bias)
        p /= p.sum()
        chosen = np.argsort(-p, kind="stable")[:top_k]
        if preset == "public_code":
            left, emitted, common = row.copy(), [[] for _ in chosen], []
            for level in range(LEVELS):
                nearest = [int(((left - experts[e, level]) ** 2).sum(1).argmin()) for e in range(len(p))]
                common.append(int(((left - shared[level]) ** 2).sum(1).argmin()))
                mixture = sum(p[e] * experts[e, level, nearest[e]] for e in range(len(p)))
                left = left - 0.95 * mixture - 0.05 * shared[level, common[-1]]
                for slot, expert in enumerate(chosen):
                    emitted[slot].append(nearest[expert])
            z_hat.append(row - left)
            codes.append(emitted)
            shared_codes.append(common)
            continue
        common, base = chain(row, shared)
        found = [chain(row - base if preset == "shared_first" else row, experts[e]) for e in chosen]
        mix = sum(p[e] * total for e, (_, total) in zip(chosen, found, strict=True))
        if preset == "paper":
            z_hat.append(mix + base)
        elif preset == "normalised":
            z_hat.append(0.5 * mix / p[chosen].sum() + 0.5 * base)
        else:
            z_hat.append(base + mix / p[chosen].sum())
        codes.append([c for c, _ in found])
        shared_codes.append(common)
    return np.array(z_hat), np.array(codes), np.array(shared_codes)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_z_hat_is_that_of_the_equations(preset: str, top_k: int, make_model, x: Tensor) -> None:
    model = make_model(preset, top_k)
    out = model(x)
    z_hat, codes, shared_codes = by_the_equations(model, array(out.z), preset, top_k)
    np.testing.assert_allclose(array(out.quantized.quantized), z_hat, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(out.quantized.codes.numpy(), codes)
    np.testing.assert_array_equal(out.quantized.shared_codes.numpy(), shared_codes)
    torch.testing.assert_close(out.x_hat, model.decoder(out.quantized.quantized))


@pytest.mark.parametrize("top_k", [1, 2])
def test_paper_has_the_scale_fault_and_normalised_does_not(top_k: int, make_items, make_config) -> None:
    x = torch.cat([make_items(80, seed=s, width=WIDTH) for s in range(3)])
    domains = torch.arange(3).repeat_interleave(80)
    scale, error = {}, {}
    for preset in CHAINS:
        torch.manual_seed(0)
        model = UniTokModel(WIDTH, 3, make_config(preset=preset, top_k=top_k))
        with torch.no_grad():
            z = model.encoder(x)
            place_router(model, z, domains, 3, seed=0)
            start_codebooks(model, z, seed=0)
            out = model(x)
        z_hat = out.quantized.quantized
        kept = out.routing.probs.gather(1, out.routing.experts).sum(1)
        scale[preset] = float((z_hat * z).sum() / z.square().sum())
        error[preset] = float((z_hat - z).square().sum() / z.square().sum())
        if preset == "paper":
            assert scale[preset] == pytest.approx(1 + float(kept.mean()), rel=0.1)
    assert scale["normalised"] == pytest.approx(1, abs=0.1)
    assert scale["shared_first"] == pytest.approx(1, abs=0.1)
    assert error["paper"] > 0.5
    assert error["paper"] > 5 * error["normalised"]
    assert error["shared_first"] < error["normalised"]


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    return z + (q - z).detach()


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", CHAINS)
def test_straight_through_is_taken_for_each_expert(preset: str, top_k: int, make_model, x: Tensor) -> None:
    model = make_model(preset, top_k)
    learned = [*model.encoder.parameters(), *model.decoder.parameters(), *model.router.parameters()]
    out = model(x)
    ours = torch.autograd.grad(reconstruction_loss(x, out.x_hat), learned)

    z = model.encoder(x)
    p = torch.softmax(model.router(z), 1)
    weights, experts = p.topk(top_k)
    if preset != "paper":
        weights = weights / weights.sum(1, keepdim=True)
    with torch.no_grad():
        shared = sum(
            c[code] for c, code in zip(model.quantizer.shared_codebooks, out.quantized.shared_codes.T, strict=True)
        )
        slots = [
            sum(model.quantizer.codebooks[e, level, codes[:, level]] for level in range(LEVELS))
            for e, codes in zip(experts.T, out.quantized.codes.unbind(1), strict=True)
        ]
    start = z - shared if preset == "shared_first" else z
    mix = sum(w[:, None] * straight_through(start, q) for w, q in zip(weights.T, slots, strict=True))
    z_hat = {
        "paper": lambda: mix + straight_through(z, shared),
        "normalised": lambda: 0.5 * mix + 0.5 * straight_through(z, shared),
        "shared_first": lambda: mix + shared,
    }[preset]()
    expected = torch.autograd.grad(reconstruction_loss(x, model.decoder(z_hat)), learned)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_reconstruction_trains_the_router_of_the_paper(make_model, x: Tensor) -> None:
    model = make_model("paper")
    out = model(x)
    (gradient,) = torch.autograd.grad(reconstruction_loss(x, out.x_hat), [model.router.weight], retain_graph=True)
    assert gradient.abs().max() > 1e-3
    whole = model.decoder(straight_through(out.z, out.quantized.quantized))  # the trap: one estimate for the sum
    (nothing,) = torch.autograd.grad(reconstruction_loss(x, whole), [model.router.weight], allow_unused=True)
    assert nothing is None


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_latents_get_the_gradient_of_the_weights_sum(preset: str, top_k: int, make_model) -> None:
    model = make_model(preset, top_k)
    with torch.no_grad():  # a router that answers alike everywhere adds nothing of its own to the gradient
        model.router.weight.zero_()
        model.router.bias.copy_(torch.tensor([1.0, 0.5, 0.0, -0.5]))
    z = torch.randn(9, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
    routing = model.route(model.router(z), z)
    g = torch.randn(9, DIM, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((g * model.quantize(z, routing).quantized).sum(), [z])
    p = torch.softmax(model.router.bias, 0)[:top_k].sum().item()
    total = {"paper": p + 1, "normalised": 1, "shared_first": 1, "public_code": 1}[preset]
    torch.testing.assert_close(gradient, total * g, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", CHAINS)
def test_codebooks_learn_from_their_own_loss_alone(preset: str, top_k: int, make_model, x: Tensor) -> None:
    model = make_model(preset, top_k)
    codebooks = [model.quantizer.codebooks, model.quantizer.shared_codebooks]
    out = model(x)
    kept = {"allow_unused": True, "retain_graph": True}
    assert torch.autograd.grad(reconstruction_loss(x, out.x_hat), codebooks, **kept) == (None, None)
    for gradient in torch.autograd.grad(out.quantized.loss, codebooks, **kept):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_without_experts_it_is_a_plain_rq_vae(preset: str, make_model, x: Tensor) -> None:
    model = make_model(preset, num_experts=0)
    names = {name for name, _ in model.named_parameters() if not name.startswith(("encoder", "decoder"))}
    assert names == {"quantizer.codebooks"}
    assert model.router is None
    assert model.quantizer.codebooks.shape == (1, LEVELS, SIZE, DIM)
    out = model(x)
    codebooks = array(model.quantizer.codebooks)[0]
    codes, sums = zip(*(chain(row, codebooks) for row in array(out.z)), strict=True)
    np.testing.assert_array_equal(out.quantized.codes[:, 0].numpy(), codes)
    np.testing.assert_allclose(array(out.quantized.quantized), sums, atol=2e-6)
    assert out.quantized.shared_codes is None
    assert not out.routing.experts.any()
    assert torch.equal(out.routing.weights, torch.ones(len(x), 1))


def test_parameter_counts_are_the_published_constants() -> None:
    config = UniTokConfig(
        preset="paper",
        num_levels=4,
        codebook_size=256,
        codebook_dim=32,
        encoder_widths=(2048, 1024, 512, 256, 128, 64),
    )
    with torch.device("meta"):
        model, single = UniTokModel(768, 10, config), UniTokModel(768, 0, config)
    assert parameters(model.encoder) + parameters(model.decoder) == 8_745_632
    assert parameters(model.quantizer) == 360_448 == 11 * 4 * 256 * 32
    assert parameters(model.router) == 330
    assert parameters(model) == 9_106_410
    assert parameters(single) == 8_745_632 + 4 * 256 * 32
    assert 10 * parameters(single) / 1e6 == pytest.approx(87.78, abs=0.005)
    assert 10 * parameters(single) / parameters(model) == pytest.approx(9.64, abs=0.005)
    widths = [(layer.in_features, layer.out_features) for layer in model.encoder if hasattr(layer, "in_features")]
    assert widths == [(768, 2048), (2048, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 32)]
    mirrored = [(layer.out_features, layer.in_features) for layer in model.decoder if hasattr(layer, "in_features")]
    assert mirrored == widths[::-1]


def test_equal_logits_go_to_the_lowest_expert(make_model) -> None:
    model = make_model("normalised", top_k=2)
    z = torch.zeros(5, DIM)
    routing = model.route(torch.tensor([[0.0, 1.0, 1.0, 1.0]]).repeat(5, 1).double(), z)
    assert routing.experts.tolist() == [[1, 2]] * 5
    torch.testing.assert_close(routing.weights, torch.full((5, 2), 0.25))
    torch.testing.assert_close(routing.probs.sum(1), torch.ones(5))


def test_more_slots_than_experts_are_refused(make_config, refuses) -> None:
    with refuses("UniTokModel", "top_k"):
        UniTokModel(WIDTH, 2, make_config(top_k=3))


@pytest.mark.parametrize("preset", PRESETS)
def test_no_rows_work(preset: str, make_model, x: Tensor) -> None:
    out = make_model(preset, top_k=2)(x[:0])
    assert out.x_hat.shape == (0, WIDTH)
    assert out.quantized.codes.shape == (0, 2, LEVELS)
    assert out.quantized.loss == 0


def test_stable_encoding_is_the_float64_encoder_rounded_once(make_model, x: Tensor) -> None:
    model = make_model("paper")
    z, logits = model.encode(x)
    exact = x.double().numpy()
    layers = [layer for layer in model.encoder if hasattr(layer, "weight")]
    for depth, layer in enumerate(layers):
        exact = np.maximum(exact, 0) if depth else exact
        exact = exact @ array(layer.weight).T + array(layer.bias)
    assert np.array_equal(z.numpy(), exact.astype(np.float32))
    router = z.double().numpy() @ array(model.router.weight).T + array(model.router.bias)
    np.testing.assert_allclose(logits.numpy(), router, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(z, model.encoder(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", CHAINS)
def test_latents_of_whole_ids_are_z_hat_but_for_the_weights(preset: str, top_k: int, make_model, x: Tensor) -> None:
    model = make_model(preset, top_k)
    out = model(x)
    model.remember_means(out.routing, out.quantized)
    torch.testing.assert_close(model.mean_weights, out.routing.weights.mean(0))
    ids = SemanticIds(
        out.quantized.codes[:, 0],
        out.routing.experts,
        SIZE,
        EXPERTS,
        shared_codes=out.quantized.shared_codes,
        slot_codes=out.quantized.codes,
    )
    mean = model.mean_weights.expand_as(out.routing.weights)
    told = model.quantize(out.z, out.routing._replace(weights=mean)).quantized
    torch.testing.assert_close(model.latents(ids), told, rtol=1e-5, atol=1e-5)

    bare = model.latents(replace(ids, shared_codes=None, slot_codes=None))
    top = model.codewords(ids.codes, ids.experts[:, 0])
    if preset == "shared_first":  # the mean shared vector of each expert's rows stands in
        chosen = zip(model.quantizer.shared_codebooks, ids.shared_codes.T, strict=True)
        base = torch.stack([codebook[code] for codebook, code in chosen]).sum(0)
        for expert in ids.experts[:, 0].unique():
            rows = ids.experts[:, 0] == expert
            torch.testing.assert_close(bare[rows] - top[rows], base[rows].mean(0).expand(int(rows.sum()), -1))
    else:
        stand_in = model.mean_weights.sum() + (1.0 if preset == "paper" else 0.5)
        torch.testing.assert_close(bare, stand_in * top)


def test_experts_that_an_id_does_not_name_leave_their_share_of_the_mixture(make_model, x: Tensor) -> None:
    for top_k in (1, 2):
        model = make_model("public_code", top_k)
        out = model(x)
        model.remember_means(out.routing, out.quantized)
        assert model.mean_weights.sum().item() == pytest.approx(0.95)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_that_could_not_be_encoded_decodes_to_nothing(preset: str, make_model, x: Tensor) -> None:
    model = make_model(preset)
    out = model(x)
    model.remember_means(out.routing, out.quantized)
    nothing = SemanticIds(torch.full((1, LEVELS), -1), torch.tensor([[-1]]), SIZE, EXPERTS)
    assert not model.latents(nothing).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_last_residual_is_what_the_last_code_is_nearest_to(preset: str, make_model, x: Tensor) -> None:
    model = make_model(preset, top_k=2)
    out = model(x)
    with torch.no_grad():
        left = model.last_residual(out.z, out.routing, out.quantized)
        tables = model.quantizer.codebooks[out.routing.experts[:, 0], -1]
    nearest = (left[:, None] - tables).square().sum(2).argmin(1)
    assert torch.equal(nearest, out.quantized.codes[:, 0, -1])


def test_the_dense_mixture_pays_for_what_the_mixture_misses() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DenseMixtureVQ(DIM, 3, 2, SIZE, routed_weight=0.95, shared_weight=0.05, commitment_weight=0.25)
    z = torch.randn(40, DIM, generator=generator, requires_grad=True)
    probs = torch.softmax(torch.randn(40, 3, generator=generator), 1)
    out = layer(z, probs.argmax(1, keepdim=True), probs)
    left, missed = z.detach().clone(), 0.0
    for level in range(2):
        mixture = 0.05 * layer.shared_codebooks[level][out.shared_codes[:, level]]
        for expert in range(3):
            code = torch.cdist(left.double(), layer.codebooks[expert, level].double()).argmin(1)
            mixture = mixture + 0.95 * probs[:, expert, None] * layer.codebooks[expert, level][code]
        left = (left - mixture).detach()
        missed += left.square().sum(1).mean().item()
        assert out.level_error[level].item() == pytest.approx(left.square().mean().item(), rel=1e-4)
    assert out.loss.item() == pytest.approx(1.25 * missed, rel=1e-4)
    (codebooks, by_z) = torch.autograd.grad(out.loss, [layer.codebooks, z])
    assert codebooks.abs().max() > 0
    assert by_z.abs().max() > 0
    parts = z.new_zeros(())  # a level's codebooks answer for their own level alone
    rows = z
    for level in range(2):
        mixture = 0.05 * layer.shared_codebooks[level][out.shared_codes[:, level]]
        for expert in range(3):
            code = torch.cdist(rows.detach().double(), layer.codebooks[expert, level].detach().double()).argmin(1)
            mixture = mixture + 0.95 * probs[:, expert, None] * layer.codebooks[expert, level][code]
        parts = parts + (rows.detach() - mixture).square().sum(1).mean()
        parts = parts + 0.25 * (rows - mixture.detach()).square().sum(1).mean()
        rows = rows - mixture.detach()
    by_hand = torch.autograd.grad(parts, [layer.codebooks, z])
    for mine, theirs in zip((codebooks, by_z), by_hand, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    alone = layer(z[7:8], probs[7:8].argmax(1, keepdim=True), probs[7:8])
    assert torch.equal(alone.quantized, out.quantized[7:8])
