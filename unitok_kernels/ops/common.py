"""What references and operations share: the precision of residuals, finite rows, and the exact search."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels.ops.stats import NEAR_TIE

PRECISIONS = ("exact", "fast")
FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # `Float` in csrc/cpu/simd/number.h

_SCORE_ROWS = 1024  # a block of float64 scores stays in the second-level cache
_DIFFERENCES = 1 << 20  # at most so many values in a block that is redone by differencing


def wide_dtype(x: Tensor) -> torch.dtype:
    """Give the dtype of residuals, distances and errors: float32, or float64 if the input is float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """Convert a tensor to the precision of residuals."""
    return x.to(wide_dtype(x))


def asks_gradient(x: Tensor) -> bool:
    """Tell whether a gradient in x may be asked for; inside torch.vmap, what a tensor stands for must be asked."""
    if not torch.compiler.is_compiling():
        while torch._C._functorch.is_batchedtensor(x):
            x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad and torch.is_grad_enabled()


def finite_rows(x: Tensor) -> Tensor:
    """Tell which rows have neither NaN nor infinity; (N, D) -> (N,) bool."""
    return torch.isfinite(x).all(1)


def search(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Find the exact argmin over the codebook for finite rows.

    Scores are |c|^2 - 2 x.c in float64. The rounding error of a score is at most (D + 4) 2^-53 (|x| + |c|)^2, and so is
    that of a distance by differencing. If the two best scores are closer than four such errors, the row is redone by
    differencing, in a fixed order over D; otherwise both forms agree on the code. So a code depends neither on the
    batch nor on how the matrix product was blocked.

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
