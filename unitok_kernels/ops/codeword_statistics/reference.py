"""Sums and counts of the rows of each codeword, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.nearest_codeword.reference import wide


def codeword_statistics(
    x: Tensor, codes: Tensor, num_codewords: int, check_codes: bool | None
) -> tuple[Tensor, Tensor]:
    """Reference of the operation: rows are added one after the other in float64, so the order is always the same."""
    if checks.reads_data(check_codes, codes):
        checks.in_range("codeword_statistics", "codes", codes, num_codewords, minimum=-1)
    kept = (codes >= 0) & (codes < num_codewords)
    index = torch.where(kept, codes, num_codewords)
    sums = torch.zeros(num_codewords + 1, x.shape[1], dtype=torch.float64, device=x.device)
    sums.index_put_((index,), x.double(), accumulate=True)  # skipped rows fall into one row more, which is cut off
    counts = torch.bincount(index, minlength=num_codewords + 1)
    return sums[:-1].to(wide(x).dtype), counts[:-1]
