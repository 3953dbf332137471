"""Nearest-codeword search in plain torch: the truth that every backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.stats import NEAR_TIE

_SCORE_ROWS = 1024  # a block of float64 scores stays in the second-level cache
_DIFFERENCES = 1 << 20  # most values of a block that is redone by differencing


def wide(x: Tensor) -> Tensor:
    """Give the precision of residuals: float32, or float64 if the input has it."""
    return x if x.dtype == torch.float64 else x.float()


def finite_rows(operation: str, name: str, x: Tensor, check_finite: bool | None) -> Tensor:
    """Raise for bad rows, or tell the good ones where that is switched off; (N,) bool."""
    if checks.reads_data(check_finite, x):
        checks.finite(operation, name, x)
        return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    return torch.isfinite(x).all(1)


def search(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Exact argmin over the codebook of finite rows.

    The expanded form |c|^2 - 2 x.c is scored in float64. Its rounding error is at most (D + 4) 2^-53 (|x| + |c|)^2 a
    score, and so is that of a distance by differencing. Where the two best scores are closer than four such errors,
    the row is redone by differencing, in a fixed order over D; elsewhere both forms agree on the code. So it depends
    neither on the batch nor on how a matrix product was blocked.

    Args:
        x: (N, D) float32 or float64.
        codebook: (K, D), same dtype.

    Returns:
        tuple: codes (N,) int64; counts (2,) int64, rows redone and near ties.
    """
    codes = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    counts = torch.zeros(2, dtype=torch.int64, device=x.device)
    if codebook.shape[0] == 1:
        return codes, counts
    table = codebook.double()
    norms = table.square().sum(1)
    longest = norms.max().sqrt()
    for start in range(0, x.shape[0], _SCORE_ROWS):
        rows = x[start : start + _SCORE_ROWS].double()
        score, index = torch.addmm(norms, rows, table.T, alpha=-2).topk(2, dim=1, largest=False)
        row_norms = rows.square().sum(1)
        best, least, gap = index[:, 0], score[:, 0] + row_norms, score[:, 1] - score[:, 0]
        error = (x.shape[1] + 4) * 2**-53 * (row_norms.sqrt() + longest).square()
        unsure = (gap <= 4 * error).nonzero().squeeze(1)
        for part in unsure.split(max(1, _DIFFERENCES // table.numel())):
            distance = (rows[part, None] - table).square_().sum(2)
            two = distance.topk(2, dim=1, largest=False).values
            best[part], least[part], gap[part] = distance.argmin(1), two[:, 0], two[:, 1] - two[:, 0]
        codes[start : start + _SCORE_ROWS] = best
        counts[0] += unsure.numel()
        counts[1] += (gap < NEAR_TIE * least).sum()
    return codes, counts


def nearest_codeword(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of the operation; always exact."""
    good = finite_rows("nearest_codeword", "x", x, check_finite)
    if checks.reads_data(check_finite, codebook):
        checks.finite("nearest_codeword", "codebook", codebook)
    rows, table = wide(x)[good], wide(codebook)
    found, counts = search(rows, table)
    codes = torch.full((x.shape[0],), -1, device=x.device)
    distance = torch.full(codes.shape, torch.nan, dtype=rows.dtype, device=x.device)
    codes[good] = found
    distance[good] = (rows.double() - table[found].double()).square().sum(1).to(rows.dtype)
    return codes, distance, counts
