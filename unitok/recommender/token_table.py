"""Items as tokens of a sequence model's vocabulary: one row per item, one range of numbers per column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from unitok.ids.rows import row_groups
from unitok.ids.semantic_ids import SemanticIds
from unitok.ids.text import letters
from unitok_kernels import checks
from unitok_kernels.rules import fail, flag

PAD, START, FIRST = 0, 1, 2  # of a new vocabulary


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The tokens of N items in a vocabulary; made by `of`, `items` or `extend_vocabulary`.

    Args:
        tokens: (N, T) int64, each item's tokens; no token is in two columns.
        vocab_size: V, the size of the model's vocabulary.
        start: the token that every sequence begins with.
        pad: the padding token; no model sees it.
        groups: (N,) int64, a number for each item's ID without its suffix, for figures at the token level.

    Raises:
        TypeError: tokens or groups that are no tensor of int64, or a number that is no integer.
        ValueError: no items or columns, a token outside the vocabulary, or groups of another number of items.

    Source: TIGER, arXiv 2305.05065, which gives every column tokens of its own.
    """

    tokens: Tensor
    vocab_size: int
    start: int = START
    pad: int = PAD
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the tokens once; nothing later has to."""
        checks.whole("TokenTable", vocab_size=self.vocab_size, start=self.start, pad=self.pad)
        given = {"tokens": self.tokens} if self.groups is None else {"tokens": self.tokens, "groups": self.groups}
        checks.tensors("TokenTable", **given)
        for name, value in given.items():
            if value.dtype != torch.int64:
                fail("TokenTable", name, "int64", value.dtype, f"Convert it with {name}.long().", TypeError)
        if self.tokens.ndim != 2 or not self.tokens.numel():
            shape = tuple(self.tokens.shape)
            raise ValueError(f"TokenTable: tokens must be (N, T), N and T at least 1, got {shape}. Pass some items.")
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if low < 0 or high >= self.vocab_size:
            got = f"{low} to {high}"
            raise ValueError(
                f"TokenTable: tokens must be in [0, {self.vocab_size}), got {got}. Enlarge the vocabulary."
            )
        for name in ("start", "pad"):
            if not 0 <= (token := getattr(self, name)) < self.vocab_size:
                rule = f"{name} must be in [0, {self.vocab_size})"
                raise ValueError(f"TokenTable: {rule}, got {token}. Name a token of the vocabulary.")
        if self.groups is not None and self.groups.shape != (shape := self.tokens.shape[:1]):
            step = "Pass SemanticIds.groups of the same items."
            fail("TokenTable", "groups", f"of shape {tuple(shape)}, as tokens is", tuple(self.groups.shape), step)

    @classmethod
    def of(cls, ids: SemanticIds, layout: str = "top1", *, by_expert: bool = False) -> TokenTable:
        """Give every column of `ids.tokens(layout)` its own range of a new vocabulary.

        tokens[i, t] = 2 + sizes of the columns before t + column t of item i. If there is a suffix, it becomes one
        column with the expert, which numbers the pairs that occur. A column with one value for all items is left out.

        Args:
            ids: the IDs of N items, with a suffix where items share one.
            layout: see `SemanticIds.tokens`.
            by_expert: number the pairs of a code and the expert, too, of the top expert's codes: a code means something
                else to each expert. Off, a code has one token, as in the text of an ID, whatever the expert.

        Returns:
            The table, with 0 to pad and 1 to start.

        Raises:
            ValueError: no items, an item that could not be encoded, or a layout whose codes the IDs don't hold.

        Source: TIGER, arXiv 2305.05065.
        """
        flag("TokenTable.of", by_expert=by_expert)
        found = columns("TokenTable.of", ids, layout)
        values, sizes = [column.values for column in found], [len(column.texts) for column in found]
        if by_expert:
            for number, column in enumerate(found):
                if column.is_code:
                    pairs = ids.experts[:, 0] * ids.codebook_size + column.values
                    kinds, values[number] = pairs.unique(return_inverse=True)
                    sizes[number] = len(kinds)
        starts = [FIRST, *(FIRST + torch.tensor(sizes).cumsum(0)).tolist()]
        tokens = [column + start for column, start in zip(values, starts, strict=False)]
        return cls(torch.stack(tokens, 1), starts[-1], groups=ids.groups(layout))

    @classmethod
    def items(cls, num_items: int) -> TokenTable:
        """Make every item a token of its own, as in SASRec.

        Args:
            num_items: N.

        Returns:
            The table, of one column.

        Raises:
            ValueError: no items.

        Source: SASRec, arXiv 1808.09781.
        """
        checks.whole("TokenTable.items", num_items=num_items)
        if num_items < 1:
            raise ValueError(f"TokenTable.items: num_items must be at least 1, got {num_items}. Pass some items.")
        return cls(torch.arange(num_items)[:, None] + FIRST, num_items + FIRST)

    def extended(self, ids: SemanticIds, layout: str = "top1") -> TokenTable:
        """Give items that came later their tokens: of this vocabulary, and new ones at its end where it has none.

        Args:
            ids: the IDs of all items, first those of this table, as they were, then the new ones.
            layout: as the table was made with.

        Returns:
            The table of all items, in which the first keep their tokens.

        Raises:
            TypeError: something else than IDs.
            ValueError: no new item, other IDs of those that were there, or IDs that tell items apart in a column that
                this table doesn't have, since it is the same for all its items.
        """
        if not isinstance(ids, SemanticIds):
            step = "Make them with Tokenizer.tokenize."
            fail("extended", "ids", "SemanticIds", type(ids).__name__, step, TypeError)
        known, ways = len(self), [TokenTable.of(ids, layout, by_expert=by_expert) for by_expert in (True, False)]
        if len(ids) <= known:
            step = "Pass the IDs of all items, the new ones last."
            fail("extended", "ids", f"of more than the {known} items that are there", len(ids), step)
        step = "Pass the IDs that the table was made of, and after them the new ones; else make a table anew."
        if (width := ways[0].width) != self.width:
            fail("extended", "ids", f"of {self.width} columns, as the table", width, step)
        for every in ways:  # as this one was made; where both fit, an expert's new code shares no token
            number = torch.full((every.vocab_size,), -1)
            number[every.tokens[:known]] = self.tokens
            as_many = len(every.tokens[:known].unique()) == len(self.tokens.unique())
            if as_many and number[every.tokens[:known]].equal(self.tokens):
                break
        else:
            fail("extended", "ids", "those of the table, for its items", "others", step)
        fresh = every.tokens.unique()
        fresh = fresh[number[fresh] < 0]
        number[fresh] = self.vocab_size + torch.arange(len(fresh))
        return replace(self, tokens=number[every.tokens], vocab_size=self.vocab_size + len(fresh), groups=every.groups)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """T, tokens per item."""
        return self.tokens.shape[1]

    @cached_property
    def names(self) -> Tensor:
        """Each item's name, (N,) int64: arange(N), or a number of its tokens if some items share theirs."""
        groups = row_groups(self.tokens)
        return torch.arange(len(groups)) if int(groups.max()) + 1 == len(groups) else groups


