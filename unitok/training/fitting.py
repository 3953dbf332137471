"""Fit a network to the items of several domains, and an expert to those that have vectors in views, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitok.config import UniTokConfig
from unitok.model.inputs import check_experts
from unitok.model.network import UniTokModel
from unitok.model.views import DomainViews
from unitok.training.initialisation import add_expert
from unitok.training.monitor import snapshot
from unitok.training.trainer import Progress, Trainer


def fit_model(
    domains: Mapping[str, Tensor],
    config: UniTokConfig,
    *,
    directory: str | Path | None,
    progress: Progress | None,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[UniTokModel, list[dict[str, Any]]]:
    """Fit a network to embeddings; see `Tokenizer.fit`.

    Args:
        domains: name -> (N_k, D_in) float32.
        config: the settings.
        directory: folder for checkpoint and history, or None.
        progress: called after each step.
        on_epoch: called with each epoch's record.

    Returns:
        tuple: the network, and one record per epoch.
    """
    x = torch.cat(list(domains.values()))
    labels = torch.repeat_interleave(torch.tensor([len(rows) for rows in domains.values()]))
    num_experts = len(domains) if config.num_experts is None else config.num_experts
    check_experts(config, num_experts, len(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = UniTokModel(x.shape[1], num_experts, config)
    folder = None if directory is None else Path(directory)
    trainer = Trainer(model, x, labels, list(domains), config, directory=folder, progress=progress, on_epoch=on_epoch)
    history = trainer.run()
    seen = snapshot(model, x)
    model.remember_means(seen.routing, seen.quantized)
    return model, history


def fit_views(
    model: UniTokModel, domains: Mapping[str, Tensor], vectors: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, int]:
    """Give each domain that has views an expert of its own; what the network does without views stays as it is.

    Args:
        model: the network.
        domains: name -> (N_k, D_in) float32.
        vectors: name of the domain -> name of the view -> (N_k, B) float32, rows of NaN where an item has none.

    Returns:
        dict: name of the domain -> its expert.
    """
    experts, sizes = {}, (model.config.num_levels, model.config.codebook_size)
    for place, (name, given) in enumerate(vectors.items()):
        views = DomainViews(name, {view: rows.shape[1] for view, rows in given.items()}, *sizes)
        x, seed = domains[name], model.config.seed + place
        experts[name] = add_expert("fit", model, x, seed, views, views.joined(given, len(x)))
    return experts
