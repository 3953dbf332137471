"""Go or no-go for unseen catalogues: one that is like the training domains passes, one that is far fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unitok import Tokenizer
from unitok.data import generate_catalogue, read_catalogue
from unitok.evaluation.domain_check import THRESHOLD, familiarity

DOMAINS = ("beauty", "kitchen")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    home = tmp_path_factory.mktemp("zero-shot")
    for seed in (0, 1):  # words have other vectors with another seed, as by another embedding model
        generate_catalogue(home / str(seed), seed=seed, items_per_domain=900, width=48, domains=DOMAINS)
    return {
        f"{name} {seed}": torch.tensor(domain.embeddings[:]).float()
        for seed in (0, 1)
        for name, domain in read_catalogue(home / str(seed)).items()
    }


@pytest.fixture(scope="module")
def tokenizer(items: dict[str, Tensor], make_config) -> Tokenizer:
    config = make_config(epochs=12, codebook_size=32, codebook_dim=16, encoder_widths=(64,), learning_rate=5e-3)
    return Tokenizer.fit({name: items[f"{name} 0"][:600] for name in DOMAINS}, config)


def test_a_catalogue_like_the_training_domains_passes(tokenizer: Tokenizer, items) -> None:
    for name in DOMAINS:
        found = tokenizer.check_domain(items[f"{name} 0"][600:])
        assert found.passes
        assert found.score == min(found.parts.values()) > THRESHOLD
        assert "as it is" in found.advice


@pytest.mark.parametrize("far", ["other words", "noise", "one place"])
def test_a_far_catalogue_fails_and_is_told_what_to_do(tokenizer: Tokenizer, items, far: str) -> None:
    noise = torch.randn(300, 48, generator=torch.Generator().manual_seed(5))
    x = {
        "other words": items["kitchen 1"][:300],
        "noise": torch.nn.functional.normalize(noise, dim=1),
        "one place": items["beauty 0"][:1] + 1e-3 * noise,
    }[far]
    found = tokenizer.check_domain(x.numpy())
    assert not found.passes
    assert found.score < THRESHOLD
    assert "add_domain" in found.advice


def test_the_figures_are_those_of_the_ids(tokenizer: Tokenizer, items) -> None:
    x = items["beauty 0"][600:].unique(dim=0)
    found = tokenizer.check_domain(torch.cat([x, x[:50]])).figures  # equal items are no collisions
    ids = tokenizer.tokenize(x)
    z, _ = tokenizer.model.encode(x)
    probs = torch.softmax(tokenizer.model.router(z), 1)
    assert found.router_confidence == pytest.approx(probs.max(1).values.mean().item(), rel=1e-5)
    only = dataclasses.replace(ids, shared_codes=None)
    missed = (x - tokenizer.decode(only)).square().sum() / (x - x.mean(0)).square().sum()
    assert found.reconstruction_error == pytest.approx(missed.item(), rel=1e-4)
    missed = (z - tokenizer.model.latents(only)).square().sum() / (z - z.mean(0)).square().sum()
    assert found.quantisation_error == pytest.approx(missed.item(), rel=1e-4)
    assert found.collision_rate == pytest.approx(1 - len(ids.tokens().unique(dim=0)) / len(x))


def test_the_reference_is_the_worst_training_domain_and_is_kept(tokenizer: Tokenizer, items, tmp_path: Path) -> None:
    figures = [familiarity("check_domain", tokenizer.model, items[f"{name} 0"][:600]) for name in DOMAINS]
    assert list(tokenizer.familiar.values()) == figures
    found = tokenizer.check_domain(items["beauty 0"][600:])
    assert found.reference.router_confidence == min(f.router_confidence for f in figures)
    assert found.reference.quantisation_error == max(f.quantisation_error for f in figures)
    for name, training in zip(DOMAINS, figures, strict=True):  # a training domain is at most as bad as the worst
        assert tokenizer.check_domain(items[f"{name} 0"][:600]).score == 1
        assert training.reconstruction_error <= found.reference.reconstruction_error
    tokenizer.save_pretrained(tmp_path / "kept")
    again = Tokenizer.from_pretrained(tmp_path / "kept").check_domain(items["beauty 0"][600:])
    assert again == found
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["passes"] is True
    assert plain["figures"]["collision_rate"] == found.figures.collision_rate


def test_top_2_and_the_single_codebook_are_scored_too(fitted, make_items) -> None:
    for changes in ({"top_k": 2}, {"num_experts": 0}, {"preset": "public_code"}):
        found = fitted(**changes).check_domain(make_items(200, seed=9))
        assert 0 < found.score <= 1
        assert found.figures.router_confidence <= 1 + 1e-6


def test_too_few_items_are_refused(tokenizer: Tokenizer, items, refuses) -> None:
    x = items["beauty 0"]
    for few in (x[:0], x[:31], x[:1].expand(100, -1)):
        with refuses("check_domain", "x"):
            tokenizer.check_domain(few)
    with refuses("check_domain", "x"):
        tokenizer.check_domain(x[:, 1:])
    unknown = Tokenizer(tokenizer.model, list(tokenizer.domains.values()))
    with refuses("check_domain", "the tokenizer"):
        unknown.check_domain(x)
