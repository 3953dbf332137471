"""Report: figures of a tokenizer on items, per domain and over all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitok import metrics
from unitok.ids.semantic_ids import SemanticIds
from unitok.metrics.dependence import equal_hsic
from unitok.model.encoding import Encoded, encode_items
from unitok.model.network import UniTokModel
from unitok.model.views import Beside
from unitok_kernels import hsic

if TYPE_CHECKING:
    from rich.table import Table

_HSIC_ROWS = 2048  # between samples of this size the estimate varies by less than a hundredth


@dataclass(frozen=True)
class DomainReport:
    """Figures of one domain, or of all domains together.

    Attributes:
        items: number of items.
        collision_rate: 1 - distinct IDs / items, as tokenized.
        resolved_collision_rate: the same after the resolver `suffix`.
        indistinguishable_rate: 1 - distinct embeddings / items: the collision rate that no tokenizer can avoid.
        error_of_latents: |z - z_hat|^2 / |z|^2, with z_hat from all active chains.
        error_of_latents_by_id: the same, with z_hat from the ID alone (layout top1).
        reconstruction: mean |x - x_hat|^2, with x_hat from all active chains.
        reconstruction_by_id: the same, with x_hat from the ID alone.
        hsic: HSIC(x, z) on at most 2,048 strided rows; NaN for all domains together, and for fewer than 4 items.
        cka: the same, normalised to lie between 0 and 1.
        own_expert: share of the items in the domain's most frequent expert.
    """

    items: int
    collision_rate: float
    resolved_collision_rate: float
    indistinguishable_rate: float
    error_of_latents: float
    error_of_latents_by_id: float
    reconstruction: float
    reconstruction_by_id: float
    hsic: float
    cka: float
    own_expert: float


@dataclass(frozen=True)
class Report:
    """The result of `Tokenizer.report`; entropies in bits. Levels and experts are counted from 0.

    Attributes:
        domains: figures of each domain.
        overall: figures of all items together; here items of different domains that share an ID collide, too.
        code_entropy: (L,) entropy of each level's codes.
        token_entropy: entropy of (level, code), pooled over levels; at most `token_entropy_limit`.
        token_entropy_with_expert: entropy of (expert, level, code), pooled over levels.
        token_entropy_limit: the highest that it can be, log2(L K).
        expert_domain_information: mutual information of top expert and domain.
        expert_domain_information_normalised: the same, scaled to lie between 0 and 1.
        level_entropy_given_expert: (L,) entropy of each level's codes given the top expert.
        level_information: (L, L) adjusted mutual information between levels.
        utilisation: (E, L) used codewords / K, of each expert and level.
        perplexity: (E, L) exp(entropy): the effective number of codewords in use.
        dead_codes: (E, L) number of codewords that no item uses.
        expert_load: (E,) share of the items that go to each expert.
        expert_by_domain: (E, domains) share of each domain's items that go to each expert.
        hsic_variance: variance over domains of HSIC on equally many rows, at most 2,048; domains of fewer than 32 items
            are left out.
        redundant_levels: level -> why it adds no information.
    """

    domains: dict[str, DomainReport]
    overall: DomainReport
    code_entropy: list[float]
    token_entropy: float
    token_entropy_with_expert: float
    token_entropy_limit: float
    expert_domain_information: float
    expert_domain_information_normalised: float
    level_entropy_given_expert: list[float]
    level_information: list[list[float]]
    utilisation: list[list[float]]
    perplexity: list[list[float]]
    dead_codes: list[list[int]]
    expert_load: list[float]
    expert_by_domain: list[list[float]]
    hsic_variance: float
    redundant_levels: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict.

        Returns:
            dict: the attributes by name; NaN and infinity become None.
        """
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    def to_table(self, names: Sequence[str] | None = None) -> Table:
        """Return the domains' figures as a table for the terminal.

        Args:
            names: headings of the columns to show, in order; None shows all.

        Returns:
            Table: one row per domain, and one for all together.
        """
        from rich.table import Table
        from rich.text import Text

        columns: dict[str, Callable[[DomainReport], str]] = {
            "items": lambda d: f"{d.items:,}",
            "collisions": lambda d: f"{d.collision_rate:.2%}",
            "resolved": lambda d: f"{d.resolved_collision_rate:.2%}",
            "equal inputs": lambda d: f"{d.indistinguishable_rate:.2%}",
            "z error": lambda d: f"{d.error_of_latents:.4f}",
            "z error by ID": lambda d: f"{d.error_of_latents_by_id:.4f}",
            "x error": lambda d: f"{d.reconstruction:.4f}",
            "x error by ID": lambda d: f"{d.reconstruction_by_id:.4f}",
            "HSIC": lambda d: "" if math.isnan(d.hsic) else f"{d.hsic:.4f}",
            "own expert": lambda d: f"{d.own_expert:.1%}",
        }
        chosen = list(columns) if names is None else names
        table = Table(title="Tokenizer report")
        table.add_column("domain", overflow="fold")
        for name in chosen:
            table.add_column(name, justify="right")
        for name, figures in self.domains.items():
            table.add_row(Text(str(name)), *(columns[heading](figures) for heading in chosen))
        table.add_section()
        table.add_row("all", *(columns[heading](self.overall) for heading in chosen))
        return table

    def summary(self) -> list[str]:
        """Summarise the figures that cover the whole catalogue.

        Returns:
            list[str]: lines of text.
        """
        lines = [
            f"token entropy {self.token_entropy:.2f} of {self.token_entropy_limit:.2f} bits; by level "
            + ", ".join(f"{bits:.2f}" for bits in self.code_entropy)
            + "; given the expert "
            + ", ".join(f"{bits:.2f}" for bits in self.level_entropy_given_expert),
            f"mutual information of expert and domain {self.expert_domain_information:.2f} bits "
            f"(normalised: {self.expert_domain_information_normalised:.0%}); expert load "
            + ", ".join(f"{share:.1%}" for share in self.expert_load),
            f"variance of HSIC over domains {self.hsic_variance:.2e}",
        ]
        lines += [f"redundant level {level}: {why}" for level, why in self.redundant_levels.items()]
        return lines


