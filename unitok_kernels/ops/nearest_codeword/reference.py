"""Nearest-codeword search in plain torch: every backend is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import finite_rows, search, wide


def nearest_codeword(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of the operation; always exact."""
    if checks.reads_data(check_finite, x):
        checks.finite("nearest_codeword", "x", x)
        checks.finite("nearest_codeword", "codebook", codebook)
    good = finite_rows(x)
    rows, table = wide(x)[good], wide(codebook)
    found, counts = search(rows, table)
    codes = torch.full((x.shape[0],), -1, device=x.device)
    distance = torch.full(codes.shape, torch.nan, dtype=rows.dtype, device=x.device)
    codes[good] = found
    distance[good] = (rows.double() - table[found].double()).square().sum(1).to(rows.dtype)
    return codes, distance, counts
