"""Report: what a tokenizer does to items, measured a domain and over all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitok import metrics
from unitok.monitor import equal_hsic
from unitok.semantic_id import SemanticIds
from unitok_kernels import hsic

if TYPE_CHECKING:
    from rich.table import Table

    from unitok.tokenizer import Encoded, Tokenizer

_HSIC_ROWS = 2048  # the estimate's spread over samples of this size is under a hundredth of its value


@dataclass(frozen=True)
class DomainReport:
    """Figures of one domain, or of all together.

    Attributes:
        items: number of items.
        collision_rate: 1 - distinct IDs / items, as tokenized.
        resolved_collision_rate: the same after the resolver `suffix`.
        indistinguishable_rate: 1 - distinct embeddings / items: what no tokenizer could split.
        error_of_latents: |z - z_hat|^2 / |z|^2, z_hat from all chains that are active.
        error_of_latents_by_id: the same with z_hat from the emitted ID alone (layout top1).
        reconstruction: mean |x - x_hat|^2 through all active chains.
        reconstruction_by_id: the same from the emitted ID alone.
        hsic: HSIC(x, z) over at most 2,048 strided rows; NaN over all, and for fewer than 4 items.
        cka: the same, normalised.
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
    """What `Tokenizer.report` measures; entropies in bits.

    Attributes:
        domains: figures of each domain.
        overall: figures of all items together: two domains' items that share an ID collide here.
        code_entropy: (L,) of each level's codes.
        token_entropy: of (level, code) pooled over levels; at most `token_entropy_limit`.
        token_entropy_with_expert: of (expert, level, code).
        token_entropy_limit: log2(L K).
        expert_domain_information: mutual information of top expert and domain.
        expert_domain_information_normalised: between 0 and 1.
        level_entropy_given_expert: (L,).
        level_information: (L, L) adjusted mutual information between levels.
        utilisation: (E, L) used / K.
        perplexity: (E, L) exp entropy.
        dead_codes: (E, L).
        expert_load: (E,) share of the items.
        expert_by_domain: (E, domains) share of each domain's items.
        hsic_variance: Var over domains of HSIC on equally many rows, at most 2,048; domains under 32 items left out.
        redundant_levels: level -> why.
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
        """Give plain data for JSON.

        Returns:
            dict: the attributes by name; what isn't finite becomes None.
        """
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    def to_table(self, names: Sequence[str] | None = None) -> Table:
        """Lay the domains' figures out as a table for the terminal.

        Args:
            names: headings of the columns to show, in order; None shows all.

        Returns:
            Table: a row a domain, and one over all.
        """
        from rich.table import Table

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
            table.add_row(name, *(columns[heading](figures) for heading in chosen))
        table.add_section()
        table.add_row("all", *(columns[heading](self.overall) for heading in chosen))
        return table

    def summary(self) -> list[str]:
        """Say the figures that aren't a domain's.

        Returns:
            list[str]: plain lines.
        """
        lines = [
            f"token entropy {self.token_entropy:.2f} of {self.token_entropy_limit:.2f} bits; by level "
            + ", ".join(f"{bits:.2f}" for bits in self.code_entropy)
            + "; given the expert "
            + ", ".join(f"{bits:.2f}" for bits in self.level_entropy_given_expert),
            f"expert tells {self.expert_domain_information:.2f} bits of the domain "
            f"({self.expert_domain_information_normalised:.0%} of what it could); load "
            + ", ".join(f"{share:.1%}" for share in self.expert_load),
            f"variance of HSIC over domains {self.hsic_variance:.2e}",
        ]
        lines += [f"redundant level {level}: {why}" for level, why in self.redundant_levels.items()]
        return lines


@torch.no_grad()
def make_report(tokenizer: Tokenizer, parts: Mapping[str, Tensor], known: Mapping[str, str | None]) -> Report:
    """Measure a tokenizer; see `Tokenizer.report`.

    Args:
        tokenizer: the tokenizer.
        parts: name -> (N_k, D_in) float32 items.
        known: name -> the domain to tokenize them as, or None.

    Returns:
        Report: the figures.
    """
    model = tokenizer.model
    seen = {name: tokenizer.encode(rows, known[name]) for name, rows in parts.items()}
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
    codes, experts = everything.codes, everything.experts[:, 0]
    labels = torch.repeat_interleave(torch.tensor([len(p) for p in parts.values()]))
    sizes = (model.config.codebook_size, experts, model.num_experts)
    shares = [torch.bincount(i.experts[:, 0], minlength=model.num_experts) / max(len(i), 1) for i in ids.values()]
    return Report(
        domains=figures,
        overall=overall,
        code_entropy=metrics.code_entropy(codes).tolist(),
        token_entropy=metrics.token_entropy(codes),
        token_entropy_with_expert=metrics.token_entropy(codes, experts),
        token_entropy_limit=math.log2(codes.shape[1] * model.config.codebook_size),
        expert_domain_information=metrics.mutual_information(experts, labels),
        expert_domain_information_normalised=metrics.mutual_information(experts, labels, normalised=True),
        level_entropy_given_expert=metrics.level_entropy_given_expert(codes, experts).tolist(),
        level_information=metrics.level_adjusted_mutual_information(codes).tolist(),
        utilisation=metrics.utilisation(codes, *sizes).tolist(),
        perplexity=metrics.perplexity(codes, *sizes[1:]).tolist(),
        dead_codes=metrics.dead_codes(codes, *sizes).tolist(),
        expert_load=(torch.bincount(experts, minlength=model.num_experts) / total).tolist(),
        expert_by_domain=torch.stack(shares, 1).tolist(),
        hsic_variance=_variance(list(equal_hsic(x, z, labels, list(parts), _HSIC_ROWS).values())),
        redundant_levels=metrics.redundant_levels(codes, experts),
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
