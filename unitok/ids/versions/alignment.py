"""Number a tokenizer's experts and codes anew, so that items keep as much as can be of the IDs that they had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitok.ids.semantic_ids import SemanticIds
from unitok_kernels.rules import fail, typed


@dataclass(frozen=True, eq=False)
class Alignment:
    """What `align_ids` found.

    Attributes:
        experts: (E,) int64, the new number of each expert.
        codes: (E, L, K) int64, the new number of each code, by the expert's number as it was.
        before: 1 + L shares of the items: with the earlier expert, then with the first 1, 2, .. L codes too.
        after: the same, once everything has its new number.
    """

    experts: Tensor
    codes: Tensor
    before: tuple[float, ...]
    after: tuple[float, ...]


def align_ids(ids: SemanticIds, earlier: SemanticIds, num_experts: int, routable: int) -> Alignment:
    """Find the numbers of experts and codes by which most items have the prefixes that they had.

    Numbers mean nothing: a retrained tokenizer may have the clusters of the one before it under others. First the
    experts are matched one to one, so that most items stay with theirs; then, within each expert, the codes of level
    after level, so that most items whose prefix is right so far keep it for one more code. Each matching is the best
    one, an assignment problem; all levels at once would be a harder problem. Where nothing else decides, a number stays
    as it is. What the IDs mean doesn't change.

    Args:
        ids: N IDs, as the tokenizer gives them now.
        earlier: the IDs that the same items had, in the same order.
        num_experts: E of the tokenizer.
        routable: how many experts the router chooses among. They get numbers among theirs, added ones among the rest.

    Returns:
        Alignment: the numbers, and what they keep.

    Raises:
        TypeError: no IDs.
        ValueError: other numbers of items, levels or codewords; no item; or one that could not be encoded.
        ImportError: scipy isn't installed.

    Source: Kuhn, "The Hungarian method for the assignment problem", 1955, as scipy solves it; UniTok.
    """
    for name, given in (("ids", ids), ("earlier", earlier)):
        typed("align", name, given, (SemanticIds,), "SemanticIds")
    sizes = [(len(each), each.num_levels, each.codebook_size) for each in (ids, earlier)]
    if sizes[0] != sizes[1]:
        step = "Pass the same items' IDs, of as many levels and codewords."
        fail("align", "earlier", f"{sizes[0]} items, levels and codewords", sizes[1], step)
    now, had = (torch.cat([each.experts[:, :1], each.codes], 1).numpy() for each in (ids, earlier))
    if not len(now) or min(now.min(), had.min()) < 0:
        got = "none" if not len(now) else "a row of -1"
        fail("align", "ids", "of one item or more, each encoded", got, "Leave out such rows.")
    experts = _matched_experts(now[:, 0], had[:, 0], num_experts, routable)
    codes = np.tile(np.arange(ids.codebook_size), (num_experts, ids.num_levels, 1))
    for expert in np.unique(now[:, 0]):
        there = (now[:, 0] == expert) & (had[:, 0] == experts[expert])
        codes[expert] = _matched_codes(now[there, 1:], had[there, 1:], ids.codebook_size)
    renamed = now.copy()
    renamed[:, 0] = experts[now[:, 0]]
    for level in range(ids.num_levels):
        renamed[:, level + 1] = codes[now[:, 0], level, now[:, level + 1]]
    return Alignment(torch.from_numpy(experts), torch.from_numpy(codes), _kept(now, had), _kept(renamed, had))


def _matched_experts(
    now: NDArray[np.int64], had: NDArray[np.int64], num_experts: int, routable: int
) -> NDArray[np.int64]:
    experts = np.arange(num_experts)
    for first, end in ((0, routable), (routable, num_experts)):
        own = (now >= first) & (now < end) & (had >= first) & (had < end)
        experts[first:end] = first + _matching(now[own] - first, had[own] - first, end - first)
    return experts


def _matched_codes(now: NDArray[np.int64], had: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The new numbers of an expert's codes, (L, K), of (N, L) codes of items that were that expert's before."""
    codes = np.tile(np.arange(size), (now.shape[1], 1))
    right = np.ones(len(now), bool)
    for level, (own, wanted) in enumerate(zip(now.T, had.T, strict=True)):
        codes[level] = _matching(own, wanted, size, right)
        right &= codes[level, own] == wanted
    return codes


def _matching(
    now: NDArray[np.int64], had: NDArray[np.int64], size: int, first: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Match `size` numbers with as many, so that most items of `first` agree, then most of all, then most numbers."""
    from scipy.optimize import linear_sum_assignment

    agree = np.eye(size) / (size + 1)
    np.add.at(agree, (now, had), 1.0)
    if first is not None:
        agree /= len(now) + 1
        np.add.at(agree, (now[first], had[first]), 1.0)
    return np.asarray(linear_sum_assignment(agree, maximize=True)[1])


def _kept(ids: NDArray[np.int64], had: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(np.logical_and.accumulate(ids == had, 1).mean(0).tolist())
