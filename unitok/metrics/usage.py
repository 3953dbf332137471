"""Collisions, use of the codebooks, and errors. Import these functions from `unitok.metrics`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from unitok.ids.rows import row_groups
from unitok.metrics.counts import expert_level_codes, tally

ROWS_AT_ONCE = 2**15  # rows of wide float data that are copied at a time


def collision_rate(tokens: Tensor) -> float:
    """How far distinct IDs fall short of the items: 1 - distinct rows / N.

    Args:
        tokens: (N, T) integer, such as `SemanticIds.tokens()`.

    Returns:
        In [0, 1); nan for no rows.

    Raises:
        ValueError: tokens is not a matrix.

    Source: UniTok.
    """
    if tokens.ndim != 2:
        raise ValueError(f"collision_rate: tokens must be (N, T), got shape {tuple(tokens.shape)}. Pass ids.tokens().")
    tokens = tokens[(tokens >= 0).all(dim=1)]
    return 1 - (int(row_groups(tokens).max()) + 1) / len(tokens) if len(tokens) else math.nan


def indistinguishable_rate(x: Tensor) -> float:
    """The collision rate that no tokenizer can avoid, since inputs are identical: 1 - distinct rows / N.

    Rows are identical if all their bits are; -0.0 counts as 0.0.

    Args:
        x: (N, D) float32, float16, bfloat16 or float64.

    Returns:
        In [0, 1); nan for no rows.

    Raises:
        ValueError: x is not a matrix of floating point.

    Source: UniTok.
    """
    if x.ndim != 2 or not x.is_floating_point():
        got = f"{x.dtype} of shape {tuple(x.shape)}"
        raise ValueError(f"indistinguishable_rate: x must be (N, D) floating point, got {got}. Pass the embeddings.")
    if not len(x):
        return math.nan
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    weights = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0)) | 1
    # Hash first, compare afterwards: only rows whose hash repeats are copied.
    hashes = torch.cat([((part + 0.0).contiguous().view(bits) * weights).sum(dim=1) for part in x.split(ROWS_AT_ONCE)])
    _, label, times = torch.unique(hashes, return_inverse=True, return_counts=True)
    suspects = (x[times[label] > 1] + 0.0).contiguous().view(bits).numpy()
    if not suspects.size:
        return 0.0
    rows = suspects.view(np.dtype((np.void, suspects.itemsize * suspects.shape[1])))
    return (len(suspects) - len(np.unique(rows))) / len(x)


def dead_codes(codes: Tensor, codebook_size: int, experts: Tensor | None = None, num_experts: int = 1) -> Tensor:
    """How many codewords of each expert and level no row uses: K - used.

    Args:
        codes: (N, L) int64.
        codebook_size: K.
        experts: (N,) int64, the top expert of each row; None for a single codebook.
        num_experts: E.

    Returns:
        (E, L) int64.

    Raises:
        ValueError: codes is not (N, L), or experts not (N,); a code or an expert is too large.

    Source: UniTok.
    """
    return codebook_size - _used("dead_codes", codes, codebook_size, experts, num_experts)


def utilisation(codes: Tensor, codebook_size: int, experts: Tensor | None = None, num_experts: int = 1) -> Tensor:
    """The share of each expert's and level's codewords that some row uses: used / K.

    Args:
        codes: (N, L) int64.
        codebook_size: K.
        experts: (N,) int64, the top expert of each row; None for a single codebook.
        num_experts: E.

    Returns:
        (E, L) float64 in [0, 1].

    Raises:
        ValueError: codes is not (N, L), or experts not (N,); a code or an expert is too large.

    Source: UniTok.
    """
    return _used("utilisation", codes, codebook_size, experts, num_experts).double() / codebook_size


def perplexity(codes: Tensor, experts: Tensor | None = None, num_experts: int = 1) -> Tensor:
    """The effective number of codewords in use, for each expert and level: exp(-sum p ln p).

    Args:
        codes: (N, L) int64.
        experts: (N,) int64, the top expert of each row; None for a single codebook.
        num_experts: E.

    Returns:
        (E, L) float64 from 1 to K; 0 for an expert without rows.

    Raises:
        ValueError: codes is not (N, L), or experts not (N,); an expert is too large.

    Source: van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937.
    """
    cells, counts = _usage("perplexity", codes, experts, num_experts)
    totals = torch.zeros(num_experts * codes.shape[1], dtype=torch.int64).index_add_(0, cells, counts)
    p = counts.double() / totals[cells]
    nats = torch.zeros(len(totals), dtype=torch.float64).index_add_(0, cells, -p * p.log())
    return torch.where(totals > 0, nats.exp(), 0.0).view(num_experts, codes.shape[1])


def relative_error(target: Tensor, approximation: Tensor) -> float:
    """The share of the energy that an approximation misses: sum |t - a|^2 / sum |t|^2, not centred.

    Args:
        target: (N, D) floating point.
        approximation: (N, D) floating point.

    Returns:
        0 for equal tensors, 1 for an approximation by zeros; nan for no rows.

    Raises:
        ValueError: the shapes differ.

    Source: UniTok.
    """
    if target.shape != approximation.shape:
        raise ValueError(
            f"relative_error: approximation must be of target's shape {tuple(target.shape)}, got "
            f"{tuple(approximation.shape)}. Pass the rows that it approximates."
        )
    missed = energy = torch.zeros((), dtype=torch.float64)
    for t, a in zip(target.split(ROWS_AT_ONCE), approximation.split(ROWS_AT_ONCE), strict=True):
        t = t.double()
        missed, energy = missed + (t - a.double()).square().sum(), energy + t.square().sum()
    return float(missed / energy)


def _used(what: str, codes: Tensor, codebook_size: int, experts: Tensor | None, num_experts: int) -> Tensor:
    """How many codewords of each expert and level some row uses: (E, L) int64."""
    cells, _ = _usage(what, codes, experts, num_experts)
    if codes.numel() and int(codes.max()) >= codebook_size:
        got = int(codes.max())
        raise ValueError(f"{what}: codes must be below {codebook_size}, got {got}. Pass the tokenizer's size.")
    return torch.bincount(cells, minlength=num_experts * codes.shape[1]).view(num_experts, codes.shape[1])


def _usage(what: str, codes: Tensor, experts: Tensor | None, num_experts: int) -> tuple[Tensor, Tensor]:
    """For each codeword in use: its cell, expert * L + level, and how many rows use it."""
    labels, size = expert_level_codes(what, codes, experts)
    values, counts = tally(labels)
    cells = values // size
    if len(cells) and int(cells[-1]) >= num_experts * codes.shape[1]:
        got = int(cells[-1]) // codes.shape[1]
        raise ValueError(f"{what}: experts must be below {num_experts}, got {got}. Pass the tokenizer's number.")
    return cells, counts
