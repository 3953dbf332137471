"""The losses against the equations, written out with whole matrices; their gradients; what they do to a model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unitok import LossWeights, Tokenizer, UniTokModel
from unitok.training.losses import calibration_loss, losses, reconstruction_loss


def kernel(rows: Tensor, sigma: float | None) -> Tensor:
    squared = (rows[:, None] - rows).square().sum(2)
    variance = squared[squared > 0].median() if sigma is None else sigma**2
    return torch.exp(-squared / (2 * variance))


def hsic_by_the_equation(x: Tensor, z: Tensor, sigma: float | None) -> Tensor:
    """trace(U H V H) / (n - 1)^2."""
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    return torch.trace(kernel(x, sigma) @ centre @ kernel(z, sigma) @ centre) / (n - 1) ** 2


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Rows of three domains in any order, in float64: 20, 9 and 31 of them."""
    generator = torch.Generator().manual_seed(0)
    domains = torch.tensor([0] * 20 + [1] * 9 + [2] * 31)[torch.randperm(60, generator=generator)]
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    z = x[:, :3] * torch.tensor([1.0, 0.3, 2.0])[domains, None] + 0.5 * torch.randn(
        60, 3, generator=generator, dtype=torch.float64
    )
    return x, z, domains


def test_reconstruction_is_the_mean_squared_distance(batch) -> None:
    x, z, _ = batch
    by_hand = sum(float(((a - b) ** 2).sum()) for a, b in zip(x[:, :3], z, strict=True)) / len(x)
    assert reconstruction_loss(x[:, :3], z).item() == pytest.approx(by_hand)
    assert reconstruction_loss(x[:0], x[:0]) == 0


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("bandwidth", ["median", 1.7])
@pytest.mark.parametrize("beta", [1.0, 0.0, 0.4])
def test_calibration_is_that_of_the_equation(batch, beta: float, bandwidth: float | str, normalised: bool) -> None:
    x, z, domains = batch
    sigma = None if bandwidth == "median" else bandwidth
    values = []
    for domain in range(3):
        a, b = x[domains == domain], z[domains == domain]
        value = hsic_by_the_equation(a, b, sigma)
        if normalised:
            value /= (hsic_by_the_equation(a, a, sigma) * hsic_by_the_equation(b, b, sigma)).sqrt()
        values.append(float(value))
    mean = sum(values) / 3
    variance = sum((value - mean) ** 2 for value in values) / 3
    found = calibration_loss(x, z, domains, 3, beta=beta, bandwidth=bandwidth, normalised=normalised)
    assert found.values.tolist() == pytest.approx(values, rel=1e-9)
    assert found.variance.item() == pytest.approx(variance, rel=1e-9)
    assert found.loss.item() == pytest.approx(variance - beta * mean, rel=1e-9)


@pytest.mark.parametrize("normalised", [False, True])
def test_calibration_passes_gradcheck(batch, normalised: bool) -> None:
    x, z, domains = batch
    z = z.clone().requires_grad_()

    def loss(latents: Tensor) -> Tensor:
        # a fixed bandwidth: the median is held constant in the gradient, which finite differences can't know
        return calibration_loss(x, latents, domains, 3, bandwidth=1.5, normalised=normalised).loss

    assert torch.autograd.gradcheck(loss, (z,), atol=1e-7)
    by_median = calibration_loss(x, z, domains, 3, normalised=normalised).loss
    (gradient,) = torch.autograd.grad(by_median, z)
    assert gradient.abs().max() > 1e-5
    for domain in range(3):
        assert gradient[domains == domain].abs().max() > 0


def test_a_domain_of_few_rows_is_dropped_and_said(batch) -> None:
    x, z, domains = batch
    few = torch.cat([(domains != 1).nonzero().squeeze(1), (domains == 1).nonzero().squeeze(1)[:3]])
    whole = calibration_loss(x, z, domains, 3)
    z = z[few].clone().requires_grad_()
    found = calibration_loss(x[few], z, domains[few], 3, beta=1.0)
    assert found.values.isnan().tolist() == [False, True, False]
    kept = whole.values[[0, 2]]
    assert found.variance.item() == pytest.approx(kept.var(correction=0).item())
    assert found.loss.item() == pytest.approx((kept.var(correction=0) - kept.mean()).item())
    (gradient,) = torch.autograd.grad(found.loss, z)
    assert not gradient[domains[few] == 1].any()
    assert gradient.isfinite().all()

    nothing = calibration_loss(x[:2], z[:2], domains[:2], 3)
    assert (nothing.loss, nothing.variance) == (0, 0)
    assert nothing.values.isnan().all()


