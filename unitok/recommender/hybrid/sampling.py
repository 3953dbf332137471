"""Sampled softmax: a step of training tells its targets from some of many items, which stand for the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw(allowed: Tensor, wanted: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Draw the items that targets are told from: all targets, and about `number` of the others that are allowed.

    With the correction added to the scores, the expected sum of their exponentials is that over all items. So the
    softmax over what was drawn estimates the softmax over all. If no more than `number` others are allowed, it is it.

    Args:
        allowed: (N,) bool, the items that may be drawn.
        wanted: (P,) int64, the targets.
        number: how many others to draw, each with the same probability.

    Returns:
        (I,) int64, the items, ascending; (I,) float32, the correction: 0 for targets, -log probability for others.

    Source: Bengio and Senecal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
    model", 2008.
    """
    certain = torch.zeros_like(allowed).index_fill(0, wanted, True)
    others = allowed & ~certain
    share = min(1.0, number / max(1, int(others.sum())))
    if share < 1:
        others &= torch.rand(others.shape, device=others.device) < share
    among = (certain | others).nonzero()[:, 0]
    return among, torch.where(certain[among], 0.0, -math.log(share))