class Column(NamedTuple):
    """A column of tokens.

    Attributes:
        values: (N,) int64, the number of each item's token.
        texts: what each number is written as, such as `<a_12>`.
        is_code: whether it is a code of the top expert.
    """

    values: Tensor
    texts: list[str]
    is_code: bool = False


def columns(what: str, ids: SemanticIds, layout: str) -> list[Column]:
    """Split IDs into the columns that differ between items, as described in `TokenTable.of`; at least one.

    Args:
        what: the operation that a message names.
        ids: the IDs of N items.
        layout: see `SemanticIds.tokens`.

    Returns:
        The columns.

    Raises:
        ValueError: no items, one that could not be encoded, or a layout whose codes the IDs don't hold.
    """
    if not isinstance(ids, SemanticIds):
        fail(what, "ids", "SemanticIds", type(ids).__name__, "Make them with Tokenizer.tokenize.", TypeError)
    ids.check_layout(what, layout)
    ids.check_encoded(what)
    if not len(ids):
        raise ValueError(f"{what}: ids must be of at least one item, got 0. Tokenize some.")
    tokens, sizes, suffixed = ids.tokens(layout), ids.vocabulary_sizes(layout), ids.suffix is not None
    names = [f"<{letters(column)}_%d>" for column in range(tokens.shape[1])]
    expert = ids.num_levels  # its column in every layout: they all begin with top1
    plain = [column for column in range(len(names) - suffixed) if not (suffixed and column == expert)]
    found = [
        Column(tokens[:, column], [names[column] % code for code in range(sizes[column])], column < ids.num_levels)
        for column in plain
    ]
    if suffixed:
        pairs, number = tokens[:, [expert, -1]].unique(dim=0, return_inverse=True)
        found.append(Column(number, [(names[expert] + names[-1]) % tuple(pair) for pair in pairs.tolist()]))
    return [column for column in found if bool((column.values != column.values[0]).any())] or found[:1]


def check_table(what: str, table: object) -> None:
    """Refuse anything that isn't a table of items, before an attribute is missed."""
    if not isinstance(table, TokenTable):
        step = "Make it with TokenTable.of or TokenTable.items."
        fail(what, "table", "a TokenTable", type(table).__name__, step, TypeError)
