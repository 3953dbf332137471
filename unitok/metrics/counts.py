"""Count labels without a table larger than the data: the first step of all metrics of codes."""

from __future__ import annotations

import torch
from torch import Tensor

_DENSE_CELLS = 2**22  # labels below this are counted in a table, larger ones by sorting


def tally(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count how often each label occurs.

    Args:
        labels: (N,) int64, at least 0.

    Returns:
        The M labels that occur, ascending, and their counts; (M,) int64 both.

    Source: UniTok.
    """
    if labels.numel() and int(labels.max()) >= _DENSE_CELLS:
        values, counts = torch.unique(labels, return_counts=True)
        return values, counts
    table = torch.bincount(labels)
    values = table.nonzero()[:, 0]
    return values, table[values]


def expert_level_codes(what: str, codes: Tensor, experts: Tensor | None) -> tuple[Tensor, int]:
    """Give every valid (expert, level, code) a label: (expert L + level) size + code.

    Args:
        what: the operation that a message names.
        codes: (N, L) int64.
        experts: (N,) int64, the top expert of each row; None for a single codebook.

    Returns:
        The labels, (valid codes,) int64, and size, the number of labels that each (expert, level) has.

    Raises:
        ValueError: the shapes don't fit.

    Source: UniTok.
    """
    experts = torch.zeros(len(codes), dtype=torch.int64) if experts is None else experts
    if codes.ndim != 2 or experts.shape != codes.shape[:1]:
        raise ValueError(
            f"{what}: codes must be (N, L) and experts (N,), got {tuple(codes.shape)} and "
            f"{tuple(experts.shape)}. Pass ids.codes and ids.experts[:, 0]."
        )
    size = max(1, int(codes.max()) + 1) if codes.numel() else 1
    labels = (experts[:, None] * codes.shape[1] + torch.arange(codes.shape[1])) * size + codes
    return labels[(codes >= 0) & (experts[:, None] >= 0)], size