@pytest.fixture
def unequal() -> tuple[Tensor, Tensor, Tensor]:
    """Rows of four domains in any order, in float64: 17, 40, 52 and 5 of them."""
    generator = torch.Generator().manual_seed(0)
    domains = torch.tensor([0] * 17 + [1] * 40 + [2] * 52 + [3] * 5)[torch.randperm(114, generator=generator)]
    x = torch.randn(114, 6, generator=generator, dtype=torch.float64)
    z = x[:, :3] * torch.tensor([1.0, 0.3, 2.0, 1.0], dtype=torch.float64)[domains, None]
    return x, z + 0.5 * torch.randn(114, 3, generator=generator, dtype=torch.float64), domains


@pytest.mark.parametrize("normalised", [False, True])
def test_variation_is_that_of_groups_of_equally_many_rows(unequal, normalised: bool) -> None:
    x, z, domains = unequal
    values = []
    for domain in range(3):  # the fourth has too few rows, and doesn't make the others' groups small
        a, b = x[domains == domain], z[domains == domain]
        found = []
        for start in range(0, len(a) - 16, 17):
            u, v = a[start : start + 17], b[start : start + 17]
            value = hsic_by_the_equation(u, v, None)
            if normalised:
                value /= (hsic_by_the_equation(u, u, None) * hsic_by_the_equation(v, v, None)).sqrt()
            found.append(float(value))
        assert len(found) == (1, 2, 3)[domain]
        values.append(sum(found) / len(found))
    mean = sum(values) / 3
    variance = sum((value - mean) ** 2 for value in values) / 3
    found = calibration_loss(x, z, domains, 4, form="variation", beta=7.0, normalised=normalised)
    assert found.values[:3].tolist() == pytest.approx(values, rel=1e-9)
    assert found.values[3].isnan()
    assert found.variance.item() == pytest.approx(variance, rel=1e-9)
    assert found.loss.item() == pytest.approx(math.sqrt(variance) / mean, rel=1e-4)


def test_variation_passes_gradcheck_and_has_no_scale(unequal) -> None:
    x, z, domains = unequal
    z = z.clone().requires_grad_()

    def loss(latents: Tensor) -> Tensor:
        return calibration_loss(x, latents, domains, 4, form="variation", bandwidth=1.5).loss

    assert torch.autograd.gradcheck(loss, (z,), atol=1e-7)
    assert torch.autograd.grad(loss(z), z)[0].abs().max() > 1e-3


def test_variation_of_one_domain_or_none_is_nothing(unequal) -> None:
    x, z, domains = unequal
    for rows in (domains == 1, domains == 3):
        latents = z[rows].clone().requires_grad_()
        found = calibration_loss(x[rows], latents, domains[rows], 4, form="variation")
        assert found.loss < 1e-3
        assert found.variance == 0
        assert not torch.autograd.grad(found.loss, latents)[0].any()


def test_variation_makes_domains_equal_where_the_paper_form_does_nothing(make_config) -> None:
    """Beside the other losses: domains of 16, of 11 and of 8 dimensions, whose estimates differ by nature."""
    generator = torch.Generator().manual_seed(0)
    rows = {n: torch.randn(256, n, generator=generator) @ torch.randn(n, 16, generator=generator) for n in (16, 11, 8)}
    items = {str(n): torch.nn.functional.normalize(x, dim=1) for n, x in rows.items()}

    def spread(form: str, weight: float) -> float:
        weights = LossWeights(calibration=weight)
        config = make_config(epochs=12, calibration=form, weights=weights, min_domain_rows=32)
        equal = torch.tensor(list(Tokenizer.fit(items, config).history[-1]["equal_hsic"].values()))
        return float(equal.std(correction=0) / equal.mean())

    without = spread("paper", 0.0)
    assert spread("paper", 0.03) > 0.8 * without
    assert spread("variation", 0.3) < 0.5 * without


