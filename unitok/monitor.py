"""What is logged of each epoch, and the alarms that name the cause of a fit gone wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok import metrics
from unitok.model import Routing, UniTokModel
from unitok_kernels import hsic
from unitok_kernels.nn import MoEResidualOutput

_LEAST_LOAD = 0.02  # of an even share
_LEAST_UTILISATION = 0.1
_LEVEL_ROWS = 4096  # adjusted for chance, the information between levels is much the same on a sample
_LEAST_HSIC = 0.5  # of the other domains' mean
_LEAST_EQUAL, _MOST_EQUAL = 32, 512  # rows a domain to compare HSIC on


class Snapshot(NamedTuple):
    """All items as the model sees them at the end of an epoch."""

    z: Tensor
    routing: Routing
    quantized: MoEResidualOutput

    def select(self, rows: Tensor) -> Snapshot:
        """Give some of the items; loss and level errors stay those of all."""
        found = self.quantized
        shared_codes = None if found.shared_codes is None else found.shared_codes[rows]
        kept = found._replace(quantized=found.quantized[rows], codes=found.codes[rows], shared_codes=shared_codes)
        return Snapshot(self.z[rows], Routing(*(part[rows] for part in self.routing)), kept)


@torch.no_grad()
def snapshot(model: UniTokModel, x: Tensor) -> Snapshot:
    """Encode, route and quantise all items; near ties may fall otherwise than in `Tokenizer.tokenize`.

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
        dict: plain data: `router_entropy` (bits, a domain), `expert_load` (share of the items, an expert),
        `expert_by_domain` (expert by domain, share of the domain's items),
        `utilisation` and `perplexity` (expert by level), `dead_codes` (a level, over all experts), `level_entropy`
        (bits given the expert, a level), `redundant_levels` (level -> why) and `collision_rate`.
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


@torch.no_grad()
def equal_hsic(
    x: Tensor, z: Tensor, domains: Tensor, names: Sequence[str], most: int = _MOST_EQUAL
) -> dict[str, float]:
    """Measure each domain's HSIC on equally many rows.

    The estimate has a bias of the order of 1/n: those of a batch compare domains only as far as they have as many rows.

    Args:
        x: (N, D_in) float32.
        z: (N, D) float32 latents.
        domains: (N,) int64.
        names: of the domains.
        most: rows a domain at the most.

    Returns:
        dict: name -> HSIC on as many strided rows as the smallest domain of at least 32 has; smaller domains are left
        out.

    Source:
        Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", 2005 (the bias).
    """
    members = [rows for k in range(len(names)) if len(rows := (domains == k).nonzero().squeeze(1)) >= _LEAST_EQUAL]
    if not members:
        return {}
    count = min(most, *map(len, members))
    rows = torch.cat([m[:: len(m) // count][:count] for m in members])
    values = hsic(x[rows], z[rows], domains[rows], num_segments=len(names)).tolist()
    measured = set(domains[rows].tolist())
    return {name: values[k] for k, name in enumerate(names) if k in measured}


def alarms(record: dict[str, Any]) -> list[str]:
    """Name what has gone wrong in an epoch.

    Args:
        record: an epoch's record, as the trainer logs it.

    Returns:
        list[str]: one line an alarm, with its cause and what helps; empty where all is well.
    """
    found = []
    load = record.get("expert_load", [])
    for expert, share in enumerate(load):
        if share < _LEAST_LOAD / len(load):
            crowded = max(range(len(load)), key=load.__getitem__)
            found.append(
                f"router collapse: expert {expert} gets {share:.2%} of the items, {crowded} {load[crowded]:.0%}. "
                "Lower the learning rate, lengthen the warm-up, or ask for fewer experts."
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
            "Use fewer levels, or look for latents that have collapsed to few dimensions."
        )
    values = record.get("equal_hsic", {})
    for name, value in values.items():
        others = [v for n, v in values.items() if n != name]
        if others and value < _LEAST_HSIC * sum(others) / len(others):
            found.append(
                f"domain behind: the HSIC of {name} is {value:.2g}, of the others {sum(others) / len(others):.2g}. "
                "Look at its embeddings: they may be less varied, or unlike the others'; the calibration pulls on this."
            )
    dropped = [name for name, value in record.get("hsic", {}).items() if value is None]
    if dropped:
        found.append(
            f"domain dropped: too few rows of {', '.join(dropped)} in the batches to estimate HSIC. "
            "Raise min_domain_rows, or leave domains of under 4 items out."
        )
    return found
