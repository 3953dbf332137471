"""Give a network's experts and codes other numbers; what it does with an item stays the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unitok.model.network import UniTokModel


@torch.no_grad()
def renumber(model: UniTokModel, experts: Tensor, codes: Tensor, own: Mapping[str, int]) -> None:
    """Move everything that an expert or a code has to its new number, in place.

    Args:
        model: the network.
        experts: (E,) int64, the new number of each expert: the router's among theirs, added ones among the rest.
        codes: (E, L, K) int64, the new number of each code, by the expert's number as it was.
        own: name of each domain with views -> its own expert, as it was.
    """
    codebooks = model.quantizer.codebooks.data
    expert, level = torch.arange(len(codebooks))[:, None, None], torch.arange(codebooks.shape[1])[:, None]
    codebooks[experts[expert], level, codes] = codebooks.clone()
    model.mean_shared[experts] = model.mean_shared.clone()
    if model.router is not None:
        for part in (model.router.weight.data, model.router.bias.data):
            part[experts[: len(part)]] = part.clone()
    for domain, views in model.viewed.items():
        views.codebooks[level, codes[own[domain]]] = views.codebooks.clone()
