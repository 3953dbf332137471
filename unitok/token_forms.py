"""The forms of semantic IDs: token matrices, text and packed bytes, written and read again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unitok.collisions import row_groups
from unitok.plain import letters, token_text

if TYPE_CHECKING:
    from typing_extensions import Self

LAYOUTS = ("top1", "top1_shared", "all_slots")
CODE_FIELDS = ("codes", "experts", "shared_codes", "slot_codes")


class TokenForms:
    """What `SemanticIds` writes and reads; its fields are documented there.

    Source: UniTok, arXiv 2511.12922, eq. 7.
    """

    if TYPE_CHECKING:  # the fields of SemanticIds; it alone is made

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
        """L, the codes of one chain."""
        return self.codes.shape[1]

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
        self._tokens_without_suffix(layout)  # raises where the layout doesn't fit
        chain = [self.codebook_size] * self.num_levels
        sizes = [*chain, self.num_experts] * (self.experts.shape[1] if layout == "all_slots" else 1)
        sizes += chain if layout == "top1_shared" else []
        return sizes if self.suffix is None else [*sizes, int(self.suffix.max()) + 1 if len(self.suffix) else 1]

    def groups(self, layout: str = "top1") -> Tensor:
        """Number the distinct IDs, suffix aside, in lexicographic order.

        groups[i] = how many distinct IDs are smaller than that of row i: rows of one number collide.

        Args:
            layout: as in `tokens`.

        Returns:
            (N,) int64, dense: 0 .. number of distinct IDs - 1.

        Raises:
            ValueError: as `tokens` does.

        Source: UniTok.
        """
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
        self.check_encoded("to_text")
        return token_text(self.tokens(layout).numpy())

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
        self.check_encoded("pack")
        largest = max(self.vocabulary_sizes(layout))
        if largest > 2**16:
            raise ValueError(f"pack: vocabularies must be at most 65536, got {largest}. Store tokens() instead.")
        return self.tokens(layout).numpy().astype(np.uint8 if largest <= 2**8 else np.uint16)

    @classmethod
    def from_tokens(
        cls, tokens: Tensor, *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> Self:
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

        Source: UniTok, arXiv 2511.12922, eq. 7.
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
    def from_text(
        cls, texts: Sequence[str], *, num_levels: int, codebook_size: int, num_experts: int, layout: str = "top1"
    ) -> Self:
        """Read what `to_text(layout)` wrote.

        Args:
            texts: N strings, all with a suffix or all without.
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
        width = _width(layout, num_levels, found)
        width += found == width + 1
        pattern = re.compile("".join(rf"<{letters(column)}_(0|[1-9]\d{{0,8}})>" for column in range(width)), re.A)
        tokens = np.empty((len(texts), width), dtype=np.int64)
        for row, text in enumerate(texts):
            if (match := pattern.fullmatch(text)) is None:
                example = "".join(f"<{letters(column)}_0>" for column in range(width))
                raise ValueError(
                    f"from_text: texts must look like {example}, got {text!r} in row {row}. Name "
                    "the layout and num_levels that they were written with."
                )
            tokens[row] = [int(token) for token in match.groups()]
        sizes = {"num_levels": num_levels, "codebook_size": codebook_size, "num_experts": num_experts}
        return cls.from_tokens(torch.from_numpy(tokens), **sizes, layout=layout)

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
        return cls.from_tokens(torch.from_numpy(packed.astype(np.int64)), **sizes, layout=layout)

    def check_encoded(self, what: str) -> None:
        """Refuse rows that hold a code or an expert of -1, since their input could not be encoded.

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


def _width(layout: str, num_levels: int, columns: int) -> int:
    """The columns of a layout without its suffix; for all_slots, of as many slots as fit into `columns`."""
    if layout not in LAYOUTS:
        raise ValueError(f"SemanticIds: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}. Choose one.")
    if layout == "all_slots":
        return (num_levels + 1) * max(1, columns // (num_levels + 1))
    return 2 * num_levels + 1 if layout == "top1_shared" else num_levels + 1
