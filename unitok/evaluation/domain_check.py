"""Go or no-go for a catalogue that a tokenizer wasn't fitted on: a comparison with the training domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unitok import metrics
from unitok.model.encoding import encode_items
from unitok.model.network import UniTokModel
from unitok_kernels import checks

THRESHOLD = 0.5  # held-out items of training domains score at least .9, domains left out at most .4 (docs/results)
FEWEST_ITEMS = 32  # with fewer, the figures are mostly chance
_ROWS = 2048
_SLACK = 0.01  # collision rate that is tolerated: without it, a rate of .002 would be ten times as bad as .0002


@dataclass(frozen=True)
class Familiarity:
    """Figures of a tokenizer on items of one domain, at most 2,048 distinct ones.

    Attributes:
        router_confidence: mean probability that the router gives to the chosen experts; 1 without a router.
        quantisation_error: share of the latents' variance that the ID misses, sum |z - z_hat|^2 / sum |z - mean z|^2.
        reconstruction_error: the same for the embeddings; it includes what the encoder loses.
        collision_rate: 1 - distinct IDs / distinct items.
    """

    router_confidence: float
    quantisation_error: float
    reconstruction_error: float
    collision_rate: float


@dataclass(frozen=True)
class DomainCheck:
    """The result of `Tokenizer.check_domain` for an unseen catalogue.

    Attributes:
        score: the smallest of `parts`, between 0 and 1.
        threshold: the score that is needed to pass.
        parts: figure -> worst training domain's value / catalogue's value, or the inverse if more is better; at most 1.
        figures: what was measured on the catalogue.
        reference: the worst training domain's figures.
        advice: what to do.
    """

    score: float
    threshold: float
    parts: dict[str, float]
    figures: Familiarity
    reference: Familiarity
    advice: str

    @property
    def passes(self) -> bool:
        """Whether the tokenizer's IDs can be used for the catalogue as they are."""
        return self.score >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict.

        Returns:
            dict: the attributes by name, and `passes`.
        """
        return asdict(self) | {"passes": self.passes}


@torch.no_grad()
def familiarity(what: str, model: UniTokModel, x: Tensor) -> Familiarity | None:
    """Measure a tokenizer on items of one domain, routed by its router.

    Args:
        what: the operation that a message names.
        model: the tokenizer's network.
        x: (N, D_in) float32; if there are more than 2,048, a strided sample is used.

    Returns:
        Familiarity: the figures, or None for under 32 distinct items.
    """
    rows = torch.unique(x[:: -(-len(x) // _ROWS) or 1], dim=0)
    if len(rows) < FEWEST_ITEMS:
        return None
    ids, z, _ = encode_items(what, model, rows, None)
    z_hat = model.latents(replace(ids, shared_codes=None, slot_codes=None))
    return Familiarity(
        router_confidence=_confidence(model, z),
        quantisation_error=metrics.relative_error(z - z.mean(0), z_hat - z.mean(0)),
        reconstruction_error=metrics.relative_error(rows - rows.mean(0), model.decoder(z_hat) - rows.mean(0)),
        collision_rate=metrics.collision_rate(ids.tokens()),
    )


def check_domain(model: UniTokModel, x: Tensor, known: Mapping[str, Familiarity]) -> DomainCheck:
    """Score an unseen catalogue; see `Tokenizer.check_domain`.

    Args:
        model: the tokenizer's network.
        x: (N, D_in) float32 items.
        known: the figures of the domains that it was fitted on.

    Returns:
        DomainCheck: the score and its parts.

    Raises:
        ValueError: fewer than 32 distinct items; the tokenizer has no figures of the domains that it was fitted on.
    """
    if not known:
        step = f"Fit it anew, on domains of at least {FEWEST_ITEMS} items."
        checks.fail("check_domain", "the tokenizer", "one that knows its training domains' figures", "none", step)
    found = familiarity("check_domain", model, x)
    if found is None:
        rule = f"at least {FEWEST_ITEMS} distinct items"
        checks.fail("check_domain", "x", rule, f"{len(x)} rows", "Use add_domain, or give it more items.")
    seen = list(known.values())
    worst = Familiarity(
        router_confidence=min(f.router_confidence for f in seen),
        quantisation_error=max(f.quantisation_error for f in seen),
        reconstruction_error=max(f.reconstruction_error for f in seen),
        collision_rate=max(f.collision_rate for f in seen),
    )
    ratios = {
        "router_confidence": found.router_confidence / worst.router_confidence,
        "quantisation_error": worst.quantisation_error / found.quantisation_error,
        "reconstruction_error": worst.reconstruction_error / found.reconstruction_error,
        "collision_rate": (worst.collision_rate + _SLACK) / (found.collision_rate + _SLACK),
    }
    parts = {name: min(1.0, ratio) for name, ratio in ratios.items()}
    score = min(parts.values())
    return DomainCheck(score, THRESHOLD, parts, found, worst, _advice(score, found))


def _confidence(model: UniTokModel, z: Tensor) -> float:
    if model.router is None:
        return 1.0
    return float(model.router(z).softmax(1).topk(model.config.top_k).values.sum(1).mean())


def _advice(score: float, found: Familiarity) -> str:
    if score >= THRESHOLD:
        return "Tokenize it as it is."
    if found.reconstruction_error < 1:
        return "Give it codebooks of its own: add_domain(name, x)."
    # Decoding is worse than predicting the mean: the encoder doesn't see what makes these items different.
    return "Fit anew with the domain; add_domain(name, x) gives it codebooks, but leaves the encoder as it is."
