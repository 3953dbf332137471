"""Semantic IDs: the codes that a tokenizer gives to items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.ids.collisions import CHANGED, RESOLVERS, Chains, Key, check_sizes, checked_keys, matches, resolve
from unitok.ids.fields import CODE_FIELDS, check_fields
from unitok.ids.token_forms import LAYOUTS, TokenForms
from unitok_kernels.rules import one_of

__all__ = ["LAYOUTS", "RESOLVERS", "AssignedIds", "SemanticIds"]

_ID_FIELDS = (*CODE_FIELDS, "suffix")
_ROW_FIELDS = (*_ID_FIELDS, "last_residual")


@dataclass(frozen=True, eq=False)
class SemanticIds(TokenForms):
    """The semantic IDs of N items: by default (c_1 .. c_L of the top expert, expert id).

    A code or expert of -1 marks a row that could not be encoded; such a row has no text, packed form or suffix.

    Args:
        codes: (N, L) int64 in [-1, codebook_size), the codes of the top expert by level.
        experts: (N, S) int64 in [-1, num_experts), the routed experts, slot 0 being the top one; zeros (N, 1) for a
            single codebook.
        codebook_size: K, codewords per level.
        num_experts: E, at least 1 (a single codebook is one expert); grows as domains are added.
        shared_codes: (N, L) int64, the codes of the shared expert, or None.
        slot_codes: (N, S, L) int64, the codes of every routed expert, slot 0 equal to `codes`, or None.
        suffix: (N,) int64 from 0 on, a number that tells items of equal ID apart, or None.
        last_residual: (N, D) float32, what the top expert's last level quantises; for resolvers that change codes.
        last_codebooks: (E, K, D) float32, the experts' last-level codebooks; for resolvers that change codes.

    Raises:
        TypeError: a field is not a CPU tensor of its dtype.
        ValueError: a shape or a value doesn't fit; for a value, with the first bad row.

    Source: UniTok, arXiv 2511.12922, eq. 7.
    """

    codes: Tensor
    experts: Tensor
    codebook_size: int
    num_experts: int
    shared_codes: Tensor | None = None
    slot_codes: Tensor | None = None
    suffix: Tensor | None = None
    last_residual: Tensor | None = None
    last_codebooks: Tensor | None = None

    def __post_init__(self) -> None:
        """Check every field once; nothing later has to."""
        check_fields("SemanticIds", vars(self), self.codebook_size, self.num_experts)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> SemanticIds:
        """The IDs of some rows: a slice, indices or a boolean mask."""
        if isinstance(rows, int | np.integer):  # otherwise `for id in ids` would never end
            raise TypeError(f"SemanticIds: rows must be a slice, indices or a mask, got {rows}. Index [[{rows}]].")
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        if isinstance(index, Tensor) and not index.numel() and index.dtype != torch.bool:
            index = index.long()  # an empty list has no dtype of its own
        chosen: dict[str, Any] = {
            name: value[index] for name in _ROW_FIELDS if (value := getattr(self, name)) is not None
        }
        return replace(self, **chosen)

    def equals(self, other: SemanticIds) -> bool:
        """Whether both hold the same IDs in the same order.

        An ID is its codes, experts and suffix; sizes, residuals and codebooks, which may grow, are not part of it.

        Args:
            other: the IDs to compare with.

        Returns:
            True if every field of the IDs is equal, or missing in both.

        Source: UniTok.
        """
        return all(_same(getattr(self, name), getattr(other, name)) for name in _ID_FIELDS)

    @staticmethod
    def concatenate(parts: Iterable[SemanticIds]) -> SemanticIds:
        """Join batches of one tokenizer; domains may have been added to it between batches.

        Args:
            parts: at least one batch of IDs.

        Returns:
            IDs of sum(N) rows, with num_experts and last_codebooks of the part that has the most experts.

        Raises:
            ValueError: no parts, or parts whose levels, codebook sizes, fields or common experts' codebooks differ.

        Source: UniTok.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate: parts must be at least one, got 0. Use ids[:0] for an empty one.")
        largest = max(parts, key=lambda part: part.num_experts)
        for number, part in enumerate(parts):
            if _signature(part) != _signature(largest) or not _extends(largest.last_codebooks, part.last_codebooks):
                raise ValueError(
                    f"concatenate: parts must agree in sizes, fields and codebooks, got part {number}. "
                    "Tokenize all of them with one tokenizer."
                )
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in _ROW_FIELDS
            if getattr(largest, name) is not None
        }
        return replace(largest, **joined)

    def assign(
        self,
        item_keys: Sequence[Key] | np.ndarray | Tensor,
        resolver: str | None = "suffix",
        existing: AssignedIds | None = None,
        changed: str = "fail",
    ) -> SemanticIds:
        """Make IDs distinct where items share one; the result depends on item keys, never on the order of the rows.

        suffix: the rank of the key among the items of equal ID, 0 for the first or only one.
        reassign: in order of (ID, key), the first item keeps its ID; each further one takes the nearest
        last-level codeword, argmin_k |last_residual - last_codebooks[expert, k]|^2 (ties: lowest k), that gives an
        ID which no item has, neither its own nor a reassigned one. If all K are taken, the suffix tells it apart;
        otherwise the suffix is 0. There is always a suffix column, so that no ID changes when one is needed later.
        least_cost: as reassign, but for all at once, at the least sum of those squared distances over the new items of
        each family with a collision: IDs that differ in the last code alone. An item whose ID nobody else has may move,
        too. The suffix is for what the family has no room for.
        none: the IDs as they are; `existing` is ignored.

        Args:
            item_keys: N distinct integers, or N distinct strings.
            resolver: "suffix", "reassign", "least_cost" or "none" (or None).
            existing: an earlier assignment by this tokenizer, possibly before domains were added. Its items keep
                their IDs, even if they are not among these rows; the others take free IDs: the next suffixes in the
                order of their keys, or free codewords.
            changed: what becomes of existing items whose codes differ now, as after a change of their embeddings: they
                "fail", "keep" their old IDs, or "renew" them: they get free IDs as new items do. The old IDs stay
                taken.

        Returns:
            IDs in the order of the rows; with a suffix (N,), so all are distinct, unless resolver is "none".

        Raises:
            ValueError: an unknown resolver, keys that repeat, rows that could not be encoded, an existing
                item whose codes changed, no residuals or codebooks for "reassign" and "least_cost".
            TypeError: keys that are neither all integers nor all strings.
            ImportError: "least_cost" without scipy.

        Source: the suffix is TIGER's, arXiv 2305.05065; append-only numbers, "reassign" and "least_cost" are UniTok's.
        """
        if resolver not in (None, *RESOLVERS):
            raise ValueError(f"assign: resolver must be one of {', '.join(RESOLVERS)}, got {resolver!r}. Choose one.")
        one_of("assign", "changed", changed, CHANGED)
        keys = checked_keys("assign", "item_keys", item_keys, len(self))
        if resolver is None or resolver == "none":
            return self
        known, known_keys = replace(self[:0], suffix=None), list[Key]()
        if existing is not None:
            known = existing.ids
            known_keys = checked_keys("assign", "existing.item_keys", existing.item_keys, len(known))
        for ids in (self, known):
            ids.check_encoded("assign")
        codes, top, suffix = resolve(self._chains(), keys, resolver, known._chains(), known_keys, changed)
        slot_codes = self.slot_codes
        if slot_codes is not None:
            slot_codes = torch.cat([codes[:, None], slot_codes[:, 1:]], dim=1)
        experts = torch.cat([top[:, None], self.experts[:, 1:]], dim=1)
        return replace(self, codes=codes, experts=experts, slot_codes=slot_codes, suffix=suffix)

    def changed_rows(
        self, item_keys: Sequence[Key] | np.ndarray | Tensor, existing: AssignedIds, resolver: str | None = "suffix"
    ) -> Tensor:
        """Find the items whose codes aren't those of an earlier assignment any more: what `assign` calls changed.

        Args:
            item_keys: N distinct integers, or N distinct strings.
            existing: an earlier assignment by this tokenizer.
            resolver: the one of `existing`; after "reassign" and "least_cost" last-level codes aren't compared.

        Returns:
            (M, 2) int64: the row of each such item here, and its row in `existing`.

        Raises:
            ValueError: keys that repeat, or `existing` is of another tokenizer.
            TypeError: keys that are neither all integers nor all strings.

        Source: UniTok.
        """
        keys = checked_keys("changed_rows", "item_keys", item_keys, len(self))
        known_keys = checked_keys("changed_rows", "existing.item_keys", existing.item_keys, len(existing.ids))
        check_sizes("changed_rows", self._chains(), existing.ids._chains())
        match, moved = matches(self._chains(), keys, resolver, existing.ids._chains(), known_keys)
        return torch.stack([moved, match[moved]], dim=1)

    def _chains(self) -> Chains:
        top = self.experts[:, 0]
        return Chains(self.codes, top, self.codebook_size, self.suffix, self.last_residual, self.last_codebooks)


@dataclass(frozen=True, eq=False)
class AssignedIds:
    """Item keys with the IDs that `SemanticIds.assign` gave them; a later `assign(existing=...)` keeps them.

    Args:
        item_keys: N distinct integers or strings.
        ids: (N) the IDs of those items, in the same order.

    Source: UniTok.
    """

    item_keys: Sequence[Key] | np.ndarray | Tensor
    ids: SemanticIds


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _extends(larger: Tensor | None, smaller: Tensor | None) -> bool:
    """Whether the smaller tensor is the beginning of the larger one, as codebooks are before domains are added."""
    return larger is smaller or (
        larger is not None and smaller is not None and torch.equal(larger[: len(smaller)], smaller)
    )


def _signature(ids: SemanticIds) -> tuple[object, ...]:
    """What batches of one tokenizer have in common: the codebook size, and the width of each field or None."""
    widths = [None if (value := getattr(ids, name)) is None else value.shape[1:] for name in _ROW_FIELDS]
    return (ids.codebook_size, *widths)
