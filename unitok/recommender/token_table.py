"""Items as tokens of a sequence model's vocabulary: one row of the table an item, one range of numbers a column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unitok.collisions import row_groups

if TYPE_CHECKING:
    from unitok.semantic_id import SemanticIds

PAD, START, FIRST = 0, 1, 2  # of a vocabulary of our own


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What N items are called in a vocabulary; `of` and `items` make it, or `extend_vocabulary`.

    Args:
        tokens: (N, T) int64, each item's tokens; no token stands in two columns.
        vocab_size: V, of the model's vocabulary.
        start: the token that every sequence begins with.
        pad: the token that fills up; no model sees it.

    Raises:
        ValueError: no items or columns, or a token outside the vocabulary.

    Source: TIGER, arXiv 2305.05065, which gives every column tokens of its own.
    """

    tokens: Tensor
    vocab_size: int
    start: int = START
    pad: int = PAD

    def __post_init__(self) -> None:
        """Check the tokens once, so that nothing later has to."""
        if self.tokens.ndim != 2 or not self.tokens.numel():
            got = tuple(self.tokens.shape)
            raise ValueError(f"TokenTable: tokens must be (N, T), N and T at least 1, got {got}. Pass some items.")
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if low < 0 or high >= self.vocab_size:
            got = f"{low} to {high}"
            raise ValueError(
                f"TokenTable: tokens must be in [0, {self.vocab_size}), got {got}. Enlarge the vocabulary."
            )

    @classmethod
    def of(cls, ids: SemanticIds, layout: str = "top1") -> TokenTable:
        """Give every column of `ids.tokens(layout)` its own range of a new vocabulary.

        tokens[i, t] = 2 + sum of the sizes of the columns before t + ids.tokens(layout)[i, t]. A column in which all items
        agree, such as the expert of a single domain, says nothing: it is left out, and costs no step of the search.

        Args:
            ids: the IDs of N items, with a suffix where items share one.
            layout: see `SemanticIds.tokens`.

        Returns:
            The table, with 0 to pad and 1 to start.

        Raises:
            ValueError: no items, an item that could not be encoded, or a layout whose codes the IDs don't hold.

        Source: TIGER, arXiv 2305.05065.
        """
        columns = telling_columns(ids, layout)
        sizes = torch.tensor(ids.vocabulary_sizes(layout))[columns]
        ends = FIRST + sizes.cumsum(0)
        return cls(ids.tokens(layout)[:, columns] + ends - sizes, int(ends[-1]))

    @classmethod
    def items(cls, num_items: int) -> TokenTable:
        """Make every item a token of its own, as SASRec has it.

        Args:
            num_items: N.

        Returns:
            The table, of one column.

        Raises:
            ValueError: no items.

        Source: SASRec, arXiv 1808.09781.
        """
        return cls(torch.arange(num_items)[:, None] + FIRST, num_items + FIRST)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """T, the tokens of an item."""
        return self.tokens.shape[1]

    @cached_property
    def names(self) -> Tensor:
        """Each item's name, (N,) int64: arange(N), or a number of its tokens where some items share theirs."""
        groups = row_groups(self.tokens)
        return torch.arange(len(groups)) if int(groups.max()) + 1 == len(groups) else groups


def telling_columns(ids: SemanticIds, layout: str) -> list[int]:
    """The columns of a layout in which some items differ; the first where none is.

    Raises:
        ValueError: no items, or one that could not be encoded.
    """
    ids.check_encoded("TokenTable")
    tokens = ids.tokens(layout)
    if not len(tokens):
        raise ValueError("TokenTable: ids must be of at least one item, got 0. Tokenize some.")
    return (tokens != tokens[:1]).any(0).nonzero()[:, 0].tolist() or [0]
