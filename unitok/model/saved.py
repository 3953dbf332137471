"""What a network is saved as: settings in plain data, and arrays by name; `unitok.storage.layout` checks both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from unitok.config import UniTokConfig
from unitok.model.network import UniTokModel
from unitok.model.views import DomainViews


@dataclass(frozen=True)
class DomainInfo:
    """A domain that the tokenizer knows.

    Attributes:
        name: its name.
        num_items: number of items it was fitted on or added with.
        expert: its own expert, which `add_domain` made, or `fit` if it has views; None if the router decides.
    """

    name: str
    num_items: int
    expert: int | None = None


def settings_of(model: UniTokModel) -> dict[str, Any]:
    """Return what `load_model` needs beside the weights; one without views is as older releases know it."""
    views = [
        {"domain": domain, "views": [{"name": name, "width": width} for name, width in each.widths.items()]}
        for domain, each in model.viewed.items()
    ]
    return {
        "config": model.config.to_dict(),
        "input_dim": model.input_dim,
        "router_experts": model.routable_experts,
        **({"views": views} if views else {}),
    }


def load_model(settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], config: UniTokConfig) -> UniTokModel:
    """Make a network again.

    Args:
        settings: as `settings_of` returned them, checked by `unitok.storage.layout.checked_config`.
        arrays: its weights by name.
        config: the settings of its fit.

    Returns:
        UniTokModel: gives the same codes to the bit.
    """
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    with torch.random.fork_rng(devices=[]):
        model = UniTokModel(settings["input_dim"], settings["router_experts"], config)
    grown, own = len(state["quantizer.codebooks"]), model.quantizer.codebooks  # by domains added
    model.quantizer.codebooks = nn.Parameter(own.new_empty(grown, *own.shape[1:]))
    model.mean_shared = model.mean_shared.new_empty(grown, model.mean_shared.shape[1])
    for place, each in enumerate(settings.get("views", ())):
        widths = {view["name"]: view["width"] for view in each["views"]}
        views = DomainViews(each["domain"], widths, config.num_levels, config.codebook_size)
        views.keys, views.vectors = state[f"views.{place}.keys"], state[f"views.{place}.vectors"]  # as were remembered
        model.views.append(views)
    model.load_state_dict(state)
    return model
