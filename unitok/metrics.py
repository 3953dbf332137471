"""What a tokenizer's IDs are worth: collisions, use of the codebooks, errors, and `unitok.information`.

Every function is pure. Codes of -1 (rows that could not be encoded) are skipped; where nothing is left to
measure, a share, an entropy or an error is nan. Entropies and information are in bits, in float64 from int64
counts; no table outgrows the data and 2^22 cells, whatever the codebook size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from unitok.collisions import row_groups
from unitok.counts import expert_level_codes, tally
from unitok.information import (
    adjusted_mutual_information,
    code_entropy,
    level_adjusted_mutual_information,
    level_entropy_given_expert,
    mutual_information,
    redundant_levels,
    token_entropy,
)

__all__ = [
    "adjusted_mutual_information",
    "code_entropy",
    "collision_rate",
    "dead_codes",
    "indistinguishable_rate",
    "level_adjusted_mutual_information",
    "level_entropy_given_expert",
    "mutual_information",
    "perplexity",
    "redundant_levels",
    "relative_error",
    "token_entropy",
    "utilisation",
]

_ROWS_AT_ONCE = 2**15  # rows of wide float data that are held in a second copy


def collision_rate(tokens: Tensor) -> float:
    """The share of items that distinct IDs fall short of: 1 - distinct rows / N.

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
    """The share of collisions that no tokenizer can avoid, since the inputs are equal: 1 - distinct rows / N.

    Rows are equal if all their bits are, but that -0.0 is 0.0.

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
    # Hash first, compare afterwards: only rows whose hash repeats are ever copied.
    hashes = torch.cat([((part + 0.0).contiguous().view(bits) * weights).sum(dim=1) for part in x.split(_ROWS_AT_ONCE)])
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
    cells, _ = _usage("dead_codes", codes, experts, num_experts)
    if codes.numel() and int(codes.max()) >= codebook_size:
        got = int(codes.max())
        raise ValueError(f"dead_codes: codes must be below {codebook_size}, got {got}. Pass the tokenizer's size.")
    used = torch.bincount(cells, minlength=num_experts * codes.shape[1])
    return codebook_size - used.view(num_experts, codes.shape[1])


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
    return 1 - dead_codes(codes, codebook_size, experts, num_experts).double() / codebook_size


def perplexity(codes: Tensor, experts: Tensor | None = None, num_experts: int = 1) -> Tensor:
    """The number of equally used codewords as varied as those of each expert and level: exp(-sum p ln p).

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
    """The energy that an approximation misses: sum |t - a|^2 / sum |t|^2, not centred.

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
    for t, a in zip(target.split(_ROWS_AT_ONCE), approximation.split(_ROWS_AT_ONCE), strict=True):
        t = t.double()
        missed, energy = missed + (t - a.double()).square().sum(), energy + t.square().sum()
    return float(missed / energy)


def _usage(what: str, codes: Tensor, experts: Tensor | None, num_experts: int) -> tuple[Tensor, Tensor]:
    """For each codeword in use: its cell, expert * L + level, and how many rows use it."""
    labels, size = expert_level_codes(codes, experts)
    values, counts = tally(labels)
    cells = values // size
    if len(cells) and int(cells[-1]) >= num_experts * codes.shape[1]:
        got = int(cells[-1]) // codes.shape[1]
        raise ValueError(f"{what}: experts must be below {num_experts}, got {got}. Pass the tokenizer's number.")
    return cells, counts
