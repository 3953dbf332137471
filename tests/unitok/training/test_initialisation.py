"""Where training starts: the router from the domains' means, codebooks from k-means, dead codewords moved."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unitok import UniTokModel
from unitok.config import PRESETS
from unitok.training.initialisation import kmeans_chain, place_router, revive_codewords, start_codebooks
from unitok.training.monitor import Snapshot, snapshot


@pytest.fixture
def make_model(make_config):
    def make(num_experts: int = 3, **changes) -> UniTokModel:
        torch.manual_seed(0)
        return UniTokModel(32, num_experts, make_config(**changes))

    return make


def separated(rows: int = 150, domains: int = 3, apart: float = 3.0) -> tuple[Tensor, Tensor]:
    """Latents around one centre a domain, and the domains; of other spread in every dimension."""
    generator = torch.Generator().manual_seed(0)
    centres = apart * torch.randn(domains, 8, generator=generator)
    labels = torch.arange(rows * domains) % domains
    spread = torch.linspace(0.3, 1.5, 8)
    return centres[labels] + spread * torch.randn(len(labels), 8, generator=generator), labels


def test_the_router_sends_items_to_their_domain(make_model) -> None:
    z, domains = separated()
    model = make_model()
    before = (model.route(model.router(z), z).experts[:, 0] == domains).float().mean()
    place_router(model, z, domains, 3, seed=0)
    routing = model.route(model.router(z), z)
    assert (routing.experts[:, 0] == domains).float().mean() > 0.97 > before
    means = torch.stack([z[domains == k].mean(0) for k in range(3)])
    tau = (z - means[domains]).square().mean()
    logits = -torch.cdist(z, means).square() / (2 * tau)
    torch.testing.assert_close(routing.probs, torch.softmax(logits, 1), rtol=1e-3, atol=1e-4)


def test_the_router_starts_from_clusters_where_experts_are_not_domains(make_model) -> None:
    z, _ = separated(domains=3)
    model = make_model(num_experts=5)
    place_router(model, z, torch.zeros(len(z), dtype=torch.int64), 1, seed=0)  # one domain, five experts
    top = model.route(model.router(z), z).experts[:, 0]
    assert torch.bincount(top, minlength=5).min() > 0.05 * len(z)
    centres = torch.stack([z[top == expert].mean(0) for expert in range(5)])
    assert (torch.cdist(z, centres).argmin(1) == top).float().mean() > 0.98


def test_the_router_starts_where_every_domain_is_one_item(make_model) -> None:
    model = make_model()
    z = torch.eye(3, 8)
    place_router(model, z, torch.arange(3), 3, seed=0)
    routing = model.route(model.router(z), z)
    assert routing.probs.isfinite().all()
    assert routing.experts[:, 0].tolist() == [0, 1, 2]
    place_router(model, torch.zeros(3, 8), torch.arange(3), 3, seed=0)
    assert model.route(model.router(z), z).probs.isfinite().all()


def errors(z: Tensor, codebooks: Tensor) -> list[float]:
    found, left = [], z
    for codebook in codebooks:
        left = left - codebook[torch.cdist(left, codebook).argmin(1)]
        found.append(left.square().sum(1).mean().item())
    return found


def test_each_level_of_kmeans_takes_off_more() -> None:
    z, _ = separated()
    codebooks = kmeans_chain(z, 4, 16, seed=0)
    assert codebooks.shape == (4, 16, 8)
    steps = [z.square().sum(1).mean().item(), *errors(z, codebooks)]
    assert all(after < 0.75 * before for before, after in pairwise(steps))
    assert torch.equal(codebooks, kmeans_chain(z, 4, 16, seed=0))
    assert not torch.equal(codebooks, kmeans_chain(z, 4, 16, seed=1))
    assert errors(z, codebooks)[1] < errors(z, kmeans_chain(z, 1, 16, seed=0).repeat(2, 1, 1))[1]


@pytest.mark.parametrize("rows", [1, 2, 5, 15])
def test_fewer_rows_than_codewords_work(rows: int) -> None:
    z = separated()[0][:rows]
    codebooks = kmeans_chain(z, 3, 16, seed=0)
    assert codebooks.shape == (3, 16, 8)
    assert codebooks.isfinite().all()
    assert errors(z, codebooks)[-1] < 0.05 * z.square().sum(1).mean()


def test_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    import unitok.training.initialisation

    z, _ = separated()
    monkeypatch.setattr(unitok.training.initialisation, "MOST_ROWS", 100)
    codebooks = kmeans_chain(z, 2, 16, seed=0)
    assert torch.equal(codebooks, kmeans_chain(z, 2, 16, seed=0))
    assert errors(z, codebooks)[1] < 0.5 * z.square().sum(1).mean()


@pytest.mark.parametrize("preset", PRESETS)
def test_codebooks_start_on_the_residuals_that_reach_them(preset: str, make_model) -> None:
    z, domains = separated()
    model = make_model(preset=preset)
    place_router(model, z, domains, 3, seed=0)
    start_codebooks(model, z, seed=0)
    with torch.no_grad():
        out = model.quantize(z, model.route(model.router(z), z))
    assert out.level_error[-1] < 0.1 * z.square().mean()
    assert all(a > b for a, b in pairwise(out.level_error))
    if preset == "shared_first":  # what the shared expert leaves is small, and so must the experts' codewords be
        assert model.quantizer.codebooks[:, 0].square().mean() < 0.3 * z.square().mean()
    elif preset != "public_code":
        for expert in range(3):
            centre = z[domains == expert].mean(0)
            assert (model.quantizer.codebooks[expert, 0].mean(0) - centre).norm() < 0.4 * centre.norm()


def test_an_expert_without_rows_still_starts(make_model) -> None:
    z, _ = separated(domains=1)
    model = make_model()
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    start_codebooks(model, z, seed=0)
    assert all(errors(z, codebooks)[-1] < 0.2 * z.square().sum(1).mean() for codebooks in model.quantizer.codebooks)


def with_dead_codewords(model: UniTokModel) -> tuple[Snapshot, Tensor, Tensor]:
    """Moves two codewords of each chain's second level out of reach; which those are, of the experts and shared."""
    with torch.no_grad():
        model.quantizer.codebooks[:, 1, 3:5] = 1e3
        model.quantizer.shared_codebooks[1, 7:9] = 1e3
        x = torch.randn(400, 32, generator=torch.Generator().manual_seed(2))
        seen = snapshot(model, x)
    experts, levels, size, _ = model.quantizer.codebooks.shape
    used = torch.zeros(experts, levels, size, dtype=torch.bool)
    for slot in range(seen.routing.experts.shape[1]):
        for level in range(levels):
            used[seen.routing.experts[:, slot], level, seen.quantized.codes[:, slot, level]] = True
    shared = torch.zeros(levels, size, dtype=torch.bool)
    for level in range(levels):
        shared[level, seen.quantized.shared_codes[:, level]] = True
    return seen, ~used, ~shared


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", ["normalised", "shared_first"])
def test_dead_codewords_are_moved_to_residuals_and_no_others(preset: str, top_k: int, make_model) -> None:
    results = []
    for _ in range(2):
        model = make_model(preset=preset, top_k=top_k)
        seen, dead, shared_dead = with_dead_codewords(model)
        before = [model.quantizer.codebooks.clone(), model.quantizer.shared_codebooks.clone()]
        moved = revive_codewords(model, seen, seed=4)
        after = [model.quantizer.codebooks.detach().clone(), model.quantizer.shared_codebooks.detach().clone()]
        assert moved == dead.sum() + shared_dead.sum()
        assert dead[:, 1, 3:5].all()
        assert shared_dead[1, 7:9].all()
        assert torch.equal((before[0] != after[0]).any(-1), dead)
        assert torch.equal((before[1] != after[1]).any(-1), shared_dead)
        results.append(after)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    # the shared chain's revived codewords are residuals of items, at their own level
    left = seen.z
    for level, codebook in enumerate(before[1]):
        revived = after[1][level][shared_dead[level]]
        assert (revived[:, None] == left).all(-1).any(1).all()
        left = left - codebook[seen.quantized.shared_codes[:, level]]
    assert len(seen.select(torch.arange(5)).quantized.codes) == 5


def test_the_dense_mixture_is_left_alone(make_model) -> None:
    model = make_model(preset="public_code")
    seen, _, _ = with_dead_codewords(model)
    before = model.quantizer.codebooks.clone()
    assert revive_codewords(model, seen, seed=0) == 0
    assert torch.equal(model.quantizer.codebooks, before)
