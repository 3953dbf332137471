"""The fields of semantic IDs, and the checks of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

CODE_FIELDS = ("codes", "experts", "shared_codes", "slot_codes")


def check_fields(what: str, fields: Mapping[str, Tensor | None], codebook_size: int, num_experts: int) -> None:
    """Check the fields of `SemanticIds`, which documents them.

    Args:
        what: the operation that a message names.
        fields: the tensors by name; those that are left out count as None.
        codebook_size: K.
        num_experts: E.

    Raises:
        TypeError: a field is not a CPU tensor of its dtype.
        ValueError: a shape or a value doesn't fit; for a value, with the first bad row.
    """
    sizes: dict[str, int] = {"K": codebook_size, "E": num_experts}
    _check_tensor(what, "codes", fields["codes"], "N L", sizes)
    _check_tensor(what, "experts", fields["experts"], "N S", sizes)
    _check_tensor(what, "shared_codes", fields.get("shared_codes"), "N L", sizes)
    _check_tensor(what, "slot_codes", fields.get("slot_codes"), "N S L", sizes)
    _check_tensor(what, "suffix", fields.get("suffix"), "N", sizes)
    _check_tensor(what, "last_residual", fields.get("last_residual"), "N D", sizes, torch.float32)
    _check_tensor(what, "last_codebooks", fields.get("last_codebooks"), "E K D", sizes, torch.float32)
    for letter, size in sizes.items():
        if size < 1 and letter not in "ND":
            raise ValueError(f"{what}: {letter} must be at least 1, got {size}. Use the tokenizer's.")
    for name in CODE_FIELDS:
        high = num_experts if name == "experts" else codebook_size
        _check_range(what, name, fields.get(name), -1, high)
    _check_range(what, "suffix", fields.get("suffix"), 0, 2**62)
    codes, slot_codes = fields["codes"], fields.get("slot_codes")
    if codes is not None and slot_codes is not None and not torch.equal(slot_codes[:, 0], codes):
        row = int((slot_codes[:, 0] != codes).any(dim=1).nonzero()[0, 0])
        raise ValueError(
            f"{what}: slot_codes[:, 0] must be codes, got {slot_codes[row, 0].tolist()} in row "
            f"{row}. Put the top expert first."
        )


def _check_tensor(
    what: str, name: str, value: Tensor | None, shape: str, sizes: dict[str, int], dtype: torch.dtype = torch.int64
) -> None:
    """Check one field; a letter of its shape takes its size from the first field that has it."""
    if value is None and name not in ("codes", "experts"):
        return
    if not isinstance(value, Tensor) or value.dtype != dtype or value.device.type != "cpu":
        got = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{what}: {name} must be a CPU tensor of {dtype}, got {got}. Convert it with .to().")
    letters = shape.split()
    known = ", ".join(f"{letter} = {sizes[letter]}" for letter in letters if letter in sizes)
    if value.ndim != len(letters) or any(
        sizes.setdefault(letter, size) != size for letter, size in zip(letters, value.shape, strict=True)
    ):
        raise ValueError(
            f"{what}: {name} must be ({', '.join(letters)}){' with ' + known if known else ''}, got "
            f"{tuple(value.shape)}. Pass one row per item, and the tokenizer's sizes."
        )


def _check_range(what: str, name: str, value: Tensor | None, low: int, high: int) -> None:
    if value is None or not value.numel() or (int(value.min()) >= low and int(value.max()) < high):
        return
    row = int(((value < low) | (value >= high)).nonzero()[0, 0])
    raise ValueError(
        f"{what}: {name} must be in [{low}, {high}), got {value[row].tolist()} in row {row}. Check "
        "that the sizes are those of the tokenizer that made them."
    )
