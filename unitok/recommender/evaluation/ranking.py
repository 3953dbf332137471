"""Ranking metrics over semantic IDs: by item and, for comparison only, by ID, as if each ID were an item.

A generative recommender names IDs, and several items can share one. Counted by ID, all items of an ID are hits once the
ID is named, so a tokenizer gains from collisions. Counted by item, the items of an ID share its credit.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = ("item", "token")


def recall(ranked: Tensor, targets: Tensor, groups: Tensor, k: int, level: str = "item") -> float:
    """How often the target is among the first k named.

    Recall@k = mean_q credit_q [rank_q < k]; credit = 1 / (items of the target's ID) at the item level, 1 at the token
    level.

    Args:
        ranked: (Q, R) int64, the IDs named for each query, best first, as numbers of `SemanticIds.groups`; -1 is none.
        targets: (Q,) int64, the item that each query is after.
        groups: (N,) int64, the ID of each item.
        k: names that count.
        level: "item" | "token"; the latter is inflated by collisions.

    Returns:
        float: in [0, 1]; NaN for no queries.

    Raises:
        ValueError: shapes don't fit, a target is no item, k is below 1, or the level is unknown.

    Source:
        The protocol of TIGER, arXiv 2305.05065, made to rank items.
    """
    return float(recalls(*ranks(ranked, targets, groups, level, "recall"), k, "recall").mean())


def ndcg(ranked: Tensor, targets: Tensor, groups: Tensor, k: int, level: str = "item") -> float:
    """How high the target stands among the first k named.

    NDCG@k = mean_q credit_q [rank_q < k] / log2(rank_q + 2), one relevant item a query.

    Args:
        ranked: (Q, R) int64, the IDs named for each query, best first, as numbers of `SemanticIds.groups`; -1 is none.
        targets: (Q,) int64, the item that each query is after.
        groups: (N,) int64, the ID of each item.
        k: names that count.
        level: "item" | "token"; the latter is inflated by collisions.

    Returns:
        float: in [0, 1]; NaN for no queries.

    Raises:
        ValueError: shapes don't fit, a target is no item, k is below 1, or the level is unknown.

    Source:
        Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    return float(ndcgs(*ranks(ranked, targets, groups, level, "ndcg"), k, "ndcg").mean())


def ranks(
    ranked: Tensor, targets: Tensor, groups: Tensor, level: str = "item", what: str = "ranks"
) -> tuple[Tensor, Tensor]:
    """Find each query's target among the names.

    Args:
        ranked: (Q, R) int64, the IDs named for each query, best first, as numbers of `SemanticIds.groups`; -1 is none.
        targets: (Q,) int64, the item that each query is after.
        groups: (N,) int64, the ID of each item.
        level: "item" | "token"; the latter is inflated by collisions.
        what: the operation that a message names.

    Returns:
        rank (Q,) float64, names that stand before the target's, inf where it isn't named; credit (Q,) float64,
        1 / (items of the target's ID) at the item level, 1 at the token level.

    Raises:
        ValueError: shapes don't fit, a target is no item, or the level is unknown.
    """
    if level not in LEVELS:
        raise ValueError(f"{what}: level must be one of {', '.join(LEVELS)}, got {level!r}. Pick one of them.")
    if ranked.dim() != 2 or targets.shape != ranked.shape[:1]:
        shapes = f"{tuple(ranked.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"{what}: ranked and targets must be (Q, R) and (Q,), got {shapes}. Pass one list per query.")
    if groups.dim() != 1:
        shape = tuple(groups.shape)
        raise ValueError(f"{what}: groups must be (N,), got {shape}. Pass one number per item, as SemanticIds.groups.")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(groups):
        got = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"{what}: targets must be of the {len(groups)} items, got {got}. Pass the IDs of all items.")
    wanted = groups[targets]
    named = torch.cat([ranked == wanted[:, None], torch.ones_like(wanted[:, None], dtype=torch.bool)], 1)
    rank = named.int().argmax(1).double()
    rank[rank == ranked.shape[1]] = torch.inf
    sizes = torch.bincount(groups)[wanted].double()
    return rank, 1 / sizes if level == "item" else torch.ones_like(sizes)


def recalls(rank: Tensor, credit: Tensor, k: int, what: str = "recalls") -> Tensor:
    """Recall@k of each query: credit_q [rank_q < k].

    Args:
        rank: (Q,) float64, as from `ranks`.
        credit: (Q,) float64, as from `ranks`.
        k: names that count.
        what: the operation that a message names.

    Returns:
        (Q,) float64 in [0, 1].

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"{what}: k must be at least 1, got {k}. Use 5 or 10, the common values.")
    return credit * (rank < k)


def ndcgs(rank: Tensor, credit: Tensor, k: int, what: str = "ndcgs") -> Tensor:
    """NDCG@k of each query: credit_q [rank_q < k] / log2(rank_q + 2).

    Args:
        rank: (Q,) float64, as from `ranks`.
        credit: (Q,) float64, as from `ranks`.
        k: names that count.
        what: the operation that a message names.

    Returns:
        (Q,) float64 in [0, 1].

    Raises:
        ValueError: k is below 1.
    """
    return recalls(rank, credit, k, what) / (rank + 2).log2()
