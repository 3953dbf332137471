"""Item-kNN ranks as worked out by hand, and as its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unitok.recommender import Histories, ItemKNN
from unitok.recommender.evaluation import neighbours as module

USERS = [[0, 1, 2], [0, 1], [1, 2, 2], [3], [0, 4]]


def test_it_ranks_as_worked_out_by_hand() -> None:
    found = ItemKNN(Histories.from_lists(USERS), 5, shrinkage=0.0)
    # Met by 3, 3, 2, 1 and 1 users. To 0: 1 by 2 / 3, 4 by 1 / sqrt 3, 2 by 1 / sqrt 6; 1 and 2 by 2 / sqrt 6.
    assert found.rank([[0], [1]], 5, exclude_seen=False).tolist() == [[1, 4, 2, 0, 3], [2, 0, 1, 3, 4]]
    assert found.rank([[0], [1]], 5).tolist() == [[1, 4, 2, 3, -1], [2, 0, 3, 4, -1]]
    # After both, 2 gathers .41 + .82 and 4 .58; with one neighbour for each, 0 leads to 1 alone, and 1 to 2.
    assert found.rank([[0, 1]], 3).tolist() == [[2, 4, 3]]
    nearest = ItemKNN(Histories.from_lists(USERS), 5, shrinkage=0.0, neighbours=1)
    assert nearest.rank([[0, 1], [4, 3]], 4).tolist() == [[2, 3, 4, -1], [0, 1, 2, -1]]
    assert ItemKNN(Histories.from_lists([[]]), 2).rank([[0]], 3).tolist() == [[1, -1, -1]]


@pytest.mark.parametrize(("shrinkage", "neighbours", "query"), [(0.0, 30, 1.0), (10.0, 4, 0.5)])
def test_it_is_its_formula(monkeypatch: pytest.MonkeyPatch, shrinkage: float, neighbours: int, query: float) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 64)  # many blocks
    generator = torch.Generator().manual_seed(0)
    lists = [torch.randint(30, (size,), generator=generator).tolist() for size in (9, 1, 14, 0, 30, 6, 11)]
    met = torch.zeros(len(lists), 30, dtype=torch.float64)
    for row, items in enumerate(lists):
        met[row, items] = 1
    sizes = met.sum(0)
    alike = (met.T @ met) / ((sizes[:, None] * sizes).sqrt() + shrinkage).clamp(min=1e-9)
    alike.fill_diagonal_(0)
    popular = torch.tensor([item for items in lists for item in items]).bincount(minlength=30)
    rank_of = torch.empty(30, dtype=torch.int64)
    rank_of[popular.argsort(descending=True, stable=True)] = torch.arange(30)
    for row in alike:
        order = sorted(range(30), key=lambda item: (-float(row[item]), int(rank_of[item])))
        row[order[neighbours:]] = 0
    found = ItemKNN(Histories.from_lists(lists), 30, shrinkage=shrinkage, neighbours=neighbours, query=query)
    for history in ([3], [4, 8, 15], [16, 2, 2]):
        scores = sum(query**j * alike[item] for j, item in enumerate(reversed(history)))
        assert isinstance(scores, torch.Tensor)
        expected = sorted(range(30), key=lambda item: (-float(scores[item].float()), int(rank_of[item])))
        assert found.rank([history], 30, exclude_seen=False)[0].tolist() == expected


def test_settings_that_do_not_fit_are_refused(refuses: Callable[..., Any]) -> None:
    histories = Histories.from_lists(USERS)
    for setting in ({"neighbours": 0}, {"shrinkage": -1.0}, {"query": 0.0}):
        with refuses("ItemKNN", next(iter(setting))):
            ItemKNN(histories, 5, **setting)
    with refuses("ItemKNN", "neighbours", TypeError):
        ItemKNN(histories, 5, neighbours=1.5)  # type: ignore[arg-type]
    with refuses("ItemKNN", "histories"):
        ItemKNN(histories, 4)
