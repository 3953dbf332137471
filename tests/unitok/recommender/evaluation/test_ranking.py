"""Recall and NDCG by item and by token: worked out by hand, and nothing is gained by colliding on purpose."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unitok.recommender.evaluation.ranking import ndcg, recall


def test_recall_and_ndcg_are_those_worked_out_by_hand() -> None:
    groups = torch.tensor([0, 1, 1, 2])  # items 1 and 2 share an ID
    ranked = torch.tensor([[1, 0, -1], [2, 1, 0], [2, 0, -1]])
    targets = torch.tensor([0, 1, 2])
    assert recall(ranked, targets, groups, 1) == 0
    assert recall(ranked, targets, groups, 2) == pytest.approx((1 + 0.5 + 0) / 3)
    assert recall(ranked, targets, groups, 2, "token") == pytest.approx(2 / 3)
    assert ndcg(ranked, targets, groups, 2) == pytest.approx((1 + 0.5) / math.log2(3) / 3)
    assert ndcg(ranked, targets, groups, 3, "token") == pytest.approx(2 / math.log2(3) / 3)
    assert math.isnan(recall(ranked[:0], targets[:0], groups, 2))


def test_both_ways_of_counting_are_equal_without_collisions() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randperm(50, generator=generator)
    ranked = torch.stack([torch.randperm(50, generator=generator)[:10] for _ in range(200)])
    targets = torch.randint(50, (200,), generator=generator)
    for metric in (recall, ndcg):
        assert metric(ranked, targets, groups, 10) == metric(ranked, targets, groups, 10, "token") > 0


def test_colliding_on_purpose_gains_nothing_by_item() -> None:
    """A tokenizer with one ID for all: naming it hits everything by token, and what chance would hit by item."""
    items, queries = 1000, 400
    targets = torch.randint(items, (queries,), generator=torch.Generator().manual_seed(0))
    everything, ranked = torch.zeros(items, dtype=torch.int64), torch.zeros(queries, 1, dtype=torch.int64)
    assert recall(ranked, targets, everything, 10, "token") == 1
    assert recall(ranked, targets, everything, 10) == pytest.approx(1 / items)


@pytest.mark.parametrize(
    ("ranked", "targets", "k", "level", "what"),
    [
        (torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 5, "item", "ranked and targets"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 5, "item", "ranked and targets"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 0, "item", "k"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 5, "id", "level"),
    ],
)
def test_what_does_not_fit_is_refused(
    ranked: torch.Tensor, targets: torch.Tensor, k: int, level: str, what: str
) -> None:
    with pytest.raises(ValueError, match=rf"^recall: {what} must be .*, got .*\. "):
        recall(ranked, targets, torch.zeros(4, dtype=torch.int64), k, level)


@pytest.mark.parametrize("metric", [recall, ndcg])
@pytest.mark.parametrize(
    ("target", "groups", "what"), [(0, 1, "groups"), (4, [0] * 4, "targets"), (-1, [0], "targets")]
)
def test_items_that_are_none_are_refused(metric: Any, target: int, groups: Any, what: str, refuses: Any) -> None:
    with refuses(metric.__name__, what):
        metric(torch.tensor([[0]]), torch.tensor([target]), torch.tensor(groups), 5)
