"""Sums and counts of the rows of each codeword, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import wide_dtype


def codeword_statistics(
    x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None
) -> tuple[Tensor, Tensor]:
    """Reference of the operation: rows are added one by one in float64, so the order is always the same."""
    if checks.reads_data(check_finite, codes):
        checks.finite("codeword_statistics", "x", x, "Remove or repair it.")
        checks.in_range("codeword_statistics", "codes", codes, num_codewords, minimum=-1)
    kept = (codes >= 0) & (codes < num_codewords)
    index = torch.where(kept, codes, num_codewords)
    sums = torch.zeros(num_codewords + 1, x.shape[1], dtype=torch.float64, device=x.device)
    if x.device.type == "cpu":  # skipped rows go into an extra row, which is cut off
        sums.index_add_(0, index, x.double())
    else:  # index_add_ is faster, but adds in row order on the CPU alone
        sums.index_put_((index,), x.double(), accumulate=True)
    counts = torch.bincount(index, minlength=num_codewords + 1)
    return sums[:-1].to(wide_dtype(x)), counts[:-1]