@torch.no_grad()
def make_report(
    model: UniTokModel,
    parts: Mapping[str, Tensor],
    experts: Mapping[str, int | None],
    beside: Mapping[str, Beside | None] = MappingProxyType({}),
) -> Report:
    """Measure a tokenizer; see `Tokenizer.report`.

    Args:
        model: the tokenizer's network.
        parts: name -> (N_k, D_in) float32 items.
        experts: name -> the expert of a domain that has its own, or None where the router decides.
        beside: name -> what stands beside the latents of a domain that has views.

    Returns:
        Report: the figures.
    """
    seen = {name: encode_items("report", model, rows, experts[name], beside.get(name)) for name, rows in parts.items()}
    ids = {name: encoded.ids for name, encoded in seen.items()}
    everything = SemanticIds.concatenate(list(ids.values()))
    by_id = {name: model.latents(replace(i, shared_codes=None, slot_codes=None)) for name, i in ids.items()}
    figures = {name: _figures(rows, seen[name], by_id[name], model.decoder) for name, rows in parts.items()}
    total = sum(f.items for f in figures.values())
    weighted = {
        name: sum(getattr(f, name) * f.items for f in figures.values() if f.items) / total
        for name in ("reconstruction", "reconstruction_by_id", "own_expert")
    }
    x = torch.cat(list(parts.values()))
    z, z_hat = (torch.cat(values) for values in zip(*((e.z, e.z_hat) for e in seen.values()), strict=True))
    overall = DomainReport(
        items=total,
        **_collisions(everything, x),
        error_of_latents=metrics.relative_error(z, z_hat),
        error_of_latents_by_id=metrics.relative_error(z, torch.cat(list(by_id.values()))),
        hsic=math.nan,
        cka=math.nan,
        **weighted,
    )
    codes, top = everything.codes, everything.experts[:, 0]
    labels = torch.repeat_interleave(torch.tensor([len(p) for p in parts.values()]))
    sizes = (model.config.codebook_size, top, model.num_experts)
    shares = [torch.bincount(i.experts[:, 0], minlength=model.num_experts) / max(len(i), 1) for i in ids.values()]
    return Report(
        domains=figures,
        overall=overall,
        code_entropy=metrics.code_entropy(codes).tolist(),
        token_entropy=metrics.token_entropy(codes),
        token_entropy_with_expert=metrics.token_entropy(codes, top),
        token_entropy_limit=math.log2(codes.shape[1] * model.config.codebook_size),
        expert_domain_information=metrics.mutual_information(top, labels),
        expert_domain_information_normalised=metrics.mutual_information(top, labels, normalised=True),
        level_entropy_given_expert=metrics.level_entropy_given_expert(codes, top).tolist(),
        level_information=metrics.level_adjusted_mutual_information(codes).tolist(),
        utilisation=metrics.utilisation(codes, *sizes).tolist(),
        perplexity=metrics.perplexity(codes, *sizes[1:]).tolist(),
        dead_codes=metrics.dead_codes(codes, *sizes).tolist(),
        expert_load=(torch.bincount(top, minlength=model.num_experts) / total).tolist(),
        expert_by_domain=torch.stack(shares, 1).tolist(),
        hsic_variance=_variance(list(equal_hsic(x, z, labels, list(parts), _HSIC_ROWS).values())),
        redundant_levels=metrics.redundant_levels(codes, top),
    )


def _figures(x: Tensor, encoded: Encoded, by_id: Tensor, decoder: torch.nn.Module) -> DomainReport:
    ids, z, z_hat = encoded
    sample = slice(None, None, max(1, -(-len(x) // _HSIC_ROWS)))
    segment = torch.zeros(len(x[sample]), dtype=torch.int64)
    raw, normalised = (
        float(hsic(x[sample], z[sample], segment, num_segments=1, normalised=form)) if len(x) >= 4 else math.nan
        for form in (False, True)
    )
    return DomainReport(
        items=len(x),
        **_collisions(ids, x),
        error_of_latents=metrics.relative_error(z, z_hat),
        error_of_latents_by_id=metrics.relative_error(z, by_id),
        reconstruction=_reconstruction(x, z_hat, decoder),
        reconstruction_by_id=_reconstruction(x, by_id, decoder),
        hsic=raw,
        cka=normalised,
        own_expert=float(torch.bincount(ids.experts[:, 0]).max() / len(ids)) if len(ids) else math.nan,
    )


def _collisions(ids: SemanticIds, x: Tensor) -> dict[str, float]:
    return {
        "collision_rate": metrics.collision_rate(ids.tokens()),
        "resolved_collision_rate": metrics.collision_rate(ids.assign(range(len(ids))).tokens()),
        "indistinguishable_rate": metrics.indistinguishable_rate(x),
    }


def _reconstruction(x: Tensor, z_hat: Tensor, decoder: torch.nn.Module) -> float:
    missed = [(a - decoder(b)).square().sum().double() for a, b in zip(x.split(4096), z_hat.split(4096), strict=True)]
    return float(sum(missed)) / max(len(x), 1)


def _variance(values: list[float]) -> float:
    return statistics.pvariance(values) if values else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
