"""Straight-through chains in plain torch; levels keep nothing for the gradient, which walks the chain again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok_kernels.ops.codeword_statistics import codeword_statistics
from unitok_kernels.ops.common import wide

SHORTEST = 1e-6  # shorter lengths count as this when they are divided by

_BLOCK = 1 << 16  # values in a block of rows: the dozen tensors that a level's gradient needs fit into the cache


def residual_straight_through(
    z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str, cosine: bool, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walk the chain once for everything that a step needs; the estimator matters only for the gradient."""
    (levels, size, width), rows = codebooks.shape, wide(z)
    tables, index = _tables(codebooks), _index(codes, size)
    errors, sums, counts, residual, quantized = [], [], [], rows, torch.zeros_like(rows)
    for level in range(levels):
        x = F.normalize(residual, eps=SHORTEST) if cosine else residual
        if statistics:
            total, count = codeword_statistics(x, codes[:, level], size, check_finite=False)
            sums.append(total)
            counts.append(count)
        codeword = tables[level].index_select(0, index[level])
        quantized += codeword
        error = x - codeword
        has = index[level] < size
        squared = torch.where(has, torch.linalg.vector_norm(error, dim=1).double().square(), 0)
        errors.append((squared.sum() / (width * has.sum().clamp(min=1))).to(rows.dtype))
        residual = residual - codeword if cosine else error
    nothing = rows.new_empty(0), codes.new_empty(0)
    measured = (torch.stack(sums), torch.stack(counts)) if statistics else nothing
    return quantized.to(z.dtype), torch.stack(errors), *measured


def residual_straight_through_backward(
    gradient: Tensor,
    by_error: Tensor,
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    estimator: str,
    cosine: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Walk the chain block by block, and add up the gradients of all levels."""
    levels, size, width = codebooks.shape
    tables, index = _tables(codebooks), _index(codes, size)
    pull_of = pulls(by_error, codes, codebooks)
    by_z = [z.new_empty(0, width)]
    by_codebooks = torch.zeros(codebooks.shape if learns else 0, dtype=tables.dtype, device=z.device)
    rows = max(1, _BLOCK // width) if z.device.type == "cpu" else max(1, len(z))
    for start in range(0, len(z), rows):
        block = slice(start, start + rows)
        residual, upstream = wide(z[block]), wide(gradient[block])
        total = torch.zeros_like(residual)
        for level in range(levels):
            x = F.normalize(residual, eps=SHORTEST) if cosine else residual
            codeword = tables[level].index_select(0, index[level, block])
            error = x - codeword
            pull = pull_of[level] * error
            if learns:
                teaches = upstream - pull if estimator == "none" else -pull
                by_codebooks[level].add_(codeword_statistics(teaches, codes[block, level], size, check_finite=False)[0])
            if estimator == "rotation":
                pull += _rotated_back(x, codeword, upstream)
            elif estimator == "straight":
                pull += upstream
            if cosine:
                length = torch.linalg.vector_norm(residual, dim=1, keepdim=True)
                pull = (pull - x * (x * pull).sum(1, keepdim=True)) / length.clamp(min=SHORTEST)
            total += pull.masked_fill_((index[level, block] == size)[:, None], 0)
            residual = residual - codeword if cosine else error
        by_z.append(total.to(z.dtype))
    return torch.cat(by_z), by_codebooks.to(codebooks.dtype)


def pulls(by_error: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Turn the gradients of the levels' errors into factors of each row's error (L,)."""
    return 2 * by_error / compared(codes, codebooks)


def compared(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Count the values that each level's error is the mean of (L,); at least one row's."""
    _, size, width = codebooks.shape
    return width * ((codes >= 0) & (codes < size)).sum(0).clamp(min=1)


def _tables(codebooks: Tensor) -> Tensor:
    """Append a codeword of zeros to each codebook, for rows without a code."""
    return F.pad(wide(codebooks), (0, 0, 0, 1))


def _index(codes: Tensor, size: int) -> Tensor:
    """Give codes level by level, (L, N); those out of range become the index of that codeword."""
    return torch.where((codes >= 0) & (codes < size), codes, size).t().contiguous()


def _rotated_back(x: Tensor, q: Tensor, gradient: Tensor) -> Tensor:
    """Compute J^T g for x -> s (x - 2 w w^T x + 2 v u^T x): u, v, w the directions of x, q and u + v, s = |q| / |x|."""
    x_length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=SHORTEST)
    q_length = torch.linalg.vector_norm(q, dim=1, keepdim=True)
    unit, target = x / x_length, q / q_length.clamp(min=SHORTEST)
    between = unit + target
    squared = torch.linalg.vector_norm(between, dim=1, keepdim=True).clamp_(min=SHORTEST).square_()
    along = 2 * (target * gradient).sum(1, keepdim=True)
    across = -2 * (between * gradient).sum(1, keepdim=True) / squared
    return gradient.addcmul(unit, along).addcmul_(between, across).mul_(q_length / x_length)
