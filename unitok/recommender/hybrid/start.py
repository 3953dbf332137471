"""Where a model begins: an item's tokens add up to what it is like, and users come back as often as they did."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.histories import Histories
from unitok_kernels import checks
from unitok_kernels.rules import fail

_RIDGE = 0.1  # items that a token must stand for, so to say, before its embedding is believed
_STEPS = 200  # of conjugate gradients; some 50 are enough for IDs of 5 tokens


def checked_content(what: str, content: object, num_items: int) -> Tensor:
    """Take the items' embeddings, (N, C) floating point and finite, as float32 on the CPU."""
    if isinstance(content, np.ndarray):
        content = torch.from_numpy(np.array(content))  # a copy, since a catalogue's is read-only
    checks.tensors(what, content=content)
    assert isinstance(content, Tensor)
    if content.ndim != 2 or len(content) != num_items or not content.is_floating_point():
        got = f"{content.dtype} of shape {tuple(content.shape)}"
        fail(what, "content", f"({num_items}, C) floating point", got, "Pass one row per item.")
    found = content.detach().cpu().float()
    if not bool(found.isfinite().all()):
        fail(what, "content", "finite in float32", "NaN or infinity", "Embed those items again.")
    return found


def principal(content: Tensor, width: int) -> Tensor:
    """Turn items' embeddings, so that as few directions as possible tell them apart, and keep the first.

    Args:
        content: (N, C), one row per item.
        width: how many directions to keep.

    Returns:
        (N, width) float32, of mean length 1; further columns are 0 if C or N is smaller.
    """
    centred = F.normalize(content.detach().cpu().double(), dim=1)
    centred = centred - centred.mean(0)
    values, directions = torch.linalg.eigh(centred.T @ centred)
    kept = directions[:, values.argsort(descending=True)[:width]]
    kept = kept * torch.where(kept.gather(0, kept.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)  # one sign everywhere
    turned = centred @ kept
    turned = F.pad(turned, (0, width - turned.shape[1]))
    return (turned / turned.norm(dim=1).mean().clamp(min=1e-12)).float()


def summands(tokens: Tensor, vocab_size: int, wanted: Tensor) -> Tensor:
    """Find embeddings of tokens whose sum over an item's tokens is nearest to what is wanted.

    The least squares of sum_t e[tokens[i, t]] - wanted[i] over all items, plus .1 |e|^2, by conjugate gradients.

    Args:
        tokens: (N, T) int64.
        vocab_size: V.
        wanted: (N, D).

    Returns:
        (V, D) float32; 0 for tokens of no item.
    """
    target = wanted.double()

    def back(values: Tensor) -> Tensor:
        sums = torch.zeros(vocab_size, values.shape[1], dtype=torch.float64)
        for column in tokens.T:
            sums.index_add_(0, column, values)
        return sums

    left = back(target)
    found, step, size = torch.zeros_like(left), left, left.square().sum(0)
    enough = 1e-12 * size
    for _ in range(_STEPS):
        image = back(step[tokens].sum(1)) + _RIDGE * step
        rate = size / (step * image).sum(0).clamp(min=1e-300)
        found, left = found + rate * step, left - rate * image
        before, size = size, left.square().sum(0)
        if bool((size <= enough).all()):
            break
        step = left + size / before.clamp(min=1e-300) * step
    return found.float()


def log_lift(histories: Histories, num_items: int, history: int) -> float:
    """The logarithm of how much more often users came back to an item of their history than chance would have it."""
    users = torch.arange(len(histories)).repeat_interleave(histories.lengths)
    earlier = torch.arange(len(users)) - histories.offsets[users]
    again = len(users) - len((users * num_items + histories.items).unique())
    chance = float(earlier.clamp(max=history).sum()) / num_items
    return math.log((again + 0.5) / (chance + 0.5))
