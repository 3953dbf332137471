"""The baselines: popularity and a Markov chain rank as worked out by hand, and learn what generated users do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unitok.data import read_interactions
from unitok.recommender import Histories, MarkovChain, Popularity, evaluate

ITEMS = 200


@pytest.fixture(scope="module")
def histories(generated: Path) -> Histories:
    return Histories.of(read_interactions(generated), ITEMS)


def made(*histories: list[int]) -> Histories:
    lengths = torch.tensor([0, *(len(h) for h in histories)])
    return Histories(lengths.cumsum(0), torch.tensor([i for h in histories for i in h]), torch.arange(len(histories)))


def test_popularity_is_that_counted_by_hand() -> None:
    popularity = Popularity(made([3, 1], [1, 2], [1, 3]), 5)
    assert (
        popularity.rank(torch.full((2, 3), -1), 4, exclude_seen=False).tolist() == [[1, 3, 2, 0]] * 2
    )  # of 0 and 4, the lowest item
    assert popularity.rank(torch.zeros(1, 1, dtype=torch.int64), 7, exclude_seen=False).tolist() == [
        [1, 3, 2, 0, 4, -1, -1]
    ]


def test_a_chain_ranks_as_worked_out_by_hand() -> None:
    histories = made([0, 1, 2], [0, 2], [3, 4, 4, 4])
    history = torch.tensor([[-1, 3, 0]])
    # After 0: 1 and 2, half each; after 3, a place further off: 4. Behind them the popular ones: 4, 0, 2, 1, 3.
    assert MarkovChain(histories, 5, query=0.9).rank(history, 5, exclude_seen=False).tolist() == [[4, 2, 1, 0, 3]]
    assert MarkovChain(histories, 5, query=0.4).rank(history, 5, exclude_seen=False).tolist() == [[2, 1, 4, 0, 3]]
    # Two places reach: 0 -> 2 gains .5 of a transition, and 3 -> 4 too.
    assert MarkovChain(histories, 5, reach=2, learn=0.5, query=0.5).rank(history, 2, exclude_seen=False).tolist() == [
        [2, 4]
    ]
    assert MarkovChain(histories, 6).rank(torch.full((1, 2), -1), 8, exclude_seen=False).tolist() == [
        [4, 0, 2, 1, 3, 5, -1, -1]
    ]


def test_items_of_the_history_are_left_out() -> None:
    histories = made([0, 1, 2], [0, 2], [3, 4, 4, 4])
    asked = torch.tensor([[-1, 3, 0], [4, 0, 2], [-1, -1, -1]])
    # By popularity 4, 0, 2, 1, 3; the second history leaves two items, whatever is asked for.
    popular = [[4, 2, 1, -1], [1, 3, -1, -1], [4, 0, 2, 1]]
    assert Popularity(histories, 5).rank(asked, 4).tolist() == popular
    assert MarkovChain(histories, 5).rank(asked, 4).tolist() == [[4, 2, 1, -1], [1, 3, -1, -1], [4, 0, 2, 1]]
    assert MarkovChain(histories, 5, query=0.4).rank(asked, 5)[0].tolist() == [2, 1, 4, -1, -1]
    for kind in (Popularity, MarkovChain):
        rank = kind(histories, 5).rank
        assert rank(asked, 2, deny=[4, 2]).tolist() == [[1, -1], [1, 3], [0, 1]]
        assert rank(asked, 2, allow=torch.tensor([3, 4]), exclude_seen=False).tolist() == [[4, 3]] * 3
        assert rank(asked, 2, allow=[3, 4], deny=[4]).tolist() == [[-1, -1], [3, -1], [3, -1]]
        assert rank(asked, 1, allow=[]).tolist() == [[-1]] * 3


def plain(histories: Histories, history: Tensor, reach: int, learn: float, query: float, normalised: bool) -> Tensor:
    """The docstring's formula, one loop a sign."""
    table = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for items in histories.items.split(histories.lengths.tolist()):
        for a in range(len(items)):
            for b in range(a + 1, min(a + reach + 1, len(items))):
                table[items[a], items[b]] += learn ** (b - a - 1)
    if normalised:
        table /= table.sum(1, keepdim=True).clamp(min=1e-9)
    scores = torch.zeros(ITEMS, dtype=torch.float64)
    for j, item in enumerate(history[history >= 0].flip(0)):
        scores += query**j * table[item]
    popularity = histories.items.bincount(minlength=ITEMS)
    return torch.tensor(sorted(range(ITEMS), key=lambda i: (-float(scores[i].float()), -int(popularity[i]), i)))


@pytest.mark.parametrize("settings", [(1, 1.0, 0.5, True), (4, 0.7, 0.6, False), (30, 0.9, 1.0, True)])
def test_a_chain_is_its_formula(histories: Histories, settings: tuple[int, float, float, bool]) -> None:
    reach, learn, query, normalised = settings
    training, queries = histories.training(), histories.queries("test")
    chain = MarkovChain(training, ITEMS, reach=reach, learn=learn, query=query, normalised=normalised)
    ranked = chain.rank(queries.histories[:7], ITEMS, exclude_seen=False)
    for row, history in zip(ranked, queries.histories, strict=False):
        assert torch.equal(row, plain(training, history, *settings))
    alone = torch.cat([chain.rank(history[None], 10, exclude_seen=False) for history in queries.histories[:7]])
    assert torch.equal(alone, ranked[:, :10])


def test_they_learn_what_generated_users_do(histories: Histories) -> None:
    training, queries = histories.training(), histories.queries("test")
    chance = 10 / ITEMS
    found = (Popularity(training, ITEMS), MarkovChain(training, ITEMS, reach=3, learn=0.7))
    popular, chain = (evaluate(each, queries, exclude_seen=False).values("recall").mean() for each in found)
    assert chain > 1.5 * popular > 1.5 * chance


def test_what_does_not_fit_is_refused(refuses, histories: Histories) -> None:
    for setting in ({"reach": 0}, {"learn": 0.0}, {"query": 1.5}):
        with refuses("MarkovChain", next(iter(setting))):
            MarkovChain(histories, ITEMS, **setting)


def test_lists_are_ranked_after_and_odd_types_are_refused(refuses: Callable[..., Any]) -> None:
    chain = MarkovChain(made([0, 1, 2], [0, 2]), 4)
    assert (
        chain.rank([[0], [2, 1]], 3, exclude_seen=False).tolist()
        == chain.rank(torch.tensor([[-1, 0], [2, 1]]), 3, exclude_seen=False).tolist()
    )
    assert Popularity(made([1]), 2).rank([[0], [1]], 1, exclude_seen=False).tolist() == [[1], [1]]
    for kind in (Popularity, MarkovChain):
        with refuses(kind.__name__, "histories", TypeError):
            kind([[0, 1]], 2)  # type: ignore[arg-type]
        with refuses(kind.__name__, "histories"):
            kind(made([0, 2]), 2)
        with refuses(kind.__name__, "num_items", TypeError):
            kind(made([0]), "2")  # type: ignore[arg-type]
        with refuses("rank", "k"):
            kind(made([0]), 2).rank([[0]], 0, exclude_seen=False)
        with refuses("rank", "histories"):
            kind(made([0]), 2).rank(torch.tensor(1), 1)
        with refuses("rank", "histories"):
            kind(made([0]), 2).rank([[4]], 1)
    with refuses("MarkovChain", "learn", TypeError):
        MarkovChain(made([0]), 2, learn="1")  # type: ignore[arg-type]
