"""Codeword statistics by csrc/cpu/ops/codeword_statistics.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, kernels


def codeword_statistics(
    x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None
) -> tuple[Tensor, Tensor]:
    """Launch the kernel; it reports whether the data need checking."""
    rows, width = x.shape
    sums = torch.empty(num_codewords, width)
    counts = torch.empty(num_codewords, dtype=torch.int64)
    good = kernels.codeword_statistics(
        x.data_ptr(),
        FLOATS[x.dtype],
        rows,
        width,
        codes.data_ptr(),
        num_codewords,
        sums.data_ptr(),
        counts.data_ptr(),
        torch.get_num_threads(),
    )
    if not good and checks.reads_data(check_finite, codes):
        checks.finite("codeword_statistics", "x", x, "Remove or repair it.")
        checks.in_range("codeword_statistics", "codes", codes, num_codewords, minimum=-1)
    return sums, counts
