"""Encode items to IDs, each item independently: shared by `Tokenizer` and its evaluation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import unitok_kernels as uk
from unitok.ids.semantic_ids import SemanticIds
from unitok.model.network import Routing, UniTokModel
from unitok.model.views import Beside
from unitok.numerics import check_latents, softmax
from unitok_kernels.nn import MoEResidualOutput


class Encoded(NamedTuple):
    """Items with their IDs.

    Attributes:
        ids: their semantic IDs.
        z: (N, D) float32 latents.
        z_hat: (N, D) float32, the latents rebuilt from all active chains.
    """

    ids: SemanticIds
    z: Tensor
    z_hat: Tensor


@torch.no_grad()
def encode_items(what: str, model: UniTokModel, x: Tensor, expert: int | None, beside: Beside | None = None) -> Encoded:
    """Encode, route and quantise items; an item's result doesn't depend on the others.

    Args:
        what: the operation that a message names.
        model: the network.
        x: (N, D_in) float32.
        expert: the domain's own expert, which replaces the router's first choice; None lets the router choose.
        beside: what stands beside the latents and the codewords of that expert, if its domain has views.

    Returns:
        Encoded: IDs, latents and their approximation.

    Raises:
        ValueError: an item is so large that its latents overflow (with the row).
    """
    z, logits = model.encode(x)
    check_latents(what, z.numpy())
    routing = model.route(logits, z, None if logits is None else torch.from_numpy(softmax(logits.numpy())))
    if expert is not None:  # it gets the weight of all slots; the router's choices fill the other slots with weight 0
        own = torch.full_like(routing.experts[:, :1], expert)
        experts = torch.cat([own, routing.experts[:, :-1]], 1)
        weights = torch.zeros_like(routing.weights)
        weights[:, 0] = model.mean_weights.sum()
        routing = Routing(routing.probs, experts, weights)
    found = model.quantize(z, routing)
    if expert is not None and beside is not None:
        found = _with_views(model, z, routing, found, expert, beside)
    ids = SemanticIds(
        codes=found.codes[:, 0],
        experts=routing.experts,
        codebook_size=model.config.codebook_size,
        num_experts=model.num_experts,
        shared_codes=found.shared_codes,
        slot_codes=found.codes if model.config.top_k > 1 else None,
        last_residual=model.last_residual(z, routing, found),
        last_codebooks=model.quantizer.codebooks[:, -1].detach().clone(),
    )
    return Encoded(ids, z, found.quantized)


def _with_views(
    model: UniTokModel, z: Tensor, routing: Routing, found: MoEResidualOutput, expert: int, beside: Beside
) -> MoEResidualOutput:
    """Choose the codes of the own expert again, by latents and views together."""
    quantizer, rows = model.quantizer, z
    if quantizer.shared == "first" and quantizer.shared_codebooks is not None and found.shared_codes is not None:
        rows = z - uk.residual_decode(found.shared_codes, quantizer.shared_codebooks)
    chain = torch.cat([quantizer.codebooks[expert], beside.codebooks], 2)
    codes = found.codes.clone()
    codes[:, 0] = uk.residual_encode(torch.cat([rows, beside.columns], 1), chain).codes
    before, after = (uk.residual_decode(each[:, 0], quantizer.codebooks[expert]) for each in (found.codes, codes))
    return found._replace(codes=codes, quantized=found.quantized + routing.weights[:, :1] * (after - before))
