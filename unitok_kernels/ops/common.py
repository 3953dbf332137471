"""What the references and operations share: their precision, the rows they take, and the exact search."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels.ops.stats import NEAR_TIE

PRECISIONS = ("exact", "fast")
FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # `Float` in csrc/cpu/number.h

_SCORE_ROWS = 1024  # a block of float64 scores stays in the second-level cache
_DIFFERENCES = 1 << 20  # most values of a block that is redone by differencing


def wide_dtype(x: Tensor) -> torch.dtype:
    """Name the precision of residuals, distances and errors: float32, or float64 if the input has it."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """Give a tensor in the precision of residuals."""
    return x.to(wide_dtype(x))


def finite_rows(x: Tensor) -> Tensor:
    """Tell the rows without NaN and infinity; (N, D) -> (N,) bool."""
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
