"""Codeword statistics by csrc/cuda/codeword_statistics.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, MOST, kernels, place, workspace
from unitok_kernels.ops.codeword_statistics import reference


def codeword_statistics(
    x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None
) -> tuple[Tensor, Tensor]:
    """Launch the kernels."""
    rows, width = x.shape
    if max(rows, num_codewords) > MOST:
        return reference.codeword_statistics(x, codes, num_codewords, check_finite)
    if checks.reads_data(check_finite, codes):
        checks.finite("codeword_statistics", "x", x, "Remove or repair it.")
        checks.in_range("codeword_statistics", "codes", codes, num_codewords, minimum=-1)
    sums = x.new_empty(num_codewords, width, dtype=torch.float32)
    counts = codes.new_empty(num_codewords)
    kept = workspace(codes, kernels.codeword_statistics_workspace(rows, width, 1, num_codewords))
    kernels.codeword_statistics(
        x.data_ptr(),
        FLOATS[x.dtype],
        rows,
        width,
        codes.data_ptr(),
        num_codewords,
        sums.data_ptr(),
        counts.data_ptr(),
        kept.data_ptr(),
        *place(x),
    )
    return sums, counts
