"""What every recommender takes: lists of items to rank after, and nothing of another type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.unitok.recommender.test_sequence_models import HISTORY, ids, make
from unitok.recommender import CausalRecommender, RQRecommender, T5Recommender, TokenTable


def test_lists_of_items_are_ranked_after() -> None:
    recommender = make("gpt2", TokenTable.of(ids()))
    asked = [[3, 1], [], list(range(HISTORY + 4))]
    rows = torch.tensor([[-1] * (HISTORY + 4 - len(row)) + row for row in asked])
    assert torch.equal(recommender.rank(asked, 8), recommender.rank(rows, 8))


@pytest.mark.parametrize("kind", [CausalRecommender, RQRecommender, T5Recommender])
def test_odd_types_are_refused(kind: Any, refuses: Callable[..., Any]) -> None:
    table, name = TokenTable.items(9), kind.__name__
    for argument, error, options in (
        ("table", TypeError, {"table": ids()}),
        ("config", TypeError, {"table": table, "config": {"n_layer": 1}}),
        ("history", TypeError, {"table": table, "history": "5"}),
        ("history", ValueError, {"table": table, "history": 0}),
        ("beam", TypeError, {"table": table, "beam": 2.5}),
    ):
        with refuses(name, argument, error):
            kind.create(**options)
    made = kind.create(table)
    for argument, error, options in (
        ("model", ValueError, {"model": torch.nn.Linear(2, 2)}),
        ("model", ValueError, {"table": TokenTable(table.tokens, 10**6)}),
        ("about", TypeError, {"about": "books"}),
        ("rows", TypeError, {"rows": [1, 2]}),
    ):
        with refuses(name, argument, error):
            kind(**{"model": made.model, "table": table, **options})
    with refuses("within", "rows", TypeError):
        made.within([1, 2])
    with refuses("rank", "histories", TypeError):
        made.rank([0, 1], 2)
    with refuses("rank", "histories"):
        made.rank(torch.tensor(1), 2)
    for odd in (torch.tensor(1), torch.tensor([1]), torch.tensor([[0.5]])):
        with refuses("loss", "items"):
            made.loss(odd)
    with refuses("loss", "items", TypeError):
        made.loss([[0, 1]])
    with refuses("rank", "k", TypeError):
        made.rank([[0, 1]], "2")
