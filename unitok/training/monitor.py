"""What is logged for each epoch, and alarms that name a problem, its cause and a remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok import metrics
from unitok.model.network import Routing, UniTokModel
from unitok_kernels.nn import MoEResidualOutput

_LEAST_LOAD = 0.02  # as a share of an even load
_LEAST_UTILISATION = 0.1
_LEVEL_ROWS = 4096  # a sample is enough: the information between levels is adjusted for chance
# As a share of the other domains' mean. Healthy domains as unlike as 5 and 200 clusters have at least .6, latents that
# know nothing of the embeddings at most .1.
_LEAST_HSIC = 1 / 3


class Snapshot(NamedTuple):
    """Latents, routing and codes of all items at the end of an epoch."""

    z: Tensor
    routing: Routing
    quantized: MoEResidualOutput

    def select(self, rows: Tensor) -> Snapshot:
        """Return some of the items; loss and level errors remain those of all items."""
        found = self.quantized
        shared_codes = None if found.shared_codes is None else found.shared_codes[rows]
        kept = found._replace(quantized=found.quantized[rows], codes=found.codes[rows], shared_codes=shared_codes)
        return Snapshot(self.z[rows], Routing(*(part[rows] for part in self.routing)), kept)


@torch.no_grad()
def snapshot(model: UniTokModel, x: Tensor) -> Snapshot:
    """Encode, route and quantise all items; near ties may be decided differently than in `Tokenizer.tokenize`.

    Args:
        model: the model.
        x: (N, D_in) float32.

    Returns:
        Snapshot: latents, routing and codes.
    """
    z = torch.cat([model.encoder(rows) for rows in x.split(4096)])
    routing = model.route(None if model.router is None else model.router(z), z)
    return Snapshot(z, routing, model.quantize(z, routing))


def describe(seen: Snapshot, domains: Tensor, names: list[str], num_experts: int, codebook_size: int) -> dict[str, Any]:
    """Measure router, codebooks and IDs.

    Args:
        seen: all items.
        domains: (N,) int64.
        names: of the domains.
        num_experts: E.
        codebook_size: K.

    Returns:
        dict: JSON-serialisable: `router_entropy` (bits, per domain), `expert_load` (share of the items, per expert),
        `expert_by_domain` (expert by domain, share of the domain's items), `utilisation` and `perplexity` (expert by
        level), `dead_codes` (per level, over all experts), `level_entropy` (bits given the expert, per level),
        `redundant_levels` (level -> why) and `collision_rate`.
    """
    codes, top = seen.quantized.codes[:, 0], seen.routing.experts[:, 0]
    probs = seen.routing.probs.double().clamp(min=1e-300)
    entropy = -(probs * probs.log2()).sum(1)
    parts = [top[domains == k] for k in range(len(names))]
    shares = [torch.bincount(part, minlength=num_experts) / max(len(part), 1) for part in parts]
    some = slice(None, None, -(-len(codes) // _LEVEL_ROWS))
    return {
        "router_entropy": {n: float(entropy[domains == k].mean()) for k, n in enumerate(names)},
        "expert_load": (torch.bincount(top, minlength=num_experts) / len(top)).tolist(),
        "expert_by_domain": torch.stack(shares, 1).tolist(),
        "utilisation": metrics.utilisation(codes, codebook_size, top, num_experts).tolist(),
        "perplexity": metrics.perplexity(codes, top, num_experts).tolist(),
        "dead_codes": metrics.dead_codes(codes, codebook_size, top, num_experts).sum(0).tolist(),
        "level_entropy": metrics.level_entropy_given_expert(codes, top).tolist(),
        "redundant_levels": {str(k): why for k, why in metrics.redundant_levels(codes[some], top[some]).items()},
        "collision_rate": metrics.collision_rate(torch.cat([codes, top[:, None]], 1)),
    }


def alarms(record: dict[str, Any]) -> list[str]:
    """List what has gone wrong in an epoch.

    Args:
        record: an epoch's record, as the trainer logs it.

    Returns:
        list[str]: one line per alarm, with its cause and a remedy; empty if all is well.
    """
    found = []
    load = record.get("expert_load", [])
    for expert, share in enumerate(load):
        if share < _LEAST_LOAD / len(load):
            crowded = max(range(len(load)), key=load.__getitem__)
            found.append(
                f"router collapse: expert {expert} gets {share:.2%} of the items, {crowded} {load[crowded]:.0%}. "
                "Lower the learning rate, lengthen the warm-up, or use fewer experts."
            )
    for expert, levels in enumerate(record.get("utilisation", [])):
        for level, used in enumerate(levels):
            if used < _LEAST_UTILISATION and load[expert] > 0:
                found.append(
                    f"dead codebook: expert {expert} uses {used:.1%} of the codewords of level {level}. "
                    "Use a smaller codebook, or fewer experts."
                )
    for level, why in record.get("redundant_levels", {}).items():
        found.append(
            f"redundant level: level {level} ({why}). "
            "Use fewer levels, or check whether the latents have collapsed to few dimensions."
        )
    values = record.get("normalised_hsic", {})
    for name, value in values.items():
        others = [v for n, v in values.items() if n != name]
        if others and value < _LEAST_HSIC * sum(others) / len(others):
            found.append(
                f"domain behind: the latents keep little of the embeddings of {name}, with a normalised HSIC of "
                f"{value:.2g}, of the others {sum(others) / len(others):.2g}. Look for rows that are nearly equal or "
                "made by another model; else fit for more epochs."
            )
    dropped = [name for name, value in record.get("hsic", {}).items() if value is None]
    if dropped:
        found.append(
            f"domain dropped: too few rows of {', '.join(dropped)} in the batches to estimate HSIC. "
            "Raise min_domain_rows, or leave out domains of fewer than 4 items."
        )
    return found
