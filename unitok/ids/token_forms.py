"""The forms of semantic IDs: token matrices, text and packed bytes, written and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unitok.ids.fields import CODE_FIELDS, check_fields
from unitok.ids.rows import row_groups
from unitok.ids.text import read_tokens, token_text

if TYPE_CHECKING:
    from typing_extensions import Self

LAYOUTS = ("top1", "top1_shared", "all_slots")


class TokenForms:
    """The forms that `SemanticIds` is written in and read from; its fields are documented there.

    Source: UniTok, arXiv 2511.12922, eq. 7.
    """

    if TYPE_CHECKING:  # the fields of SemanticIds, the only subclass

        def __init__(
            self,
            codes: Tensor,
            experts: Tensor,
            codebook_size: int,
            num_experts: int,
            shared_codes: Tensor | None = None,
            slot_codes: Tensor | None = None,
            suffix: Tensor | None = None,
        ) -> None: ...

    codes: Tensor
    experts: Tensor
    codebook_size: int
    num_experts: int
    shared_codes: Tensor | None
    slot_codes: Tensor | None
    suffix: Tensor | None

    @property
    def num_levels(self) -> int:
        """L, codes per chain."""
        return self.codes.shape[1]

    def tokens(self, layout: str = "top1") -> Tensor:
        """Write the IDs as a token matrix, one row per item.

        top1 = (c_1 .. c_L, expert); top1_shared = top1, then the L shared codes; all_slots = for each routed
        expert its L codes and its id. Each begins with top1. The suffix, if there is one, is the last column.

        Args:
            layout: "top1", "top1_shared" or "all_slots".

        Returns:
            (N, T) int64; column t is below `vocabulary_sizes(layout)[t]`.

        Raises:
            ValueError: an unknown layout, or one whose codes these IDs don't hold.

        Source: UniTok, arXiv 2511.12922, eq. 7 (top1); the paper leaves the others open.
        """
        self.check_layout("tokens", layout)
        return self._tokens(layout)

    def _tokens(self, layout: str) -> Tensor:
        tokens = self._tokens_without_suffix(layout)
        return tokens if self.suffix is None else torch.cat([tokens, self.suffix[:, None]], dim=1)

    def vocabulary_sizes(self, layout: str = "top1") -> list[int]:
        """Count the values that each column of `tokens(layout)` can take.

        K for a code, num_experts for an expert, max + 1 (1 without rows) for the suffix.

        Args:
            layout: as in `tokens`.

        Returns:
            T sizes.

        Raises:
            ValueError: as `tokens` does.

        Source: UniTok.
        """
        self.check_layout("vocabulary_sizes", layout)
        return self._vocabulary_sizes(layout)

    def _vocabulary_sizes(self, layout: str) -> list[int]:
        chain = [self.codebook_size] * self.num_levels
        sizes = [*chain, self.num_experts] * (self.experts.shape[1] if layout == "all_slots" else 1)
        sizes += chain if layout == "top1_shared" else []
        return sizes if self.suffix is None else [*sizes, int(self.suffix.max()) + 1 if len(self.suffix) else 1]

    def groups(self, layout: str = "top1") -> Tensor:
        """Number the distinct IDs, without their suffixes, in lexicographic order.

        groups[i] = how many distinct IDs are smaller than that of row i: rows with the same number collide.

        Args:
            layout: as in `tokens`.

        Returns:
            (N,) int64, dense: 0 .. number of distinct IDs - 1.

        Raises:
            ValueError: as `tokens` does.

        Source: UniTok.
        """
        self.check_layout("groups", layout)
        return row_groups(self._tokens_without_suffix(layout))

    def to_text(self, layout: str = "top1") -> list[str]:
        """Write each ID as one string, a letter and a number for each column of `tokens(layout)`.

        (12, 7, 3, 9, 2) is `<a_12><b_7><c_3><d_9><e_2>`; columns after the 26th are aa, ab, and so on.

        Args:
            layout: as in `tokens`.

        Returns:
            N strings.

        Raises:
            ValueError: as `tokens` does; a row could not be encoded.

        Source: UniTok, arXiv 2511.12922, eq. 7.
        """
        self.check_layout("to_text", layout)
        self.check_encoded("to_text")
        return token_text(self._tokens(layout).numpy())

    def pack(self, layout: str = "top1") -> np.ndarray:
        """Pack `tokens(layout)` into the smallest type that holds every column's vocabulary.

        uint8 if max(vocabulary_sizes) <= 256, else uint16.

        Args:
            layout: as in `tokens`.

        Returns:
            (N, T) uint8 or uint16.

        Raises:
            ValueError: as `tokens` does; a row could not be encoded, or a vocabulary has over 65,536 entries.

        Source: UniTok.
        """
        self.check_layout("pack", layout)
        self.check_encoded("pack")
        largest = max(self._vocabulary_sizes(layout))
        if largest > 2**16:
            raise ValueError(f"pack: vocabularies must be at most 65536, got {largest}. Store tokens() instead.")
        return self._tokens(layout).numpy().astype(np.uint8 if largest <= 2**8 else np.uint16)

    @classmethod
    def from_tokens(
        cls, tokens: Tensor, *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> Self:
        """Read what `tokens(layout)` wrote; if there is one more column than in the layout, it is the suffix.

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

        Source: UniTok, arXiv 2511.12922, eq. 7.
        """
        sizes = {"num_levels": num_levels, "codebook_size": codebook_size, "num_experts": num_experts}
        return cls._from_tokens("from_tokens", tokens, **sizes, layout=layout)

    @classmethod
    def _from_tokens(
        cls, what: str, tokens: Tensor, *, num_levels: int, codebook_size: int, num_experts: int, layout: str
    ) -> Self:
        """`from_tokens`, for the operation that a message names."""
        width = _width(what, layout, num_levels, tokens.shape[-1])
        if tokens.ndim != 2 or not 0 <= tokens.shape[1] - width <= 1:
            raise ValueError(
                f"{what}: tokens must be (N, {width}) or (N, {width + 1}), got shape "
                f"{tuple(tokens.shape)}. Name the layout and num_levels (not {layout!r}, {num_levels}) "
                "that they were written with."
            )
        chains = tokens[:, : width if layout == "all_slots" else num_levels + 1]
        chains = chains.unflatten(1, (-1, num_levels + 1))
        fields = {
            "codes": chains[:, 0, :num_levels],
            "experts": chains[:, :, num_levels],
            "shared_codes": tokens[:, num_levels + 1 : width] if layout == "top1_shared" else None,
            "slot_codes": chains[:, :, :num_levels] if layout == "all_slots" else None,
            "suffix": tokens[:, width] if tokens.shape[1] > width else None,
        }
        check_fields(what, fields, codebook_size, num_experts)
        return cls(**fields, codebook_size=codebook_size, num_experts=num_experts)

    @classmethod
    def from_text(
        cls, texts: Sequence[str], *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> Self:
        """Read what `to_text(layout)` wrote, also with spaces around the tokens, as language models decode them.

        Args:
            texts: N strings, either all with a suffix or all without, such as `<a_12><b_7>` or `<a_12> <b_7>`.
            num_levels: L of the tokenizer.
            codebook_size: K of the tokenizer.
            num_experts: E of the tokenizer.
            layout: the one the texts were written in.

        Returns:
            The IDs, without residuals and codebooks.

        Raises:
            ValueError: a text is not written that way, or a value is out of range (with its first row).

        Source: UniTok, arXiv 2511.12922, eq. 7.
        """
        found = texts[0].count("<") if len(texts) else 0
        width = _width("from_text", layout, num_levels, found)
        width += found == width + 1
        tokens = read_tokens("from_text", texts, width)
        sizes = {"num_levels": num_levels, "codebook_size": codebook_size, "num_experts": num_experts}
        return cls._from_tokens("from_text", torch.from_numpy(tokens), **sizes, layout=layout)

    @classmethod
    def unpack(
        cls, packed: np.ndarray, *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> Self:
        """Read what `pack(layout)` wrote.

        Args:
            packed: (N, T) uint8 or uint16.
            num_levels: L of the tokenizer.
            codebook_size: K of the tokenizer.
            num_experts: E of the tokenizer.
            layout: the one they were packed in.

        Returns:
            The IDs, without residuals and codebooks.

        Raises:
            TypeError: another dtype.
            ValueError: as `from_tokens` does.

        Source: UniTok.
        """
        if packed.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"unpack: packed must be uint8 or uint16, got {packed.dtype}. Pass what pack() gave.")
        sizes = {"num_levels": num_levels, "codebook_size": codebook_size, "num_experts": num_experts}
        return cls._from_tokens("unpack", torch.from_numpy(packed.astype(np.int64)), **sizes, layout=layout)

    def check_layout(self, what: str, layout: str) -> None:
        """Refuse a layout that doesn't exist, or whose codes these IDs don't hold.

        Args:
            what: the operation that the message names.
            layout: as in `tokens`.

        Raises:
            ValueError: there is no such layout, or the IDs lack its codes.
        """
        _width(what, layout, self.num_levels, 0)
        lacks_shared = layout == "top1_shared" and self.shared_codes is None
        lacks_slots = layout == "all_slots" and self.slot_codes is None and self.experts.shape[1] > 1
        if lacks_shared or lacks_slots:
            missing = "shared_codes" if lacks_shared else "slot_codes"
            raise ValueError(
                f"{what}: layout must be 'top1' for IDs without {missing}, got {layout!r}. Keep them to use it."
            )

    def check_encoded(self, what: str) -> None:
        """Refuse rows with a code or an expert of -1: their input could not be encoded.

        Args:
            what: the operation that the message names.

        Raises:
            ValueError: there is such a row (the first is named).
        """
        tensors = [tensor for name in CODE_FIELDS if (tensor := getattr(self, name)) is not None]
        bad = torch.stack([(tensor.flatten(1) < 0).any(dim=1) for tensor in tensors]).any(dim=0)
        if bad.any():
            raise ValueError(
                f"{what}: every row must have been encoded, got a code of -1 in row "
                f"{int(bad.nonzero()[0, 0])}. Its input held NaN or infinity: repair it or leave the row out."
            )

    def _tokens_without_suffix(self, layout: str) -> Tensor:
        """The tokens of a layout that `check_layout` has let pass."""
        top1 = torch.cat([self.codes, self.experts[:, :1]], dim=1)
        if layout == "top1_shared" and self.shared_codes is not None:
            return torch.cat([top1, self.shared_codes], dim=1)
        if layout == "all_slots" and self.slot_codes is not None:
            return torch.cat([self.slot_codes, self.experts[:, :, None]], dim=2).flatten(1)
        return top1  # all_slots of a single expert, too


def _width(what: str, layout: str, num_levels: int, columns: int) -> int:
    """The number of columns of a layout without its suffix; for all_slots, with as many slots as fit in `columns`."""
    if layout not in LAYOUTS:
        raise ValueError(f"{what}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}. Choose one.")
    if layout == "all_slots":
        return (num_levels + 1) * max(1, columns // (num_levels + 1))
    return 2 * num_levels + 1 if layout == "top1_shared" else num_levels + 1
