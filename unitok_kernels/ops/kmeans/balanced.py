"""Assignment of rows to codewords under bounds on the number of rows a codeword."""

from __future__ import annotations

import torch
from torch import Tensor


def bounds(num_rows: int, num_codewords: int) -> tuple[int, int]:
    """Fewest and most rows of a codeword: floor(N / 2K) and ceil(2N / K)."""
    return num_rows // (2 * num_codewords), -(-2 * num_rows // num_codewords)


def balanced_codes(rows: Tensor, codebook: Tensor) -> Tensor:
    """Give each row its nearest codeword that has room, then fill the codewords that got too few.

    Full codewords keep their nearest rows; the others move to their next choice, until nothing moves (deferred
    acceptance). The N x K distances are kept: this is the readable form, not the scalable one.

    Args:
        rows: (N, D) float.
        codebook: (K, D), same dtype.

    Returns:
        Tensor: codes (N,) int64, each used between floor(N / 2K) and ceil(2N / K) times.
    """
    num_codewords = len(codebook)
    fewest, most = bounds(len(rows), num_codewords)
    distance = torch.cdist(rows.double(), codebook.double()).square()
    own = distance.clone()
    codes = own.argmin(1)
    while True:
        rank = _rank_within(codes, own.gather(1, codes[:, None]).squeeze(1), num_codewords)
        refused = (rank >= most).nonzero().squeeze(1)
        if refused.numel() == 0:
            break
        own[refused, codes[refused]] = torch.inf
        codes[refused] = own[refused].argmin(1)

    counts = torch.bincount(codes, minlength=num_codewords)
    for needy in (counts < fewest).nonzero().squeeze(1).tolist():
        regret = distance[:, needy] - distance.gather(1, codes[:, None]).squeeze(1)
        spare = _rank_within(codes, regret, num_codewords) < (counts - fewest)[codes]
        regret = torch.where(spare & (codes != needy), regret, torch.inf)
        taken = regret.argsort(stable=True)[: fewest - int(counts[needy])]
        codes[taken] = needy
        counts = torch.bincount(codes, minlength=num_codewords)
    return codes


def _rank_within(codes: Tensor, key: Tensor, num_codewords: int) -> Tensor:
    """Rank of each row by `key` among the rows of its codeword, ties by row."""
    order = key.argsort(stable=True)
    order = order[codes[order].argsort(stable=True)]
    starts = torch.bincount(codes, minlength=num_codewords).cumsum(0).roll(1)
    starts[0] = 0
    rank = torch.empty_like(codes)
    rank[order] = torch.arange(len(codes), device=codes.device) - starts[codes[order]]
    return rank
