"""Items as tokens of a sequence model's vocabulary: one row of the table an item, one range of numbers a column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unitok.collisions import row_groups
from unitok.plain import letters

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
        groups: (N,) int64, a number for each item's ID without its suffix, for figures at the token level.

    Raises:
        ValueError: no items or columns, or a token outside the vocabulary.

    Source: TIGER, arXiv 2305.05065, which gives every column tokens of its own.
    """

    tokens: Tensor
    vocab_size: int
    start: int = START
    pad: int = PAD
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the tokens once, so that nothing later has to."""
        if self.tokens.ndim != 2 or not self.tokens.numel():
            shape = tuple(self.tokens.shape)
            raise ValueError(f"TokenTable: tokens must be (N, T), N and T at least 1, got {shape}. Pass some items.")
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if low < 0 or high >= self.vocab_size:
            got = f"{low} to {high}"
            raise ValueError(
                f"TokenTable: tokens must be in [0, {self.vocab_size}), got {got}. Enlarge the vocabulary."
            )

    @classmethod
    def of(cls, ids: SemanticIds, layout: str = "top1") -> TokenTable:
        """Give every column of `ids.tokens(layout)` its own range of a new vocabulary.

        tokens[i, t] = 2 + sizes of the columns before t + column t of item i. The suffix takes the expert along: one
        column numbers the pairs of both that there are. A column in which all items agree is left out: it says nothing.

        Args:
            ids: the IDs of N items, with a suffix where items share one.
            layout: see `SemanticIds.tokens`.

        Returns:
            The table, with 0 to pad and 1 to start.

        Raises:
            ValueError: no items, an item that could not be encoded, or a layout whose codes the IDs don't hold.

        Source: TIGER, arXiv 2305.05065.
        """
        found = columns(ids, layout)
        ends = FIRST + torch.tensor([len(column.texts) for column in found]).cumsum(0)
        starts = [FIRST, *ends.tolist()]
        tokens = [column.values + start for column, start in zip(found, starts, strict=False)]
        return cls(torch.stack(tokens, 1), starts[-1], groups=ids.groups(layout))

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


class Column(NamedTuple):
    """A column of tokens.

    Attributes:
        values: (N,) int64, the number of each item's token.
        texts: what each number is written as, such as `<a_12>`.
    """

    values: Tensor
    texts: list[str]


def columns(ids: SemanticIds, layout: str = "top1") -> list[Column]:
    """Take IDs apart into the columns that tell items apart, as `TokenTable.of` says; at least one.

    Raises:
        ValueError: no items, one that could not be encoded, or a layout whose codes the IDs don't hold.
    """
    ids.check_encoded("TokenTable")
    if not len(ids):
        raise ValueError("TokenTable: ids must be of at least one item, got 0. Tokenize some.")
    tokens, sizes, suffixed = ids.tokens(layout), ids.vocabulary_sizes(layout), ids.suffix is not None
    names = [f"<{letters(column)}_%d>" for column in range(tokens.shape[1])]
    expert = ids.num_levels  # its column in every layout: they all begin with top1
    plain = [column for column in range(len(names) - suffixed) if not (suffixed and column == expert)]
    found = [Column(tokens[:, column], [names[column] % code for code in range(sizes[column])]) for column in plain]
    if suffixed:
        pairs, number = tokens[:, [expert, -1]].unique(dim=0, return_inverse=True)
        found.append(Column(number, [(names[expert] + names[-1]) % tuple(pair) for pair in pairs.tolist()]))
    return [column for column in found if bool((column.values != column.values[0]).any())] or found[:1]
