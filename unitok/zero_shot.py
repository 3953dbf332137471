"""Go or no-go for a catalogue that a tokenizer wasn't fitted on: how it fares beside the training domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitok import metrics
from unitok_kernels import checks

if TYPE_CHECKING:
    from unitok.tokenizer import Tokenizer

THRESHOLD = 0.5
FEWEST_ITEMS = 32  # under these the figures are chance
_ROWS = 2048
_SLACK = 0.01  # collisions that nobody minds: without it, 2 in 1,000 would be ten times as bad as .2


@dataclass(frozen=True)
class Familiarity:
    """How a tokenizer fares on items of one domain, at most 2,048 distinct ones.

    Attributes:
        router_confidence: mean probability of the experts that items are routed to; 1 without a router.
        quantisation_error: share of the latents' variance that the ID misses, sum |z - z_hat|^2 / sum |z - mean z|^2.
        reconstruction_error: the same of the embeddings, which counts what the encoder loses, too.
        collision_rate: 1 - distinct IDs / distinct items.
    """

    router_confidence: float
    quantisation_error: float
    reconstruction_error: float
    collision_rate: float


@dataclass(frozen=True)
class DomainCheck:
    """What `Tokenizer.check_domain` says of an unseen catalogue.

    Attributes:
        score: the least of `parts`, between 0 and 1.
        threshold: what it must reach.
        parts: figure -> the worst training domain's value over the catalogue's, or the inverse where more is better; 1
            where the catalogue is no worse.
        figures: of the catalogue.
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
        """Give plain data for JSON.

        Returns:
            dict: the attributes by name, and `passes`.
        """
        return asdict(self) | {"passes": self.passes}


@torch.no_grad()
def familiarity(tokenizer: Tokenizer, x: Tensor) -> Familiarity | None:
    """Measure a tokenizer on items of one domain, which its router decides on.

    Args:
        tokenizer: the tokenizer.
        x: (N, D_in) float32; strided where there are more than 2,048.

    Returns:
        Familiarity: the figures, or None for under 32 distinct items.
    """
    rows = torch.unique(x[:: -(-len(x) // _ROWS) or 1], dim=0)
    if len(rows) < FEWEST_ITEMS:
        return None
    ids, z, _ = tokenizer.encode(rows, None)
    model = tokenizer.model
    z_hat = model.latents(replace(ids, shared_codes=None, slot_codes=None))
    return Familiarity(
        router_confidence=_confidence(tokenizer, z),
        quantisation_error=metrics.relative_error(z - z.mean(0), z_hat - z.mean(0)),
        reconstruction_error=metrics.relative_error(rows - rows.mean(0), model.decoder(z_hat) - rows.mean(0)),
        collision_rate=metrics.collision_rate(ids.tokens()),
    )


def check_domain(tokenizer: Tokenizer, x: Tensor, known: Mapping[str, Familiarity]) -> DomainCheck:
    """Score an unseen catalogue; see `Tokenizer.check_domain`.

    Args:
        tokenizer: the tokenizer.
        x: (N, D_in) float32 items.
        known: figures of the domains that it was fitted on.

    Returns:
        DomainCheck: the score and what it is made of.

    Raises:
        ValueError: under 32 distinct items; the tokenizer keeps no figures of the domains that it was fitted on.
    """
    if not known:
        step = f"Fit it anew, on domains of at least {FEWEST_ITEMS} items."
        checks.fail("check_domain", "the tokenizer", "one that knows its training domains' figures", "none", step)
    found = familiarity(tokenizer, x)
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


def _confidence(tokenizer: Tokenizer, z: Tensor) -> float:
    model = tokenizer.model
    if model.router is None:
        return 1.0
    return float(model.router(z).softmax(1).topk(model.config.top_k).values.sum(1).mean())


def _advice(score: float, found: Familiarity) -> str:
    if score >= THRESHOLD:
        return "Tokenize it as it is."
    if found.reconstruction_error < 1:
        return "Give it codebooks of its own: add_domain(name, x)."
    # its own mean would be nearer than what is decoded: the encoder doesn't see what tells these items apart
    return "Fit anew with the domain; add_domain(name, x) gives it codebooks, but leaves the encoder as it is."
