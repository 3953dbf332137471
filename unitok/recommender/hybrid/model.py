"""An RQ-Transformer with a head over items: what the state, the memory and the items' content say of the next item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from unitok.recommender.hybrid.memory import TransitionMemory
from unitok.recommender.rq_transformer import RQTransformer
from unitok.recommender.saving import HEAD

_RARE = 0.01  # what is recalled counts in proportion below it, and by its logarithm above
_DECAY = 0.5  # of a history's item with its distance from the end, in what the history's content is


class HybridModel(RQTransformer):
    """Scores items by their vectors, beside writing their tokens.

    score(i) = b_1 a s . v_i + w(s) log(1 + m_i / .01) + b_2 c(s) cos(e_i, h) + r [i is in the history];
    v_i = sum of the embeddings of item i's tokens + an embedding of its own; m is what `TransitionMemory` recalls; e_i
    is the item's content minus the mean of all, and h that of the history, each item counting half as much as the one
    after it; w and c are softplus of linear functions of the state s; a and r are learned; b is 1 until `fit` chooses
    it on validation.

    Args:
        trunk: a decoder of transformers without a head, which takes `inputs_embeds`.
        columns: T, tokens per item.
        memory: the transitions between N items.
        content: (N, C), the items' embeddings; C = 0 for none.
    """

    met: Tensor  # (N,) bool, which items users met in training: only those are learnt to be told from others
    content: Tensor  # (N, C) float32, centred, each of length 1
    centre: Tensor  # (C,) float32
    balance: Tensor  # (2,) float32, b

    def __init__(self, trunk: Any, columns: int, memory: TransitionMemory, content: Tensor) -> None:
        super().__init__(trunk, memory.num_items, columns)
        self.memory = memory
        self.register_buffer("met", torch.ones(memory.num_items, dtype=torch.bool))
        content = content.detach().float()
        self.register_buffer("centre", content.mean(0))
        self.register_buffer("content", F.normalize(content - self.centre, dim=1))
        self.register_buffer("balance", torch.ones(2))
        self.trust = nn.Linear(self.items.weight.shape[1], 2)  # in the memory, and in the content
        nn.init.zeros_(self.trust.weight)
        nn.init.zeros_(self.trust.bias)
        self.sharpness = nn.Parameter(torch.zeros(()))  # log a
        self.repeat = nn.Parameter(torch.zeros(()))  # r

    def vectors(self, items: Tensor, tokens: Tensor) -> Tensor:
        """What the state finds items by: v of (I,) items, of (I, T) tokens, as (I, width)."""
        found: Tensor = self.trunk.get_input_embeddings()(tokens).sum(1) + self.items(items)
        return found

    def profiles(self, items: Tensor) -> Tensor:
        """Sum up the content of (B, H) histories, padded on the right with -1, after each item: (B, H, C), length 1."""
        each = self.content[items.clamp(min=0)] * (items >= 0)[..., None]
        for column in range(1, items.shape[1]):
            each[:, column] += _DECAY * each[:, column - 1]
        return F.normalize(each, dim=-1)

    def score(self, states: Tensor, likeness: Tensor, recalled: Tensor, met: Tensor, vectors: Tensor) -> Tensor:
        """Score items for P rows.

        Args:
            states: (P, width), s.
            likeness: (P, I), cos(e_i, h).
            recalled: (P, I), m.
            met: (P, I), 1 where the item is in the history, else 0.
            vectors: v of the items, (I, width), or of each row's own, (P, I, width).

        Returns:
            (P, I).
        """
        asked = self.balance[0] * self.sharpness.exp() * states
        fit = asked @ vectors.T if vectors.ndim == 2 else (vectors @ asked[:, :, None])[:, :, 0]
        trust = F.softplus(self.trust(states))
        fit = torch.addcmul(fit, trust[:, :1], torch.log1p(recalled / _RARE))
        return torch.addcmul(fit, self.balance[1] * trust[:, 1:], likeness) + self.repeat * met

    @classmethod
    def _around(cls, trunk: Any, columns: int, rest: dict[str, Tensor]) -> Self:
        if missing := sorted({*_BESIDE, "met", "centre", "content"} - set(rest)):
            raise ValueError(f"{HEAD} holds no {missing[0]}")
        memory, content = TransitionMemory.of(*(rest[name] for name in _BESIDE)), rest["content"]
        items = len(rest["items.weight"])
        if content.ndim != 2 or not items == len(content) == memory.num_items:
            raise ValueError(f"{HEAD} holds transitions or content of other items")
        found = (content, rest["centre"])
        if not all(part.dtype == torch.float32 and bool(part.isfinite().all()) for part in found):
            raise ValueError(f"{HEAD} holds content that is no finite float32")
        if rest["met"].dtype != torch.bool:
            raise ValueError(f"{HEAD} doesn't hold which items were met")
        rest.setdefault("balance", torch.ones(2))  # which was first there a little later than the rest
        return cls(trunk, columns, memory, content)


_BESIDE = ("memory.offsets", "memory.items", "memory.value")