@pytest.mark.parametrize("preset", ["paper", "normalised", "shared_first"])
def test_quantisation_sums_chains_and_levels(preset: str, make_config, make_items) -> None:
    torch.manual_seed(0)
    weights = LossWeights(0.7, 1.3, commitment=0.25, calibration=0.2)
    config = make_config(preset=preset, top_k=2, weights=weights)
    model, x = UniTokModel(32, 3, config), make_items(50, seed=0)
    domains = torch.arange(50) % 3
    with torch.no_grad():
        out = model(x)
    common = (model.quantizer.shared_codebooks, out.quantized.shared_codes)
    shared = sum(codebook[code] for codebook, code in zip(common[0], common[1].T, strict=True))
    chains = [(out.z, *common)]
    start = out.z - shared if preset == "shared_first" else out.z
    for slot in range(2):
        tables = model.quantizer.codebooks[out.routing.experts[:, slot]].transpose(0, 1)  # (L, N, K, D)
        chains.append((start, tables, out.quantized.codes[:, slot]))
    total = 0.0
    for rows, tables, codes in chains:
        left = rows
        for table, code in zip(tables, codes.T, strict=True):
            left = left - (table[torch.arange(50), code] if table.dim() == 3 else table[code])
            total += 1.25 * left.square().sum(1).mean().item()
    found = losses(x, out, domains, 3, config)
    assert found.quantisation.item() == pytest.approx(total, rel=1e-4)
    assert found.reconstruction.item() == pytest.approx(reconstruction_loss(x, out.x_hat).item())
    l_mi = calibration_loss(x, out.z, domains, 3).loss.item()
    by_hand = 0.7 * found.reconstruction.item() + 1.3 * total + 0.2 * l_mi
    assert found.total.item() == pytest.approx(by_hand, rel=1e-4)


def test_without_weight_calibration_is_measured_but_not_followed(make_config, make_items) -> None:
    torch.manual_seed(0)
    x, domains = make_items(60, seed=0), torch.arange(60) % 3
    model = UniTokModel(32, 3, make_config(weights=LossWeights(0.0, 0.0, calibration=0.0)))
    found = losses(x, model(x), domains, 3, model.config)
    assert found.calibration.values.gt(0).all()
    assert not found.calibration.loss.requires_grad
    followed = losses(x, model(x), domains, 3, make_config(weights=LossWeights(0.0, 0.0, calibration=0.03)))
    gradients = torch.autograd.grad(followed.total, list(model.encoder.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def neglecting_model(make_config, **changes) -> tuple[UniTokModel, Tensor, Tensor]:
    """Three domains of equal items, each in dimensions of its own; the encoder sees one of four of the second's."""
    items = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    x = torch.block_diag(items, items, items)
    torch.manual_seed(0)
    model = UniTokModel(12, 3, make_config(preset="paper", num_levels=2, **changes))
    with torch.no_grad():
        model.encoder[0].weight[:, 5:8] = 0
    return model, x, torch.arange(3).repeat_interleave(64)


@pytest.mark.parametrize("beta", [1.0, LossWeights().beta])
@pytest.mark.parametrize("normalised", [False, True])
def test_alone_it_lowers_the_variance_over_domains(normalised: bool, beta: float, make_config) -> None:
    weights = LossWeights(0.0, 0.0, calibration=1.0, beta=beta)
    model, x, domains = neglecting_model(make_config, weights=weights, normalised_hsic=normalised)

    @torch.no_grad()
    def measure() -> tuple[float, list[float]]:
        found = calibration_loss(x, model.eval().encoder(x), domains, 3, normalised=normalised)
        model.train()
        return float(found.variance), found.values.tolist()

    before, first = measure()
    assert first[1] < 0.8 * min(first[0], first[2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        losses(x, model(x), domains, 3, model.config).total.backward()
        optimizer.step()
    after, last = measure()
    assert after < before / 3
    assert last[1] > 1.2 * first[1]
    assert all(math.isfinite(value) for value in last)


@pytest.mark.parametrize("normalised", [False, True])
def test_on_domains_of_unlike_variety_the_default_beta_lowers_it(normalised: bool, make_config) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [s * torch.randn(96, 16, generator=generator) + torch.randn(16, generator=generator) for s in (0.2, 1, 3)]
    )
    x = torch.nn.functional.normalize(x, dim=1)
    domains = torch.arange(3).repeat_interleave(96)

    torch.manual_seed(0)
    encoder = UniTokModel(16, 3, make_config()).encoder
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    variances = []
    for _ in range(51):
        calibrated = calibration_loss(x, encoder(x), domains, 3, normalised=normalised)
        variances.append(float(calibrated.variance.detach()))
        optimizer.zero_grad()
        calibrated.loss.backward()
        optimizer.step()
    assert variances[-1] < 0.7 * variances[0]
