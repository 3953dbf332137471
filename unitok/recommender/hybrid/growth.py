"""A hybrid recommender of more items, which need no training: their tokens and their content tell what they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitok.recommender.hybrid.model import HybridModel


@torch.no_grad()
def grown(model: HybridModel, tokens: Tensor, vocab_size: int, content: Tensor) -> HybridModel:
    """Make a model of more items, in which those that it had are as they were.

    A token that is new starts as the mean of its column's tokens that were there.

    Args:
        model: of N items.
        tokens: (N + M, T) int64, first those of the N items, then those of the new ones.
        vocab_size: V, with the new tokens at its end.
        content: (M, C) float32, the new items' embeddings.

    Returns:
        A model of N + M items; nothing of it is shared with the other.
    """
    made, known = copy.deepcopy(model), len(model.items.weight)
    new = len(tokens) - known
    embeddings = made.trunk.get_input_embeddings().weight
    begun = [embeddings]
    for token in range(len(embeddings), vocab_size):
        column = (tokens == token).any(0).nonzero()[0, 0]
        begun.append(embeddings[tokens[:known, column].unique()].mean(0, keepdim=True))
    made.trunk.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat(begun), freeze=False))
    made.trunk.config.vocab_size = max(made.trunk.config.vocab_size, len(torch.cat(begun)))
    made.items = nn.Embedding.from_pretrained(F.pad(made.items.weight, (0, 0, 0, new)), freeze=False)
    own = F.normalize(content.to(made.centre.device) - made.centre, dim=1)
    made.content = torch.cat([made.content, own])
    made.met = F.pad(made.met, (0, new))
    made.memory = made.memory.grown(len(tokens))
    return made
