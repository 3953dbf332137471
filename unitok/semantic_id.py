"""Semantic IDs: what a tokenizer says about items, as token matrices, text and packed bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.collisions import RESOLVERS, AssignedIds, Key, resolve, row_groups

__all__ = ["LAYOUTS", "RESOLVERS", "AssignedIds", "SemanticIds"]

LAYOUTS = ("top1", "top1_shared", "all_slots")

_CODE_FIELDS = ("codes", "experts", "shared_codes", "slot_codes")
_ID_FIELDS = (*_CODE_FIELDS, "suffix")
_ROW_FIELDS = (*_ID_FIELDS, "last_residual")


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The semantic IDs of N items: by default (c_1 .. c_L of the top expert, expert id).

    A code or expert of -1 marks a row that could not be encoded; it has no text, packed form or suffix.

    Args:
        codes: (N, L) int64 in [-1, codebook_size), the codes of the top expert by level.
        experts: (N, S) int64 in [-1, num_experts), the routed experts, slot 0 the top one; zeros (N, 1) for a
            single codebook.
        codebook_size: K, codewords a level.
        num_experts: E, at least 1 (a single codebook is one expert).
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
        for name in _CODE_FIELDS:
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

    @property
    def num_levels(self) -> int:
        """L, the codes of one chain."""
        return self.codes.shape[1]

    def equals(self, other: SemanticIds) -> bool:
        """Whether both hold the same IDs in the same order (residuals and codebooks are no part of an ID)."""
        same_sizes = (self.codebook_size, self.num_experts) == (other.codebook_size, other.num_experts)
        return same_sizes and all(_same(getattr(self, name), getattr(other, name)) for name in _ID_FIELDS)

    @staticmethod
    def concatenate(parts: Iterable[SemanticIds]) -> SemanticIds:
        """Put batches of one tokenizer one after another; raises ValueError where sizes or fields differ."""
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate: parts must be at least one, got 0. Slice ids[:0] for an empty one.")
        first = parts[0]
        for number, part in enumerate(parts):
            if _signature(part) != _signature(first) or not _same(part.last_codebooks, first.last_codebooks):
                raise ValueError(
                    f"concatenate: parts must agree in sizes, fields and codebooks, got part {number}. "
                    "Tokenize all of them with one tokenizer."
                )
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in _ROW_FIELDS
            if getattr(first, name) is not None
        }
        return replace(first, **joined)

    def tokens(self, layout: str = "top1") -> Tensor:
        """Lay the IDs out as a token matrix, one row an item.

        top1 = (c_1 .. c_L, expert); top1_shared = top1, then the L shared codes; all_slots = for each routed
        expert its L codes and its id. Each begins with top1; the suffix, if there is one, is the last column.

        Args:
            layout: "top1", "top1_shared" or "all_slots".

        Returns:
            (N, T) int64; column t is below `vocabulary_sizes(layout)[t]`.

        Raises:
            ValueError: an unknown layout, or one whose codes these IDs don't hold.

        Source: UniTok, arXiv 2511.12922, eq. 7 (top1); the paper leaves the others open.
        """
        tokens = self._tokens_without_suffix(layout)
        return tokens if self.suffix is None else torch.cat([tokens, self.suffix[:, None]], dim=1)

    def vocabulary_sizes(self, layout: str = "top1") -> list[int]:
        """How many values each column of `tokens(layout)` can take; for the suffix, as far as used."""
        self._tokens_without_suffix(layout)  # raises where the layout doesn't fit
        chain = [self.codebook_size] * self.num_levels
        sizes = [*chain, self.num_experts] * (self.experts.shape[1] if layout == "all_slots" else 1)
        sizes += chain if layout == "top1_shared" else []
        return sizes if self.suffix is None else [*sizes, int(self.suffix.max()) + 1 if len(self) else 1]

    def groups(self, layout: str = "top1") -> Tensor:
        """Number the distinct IDs, suffix aside, in lexicographic order: (N,) int64, dense."""
        return row_groups(self._tokens_without_suffix(layout))

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
        no item has, be it as its own or by reassignment. Where all K are taken, a suffix tells it apart;
        suffix is None where no item needs one.
        none: the IDs as they are; `existing` plays no part.

        Args:
            item_keys: N distinct integers, or N distinct strings.
            resolver: "suffix", "reassign" or "none" (or None).
            existing: an earlier assignment. Its items keep their IDs, be they among these rows or not; the
                others take what is left: the next suffixes in the order of their keys, or free codewords.

        Returns:
            IDs in the order of the rows, distinct (with their suffix) unless resolver is "none".

        Raises:
            ValueError: an unknown resolver, keys that repeat, rows that could not be encoded, an existing
                item whose ID changed, no residuals or codebooks for "reassign".
            TypeError: keys that are neither all integers nor all strings.

        Source: the suffix is TIGER's, arXiv 2305.05065; its append-only numbers and "reassign" are UniTok's.
        """
        return resolve(self, item_keys, resolver, existing)

    def to_text(self, layout: str = "top1") -> list[str]:
        """Write each ID as one string, `<a_12><b_7><c_3><d_9><e_2>`: a letter for each column of `tokens`.

        Columns after the 26th are aa, ab, and so on. Raises ValueError for a row that could not be encoded.
        """
        self.check_encoded("to_text")
        tokens = self.tokens(layout)
        template = "".join(f"<{_letters(column)}_%d>" for column in range(tokens.shape[1]))
        return [template % tuple(row) for block in tokens.split(2**16) for row in block.tolist()]

    def pack(self, layout: str = "top1") -> np.ndarray:
        """Pack `tokens(layout)`: (N, T) uint8 if every vocabulary has at most 256 entries, else uint16.

        Raises ValueError for a row that could not be encoded, or a vocabulary of over 65,536 entries.
        """
        self.check_encoded("pack")
        largest = max(self.vocabulary_sizes(layout))
        if largest > 2**16:
            raise ValueError(f"pack: vocabularies must be at most 65536, got {largest}. Store tokens() instead.")
        return self.tokens(layout).numpy().astype(np.uint8 if largest <= 2**8 else np.uint16)

    @classmethod
    def from_tokens(
        cls, tokens: Tensor, *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> SemanticIds:
        """Read what `tokens(layout)` wrote; one column more than the layout has is the suffix.

        Args:
            tokens: (N, T) int64.
            num_levels: L of the tokenizer.
            codebook_size: K of the tokenizer.
            num_experts: E of the tokenizer.
            layout: the one the tokens were written in.

        Returns:
            The IDs, without residuals and codebooks.

        Raises:
            TypeError: another dtype.
            ValueError: a width that the layout doesn't have, or a value out of range (with its first row).

        Source: UniTok.
        """
        width = _width(layout, num_levels, tokens.shape[-1])
        if tokens.ndim != 2 or not 0 <= tokens.shape[1] - width <= 1:
            raise ValueError(
                f"from_tokens: tokens must be (N, {width}) or (N, {width + 1}), got shape "
                f"{tuple(tokens.shape)}. Name the layout and num_levels (not {layout!r}, {num_levels}) "
                "that they were written with."
            )
        chains = tokens[:, : width if layout == "all_slots" else num_levels + 1]
        chains = chains.unflatten(1, (-1, num_levels + 1))
        return cls(
            codes=chains[:, 0, :num_levels],
            experts=chains[:, :, num_levels],
            codebook_size=codebook_size,
            num_experts=num_experts,
            shared_codes=tokens[:, num_levels + 1 : width] if layout == "top1_shared" else None,
            slot_codes=chains[:, :, :num_levels] if layout == "all_slots" else None,
            suffix=tokens[:, width] if tokens.shape[1] > width else None,
        )

    @classmethod
    def from_text(cls, texts: Sequence[str], *, num_levels: int, layout: str = "top1", **sizes: int) -> SemanticIds:
        """Read what `to_text(layout)` wrote; `sizes` are those of `from_tokens`.

        Raises ValueError with the first row that is not written that way.
        """
        found = texts[0].count("<") if len(texts) else 0
        width = _width(layout, num_levels, found)
        width += found == width + 1
        pattern = re.compile("".join(rf"<{_letters(column)}_(0|[1-9]\d{{0,8}})>" for column in range(width)), re.A)
        tokens = np.empty((len(texts), width), dtype=np.int64)
        for row, text in enumerate(texts):
            if (match := pattern.fullmatch(text)) is None:
                example = "".join(f"<{_letters(column)}_0>" for column in range(width))
                raise ValueError(
                    f"from_text: texts must look like {example}, got {text!r} in row {row}. Name "
                    "the layout and num_levels that they were written with."
                )
            tokens[row] = [int(token) for token in match.groups()]
        return cls.from_tokens(torch.from_numpy(tokens), num_levels=num_levels, layout=layout, **sizes)

    @classmethod
    def unpack(cls, packed: np.ndarray, *, num_levels: int, layout: str = "top1", **sizes: int) -> SemanticIds:
        """Read what `pack(layout)` wrote; `sizes` and errors are those of `from_tokens`."""
        if packed.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"unpack: packed must be uint8 or uint16, got {packed.dtype}. Pass what pack() gave.")
        tokens = torch.from_numpy(packed.astype(np.int64))
        return cls.from_tokens(tokens, num_levels=num_levels, layout=layout, **sizes)

    def check_encoded(self, what: str) -> None:
        """Raise ValueError, naming the caller and the row, where a row holds a code or expert of -1."""
        tensors = [tensor for name in _CODE_FIELDS if (tensor := getattr(self, name)) is not None]
        bad = torch.stack([(tensor.flatten(1) < 0).any(dim=1) for tensor in tensors]).any(dim=0)
        if bad.any():
            raise ValueError(
                f"{what}: every row must have been encoded, got a code of -1 in row "
                f"{int(bad.nonzero()[0, 0])}. Its input held NaN or infinity: mend it or leave the row out."
            )

    def _tokens_without_suffix(self, layout: str) -> Tensor:
        _width(layout, self.num_levels, 0)  # raises for an unknown layout
        top1 = torch.cat([self.codes, self.experts[:, :1]], dim=1)
        if layout == "top1_shared" and self.shared_codes is not None:
            return torch.cat([top1, self.shared_codes], dim=1)
        if layout == "all_slots" and self.slot_codes is not None:
            return torch.cat([self.slot_codes, self.experts[:, :, None]], dim=2).flatten(1)
        if layout == "top1" or (layout == "all_slots" and self.experts.shape[1] == 1):
            return top1
        missing = "shared_codes" if layout == "top1_shared" else "slot_codes"
        raise ValueError(
            f"tokens: layout must be 'top1' for IDs without {missing}, got {layout!r}. Keep them to use it."
        )


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


def _width(layout: str, num_levels: int, columns: int) -> int:
    """The columns of a layout without its suffix; for all_slots, of as many slots as fit into `columns`."""
    if layout not in LAYOUTS:
        raise ValueError(f"SemanticIds: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}. Choose one.")
    if layout == "all_slots":
        return (num_levels + 1) * max(1, columns // (num_levels + 1))
    return 2 * num_levels + 1 if layout == "top1_shared" else num_levels + 1


def _letters(column: int) -> str:
    """The name of a column in the text form: a .. z, aa, ab, and so on."""
    tail = chr(ord("a") + column % 26)
    return tail if column < 26 else _letters(column // 26 - 1) + tail


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _signature(ids: SemanticIds) -> tuple[object, ...]:
    """What batches of one tokenizer have in common: sizes, and which fields are filled, how wide."""
    widths = [None if (value := getattr(ids, name)) is None else value.shape[1:] for name in _ROW_FIELDS]
    return (ids.codebook_size, ids.num_experts, *widths)
