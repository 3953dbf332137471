"""Sinkhorn assignment in plain torch, in the log domain, streaming over rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import finite_rows

_BLOCK_ROWS = 1024


def sinkhorn_assign(x: Tensor, codebook: Tensor, epsilon: float, iterations: int, check_finite: bool | None) -> Tensor:
    """Reference of the operation: only potentials are kept; costs are computed again, a block of rows at a time."""
    if checks.reads_data(check_finite, x):
        checks.finite("sinkhorn_assign", "x", x)
        checks.finite("sinkhorn_assign", "codebook", codebook)
    good = finite_rows(x)
    center = codebook.double().mean(0)
    rows, table = x[good].double() - center, codebook.double() - center
    norms = table.square().sum(1)
    mean = rows.square().sum(1).mean() + norms.mean() - 2 * (rows.mean(0) * table.mean(0)).sum()
    scale = torch.where(mean > 0, -1 / (epsilon * mean), 0)

    def scores(block: Tensor) -> Tensor:
        squared = block.square().sum(1, keepdim=True) + norms - 2 * block @ table.T
        return scale * squared.clamp_(min=0)

    blocks = rows.split(_BLOCK_ROWS)
    columns = torch.zeros_like(norms)
    for _ in range(iterations if len(rows) else 0):
        total = torch.full_like(norms, -torch.inf)
        for block in blocks:
            score = scores(block)
            row = -math.log(len(rows)) - torch.logsumexp(score + columns, 1, keepdim=True)
            total = torch.logaddexp(total, torch.logsumexp(score + row, 0))
        columns = -math.log(len(table)) - total

    codes = torch.full((x.shape[0],), -1, device=x.device)
    codes[good] = torch.cat([(scores(block) + columns).argmax(1) for block in blocks])
    return codes
