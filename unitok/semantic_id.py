"""Semantic IDs: what a tokenizer says about items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.collisions import RESOLVERS, AssignedIds, Key, resolve
from unitok.token_forms import CODE_FIELDS, LAYOUTS, TokenForms

__all__ = ["LAYOUTS", "RESOLVERS", "AssignedIds", "SemanticIds"]

_ID_FIELDS = (*CODE_FIELDS, "suffix")
_ROW_FIELDS = (*_ID_FIELDS, "last_residual")


@dataclass(frozen=True, eq=False)
class SemanticIds(TokenForms):
    """The semantic IDs of N items: by default (c_1 .. c_L of the top expert, expert id).

    A code or expert of -1 marks a row that could not be encoded; it has no text, packed form or suffix.

    Args:
        codes: (N, L) int64 in [-1, codebook_size), the codes of the top expert by level.
        experts: (N, S) int64 in [-1, num_experts), the routed experts, slot 0 the top one; zeros (N, 1) for a
            single codebook.
        codebook_size: K, codewords a level.
        num_experts: E, at least 1 (a single codebook is one expert); grows as domains are added.
        shared_codes: (N, L) int64, the codes of the shared expert, or None.
        slot_codes: (N, S, L) int64, the codes of every routed expert, slot 0 equal to `codes`, or None.
        suffix: (N,) int64 from 0 on, the number that tells items of equal ID apart, or None.
        last_residual: (N, D) float32, what the top expert's last level quantises; for resolver "reassign".
        last_codebooks: (E, K, D) float32, the experts' last-level codebooks; for resolver "reassign".

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
        """Check every field once, so that nothing later has to."""
        sizes: dict[str, int] = {"K": self.codebook_size, "E": self.num_experts}
        _check_tensor("codes", self.codes, "N L", sizes)
        _check_tensor("experts", self.experts, "N S", sizes)
        _check_tensor("shared_codes", self.shared_codes, "N L", sizes)
        _check_tensor("slot_codes", self.slot_codes, "N S L", sizes)
        _check_tensor("suffix", self.suffix, "N", sizes)
        _check_tensor("last_residual", self.last_residual, "N D", sizes, torch.float32)
        _check_tensor("last_codebooks", self.last_codebooks, "E K D", sizes, torch.float32)
        for letter, size in sizes.items():
            if size < 1 and letter not in "ND":
                raise ValueError(f"SemanticIds: {letter} must be at least 1, got {size}. Use the tokenizer's.")
        for name in CODE_FIELDS:
            high = self.num_experts if name == "experts" else self.codebook_size
            _check_range(name, getattr(self, name), -1, high)
        _check_range("suffix", self.suffix, 0, 2**62)
        if self.slot_codes is not None and not torch.equal(self.slot_codes[:, 0], self.codes):
            row = int((self.slot_codes[:, 0] != self.codes).any(dim=1).nonzero()[0, 0])
            raise ValueError(
                f"SemanticIds: slot_codes[:, 0] must be codes, got {self.slot_codes[row, 0].tolist()} in row "
                f"{row}. Put the top expert first."
            )

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> SemanticIds:
        """The IDs of some rows: a slice, indices or a boolean mask."""
        if isinstance(rows, int | np.integer):  # also keeps `for id in ids` from running on for ever
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

        An ID is its codes, experts and suffix; sizes, residuals and codebooks, which may grow, are no part of it.

        Args:
            other: the IDs to compare with.

        Returns:
            True if every field of the IDs is equal, or missing in both.

        Source: UniTok.
        """
        return all(_same(getattr(self, name), getattr(other, name)) for name in _ID_FIELDS)

    @staticmethod
    def concatenate(parts: Iterable[SemanticIds]) -> SemanticIds:
        """Put batches of one tokenizer one after another, be they from before or after it was given domains.

        Args:
            parts: at least one batch of IDs.

        Returns:
            IDs of sum(N) rows, with num_experts and last_codebooks of the part that has most experts.

        Raises:
            ValueError: no parts, or parts whose levels, codebook sizes, fields or common experts' codebooks differ.

        Source: UniTok.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate: parts must be at least one, got 0. Slice ids[:0] for an empty one.")
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
    ) -> SemanticIds:
        """Tell items that share an ID apart, by their keys and never by the order of the rows.

        suffix: the rank of the key within the items of equal ID, 0 for the first or only one.
        reassign: in order of (ID, key) the first item keeps its ID; each further one takes the nearest
        last-level codeword, argmin_k |last_residual - last_codebooks[expert, k]|^2 (ties: lowest k), whose ID
        no item has, be it as its own or by reassignment. Where all K are taken, the suffix tells it apart, and
        is 0 otherwise: the suffix column is always there, so that no ID is rewritten once one is needed.
        none: the IDs as they are; `existing` plays no part.

        Args:
            item_keys: N distinct integers, or N distinct strings.
            resolver: "suffix", "reassign" or "none" (or None).
            existing: an earlier assignment, of this tokenizer or as it was before domains were added. Its items
                keep their IDs, be they among these rows or not; the others take what is left: the next suffixes
                in the order of their keys, or free codewords.

        Returns:
            IDs in the order of the rows, with a suffix (N,) and thereby distinct, unless resolver is "none".

        Raises:
            ValueError: an unknown resolver, keys that repeat, rows that could not be encoded, an existing
                item whose ID changed, no residuals or codebooks for "reassign".
            TypeError: keys that are neither all integers nor all strings.

        Source: the suffix is TIGER's, arXiv 2305.05065; its append-only numbers and "reassign" are UniTok's.
        """
        return resolve(self, item_keys, resolver, existing)


def _check_tensor(
    name: str, value: Tensor | None, shape: str, sizes: dict[str, int], dtype: torch.dtype = torch.int64
) -> None:
    """Check one field; a letter of its shape takes its size from the first field that has it."""
    if value is None and name not in ("codes", "experts"):
        return
    if not isinstance(value, Tensor) or value.dtype != dtype or value.device.type != "cpu":
        got = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"SemanticIds: {name} must be a CPU tensor of {dtype}, got {got}. Convert it with .to().")
    letters = shape.split()
    known = ", ".join(f"{letter} = {sizes[letter]}" for letter in letters if letter in sizes)
    if value.ndim != len(letters) or any(
        sizes.setdefault(letter, size) != size for letter, size in zip(letters, value.shape, strict=True)
    ):
        raise ValueError(
            f"SemanticIds: {name} must be ({', '.join(letters)}){' with ' + known if known else ''}, got "
            f"{tuple(value.shape)}. Pass a row for each item, and the tokenizer's sizes."
        )


def _check_range(name: str, value: Tensor | None, low: int, high: int) -> None:
    if value is None or not value.numel() or (int(value.min()) >= low and int(value.max()) < high):
        return
    row = int(((value < low) | (value >= high)).nonzero()[0, 0])
    raise ValueError(
        f"SemanticIds: {name} must be in [{low}, {high}), got {value[row].tolist()} in row {row}. Check "
        "that the sizes are those of the tokenizer that made them."
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _extends(larger: Tensor | None, smaller: Tensor | None) -> bool:
    """Whether the smaller tensor is the beginning of the larger one, as codebooks are of those with domains added."""
    return larger is smaller or (
        larger is not None and smaller is not None and torch.equal(larger[: len(smaller)], smaller)
    )


def _signature(ids: SemanticIds) -> tuple[object, ...]:
    """What batches of one tokenizer have in common: the codebook size, and which fields are filled, how wide."""
    widths = [None if (value := getattr(ids, name)) is None else value.shape[1:] for name in _ROW_FIELDS]
    return (ids.codebook_size, *widths)
