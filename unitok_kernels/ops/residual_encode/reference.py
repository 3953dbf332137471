"""Residual encoding in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import finite_rows, search, wide


class Chain(NamedTuple):
    """Result of one residual chain."""

    codes: Tensor  # (N, L)
    quantized: Tensor  # (N, D), float32 sum in level order
    squared_error: Tensor  # (L,) float64, sum over rows and D of r_{l+1}^2
    counts: Tensor  # (2,), see `search`


def chain(z: Tensor, codebooks: Tensor) -> Chain:
    """Run all levels on finite rows; z (N, D) and codebooks (L, K, D) in the precision of residuals."""
    residual, quantized = z, torch.zeros_like(z)
    codes, errors = [], []
    counts = torch.zeros(2, dtype=torch.int64, device=z.device)
    for codebook in codebooks:
        code, found = search(residual, codebook)
        codeword = codebook[code]
        residual, quantized = residual - codeword, quantized + codeword
        codes.append(code)
        errors.append(residual.double().square().sum())
        counts += found
    return Chain(torch.stack(codes, 1), quantized, torch.stack(errors), counts)


def residual_encode(
    z: Tensor, codebooks: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reference of the operation; always exact."""
    if checks.reads_data(check_finite, z):
        checks.finite("residual_encode", "z", z)
        checks.finite("residual_encode", "codebooks", codebooks)
    good = finite_rows(z)
    done = chain(wide(z)[good], wide(codebooks))
    codes = torch.full((z.shape[0], codebooks.shape[0]), -1, device=z.device)
    quantized = torch.zeros_like(z)
    codes[good] = done.codes
    quantized[good] = done.quantized.to(z.dtype)
    values = max(done.quantized.numel(), 1)
    return codes, quantized, (done.squared_error / values).to(done.quantized.dtype), done.counts
