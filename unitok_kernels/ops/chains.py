"""Index arithmetic for gradients through expert chains."""

from __future__ import annotations

import torch
from torch import Tensor


def expert_codes(codes: Tensor, expert_ids: Tensor, num_experts: int, num_codewords: int) -> Tensor:
    """Number the codewords of all experts of a level: e K + code, or -1 if either is out of range; (N, S, L)."""
    codes, experts = codes.long(), expert_ids[..., None].long()
    named = (codes >= 0) & (codes < num_codewords) & (experts >= 0) & (experts < num_experts)
    return torch.where(named, experts * num_codewords + codes, -1)


def gather_level(codebooks: Tensor, level: int, index: Tensor) -> Tensor:
    """Look up codewords of one level by their `expert_codes`; -1 gives zeros; (E, L, K, D), (N,) -> (N, D)."""
    table = codebooks[:, level].reshape(-1, codebooks.shape[-1])
    return torch.where(index[:, None] >= 0, table[index.clamp(min=0)], 0)
