"""The Markov chain with content ranks as worked out by hand, and its weight is the best on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from unitok.recommender import Histories, MarkovChain, MarkovContent, evaluate, fit_markov_content
from unitok.recommender.evaluation.splits import Split

HISTORIES = Histories.from_lists([[0, 1], [0, 2], [3, 2]])
# In the plane, at 0, 60, 90, 45 and 180 degrees; lengths don't matter.
ANGLES = torch.tensor([0.0, 60.0, 90.0, 45.0, 180.0]).deg2rad()
EMBEDDINGS = torch.stack([ANGLES.cos(), ANGLES.sin()], 1) * torch.tensor([[1.0], [3.0], [2.0], [5.0], [0.5]])


def found(**settings: Any) -> MarkovContent:
    return MarkovContent(HISTORIES, 5, EMBEDDINGS, **settings)


@pytest.mark.parametrize("rows", [[], [[]], [[0]], [[0, 1]], [[0, 1], [1, 2]]])
def test_a_chain_may_reach_further_than_there_are_events(rows: list[list[int]]) -> None:
    short = Histories.from_lists(rows)
    assert MarkovContent(short, 5, EMBEDDINGS).rank([[0]], 2).shape == (1, 2)
    assert MarkovChain(short, 5, reach=9).rank([[0]], 2).shape == (1, 2)


def test_it_ranks_as_worked_out_by_hand() -> None:
    # After 0: 1 and 2 at .5 each, 2 being the more popular. Cosines to 0: 1, .5, 0, .71, -1.
    assert found(weight=0.0).rank([[0]], 4).tolist() == [[2, 1, 3, 4]]
    assert found(weight=0.1).rank([[0]], 4).tolist() == [[1, 2, 3, 4]]  # .55, .5, .07, -.1
    assert found(weight=2.5).rank([[0]], 4).tolist() == [[3, 1, 2, 4]]  # 1.77, 1.75, .5, -2.5
    # After 2 and 0: the profile is (1, .5), at 26.6 degrees: cosines .95 to 3, .83 to 1, -.89 to 4.
    assert found(weight=9.0).rank([[2, 0]], 3).tolist() == [[3, 1, 4]]
    assert found(weight=9.0, content=0.01).rank([[2, 0]], 3).tolist() == [[3, 1, 4]]
    assert found(weight=9.0, content=1.0).rank([[4, 2, 1]], 2).tolist() == [[3, 0]]
    assert found(weight=9.0).rank([[]], 5).tolist() == MarkovChain(HISTORIES, 5).rank([[]], 5).tolist()


def test_a_row_hangs_on_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    asked = torch.randint(5, (9, 4), generator=generator)
    model = found(weight=0.7)
    one_by_one = torch.cat([model.rank(row[None], 5) for row in asked])
    assert torch.equal(model.rank(asked, 5), one_by_one)


def test_the_weight_is_the_best_on_validation() -> None:
    # Users go round in a circle of 12 items, as the embeddings do; or to and fro between opposites.
    angles = torch.arange(12) * (2 * torch.pi / 12)
    circle, opposites = torch.stack([angles.cos(), angles.sin()], 1), (-1.0) ** torch.arange(12)[:, None]
    grid = (10.0, 0.1, 0.0, 1.0)
    every = Histories.from_lists([[(start + step) % 12 for step in range(4)] for start in range(12)])
    assert fit_markov_content(every, 12, opposites, grid=grid).weight == 0.0  # the chain knows all
    few = Histories.from_lists([[start + step for step in range(4)] for start in (0, 3, 6)])
    chosen = fit_markov_content(few, 12, circle, grid=grid)  # it knows no item after the last
    assert chosen.weight == 0.1  # the least of those that find all targets
    for weight, found_all in ((0.0, False), (0.1, True), (10.0, True)):
        model = MarkovContent(few.training(), 12, circle, weight=weight)
        assert (float(evaluate(model, few.queries("validation")).values("ndcg").min()) == 1) == found_all


def test_a_split_says_what_is_learnt_and_what_the_weight_is_chosen_by() -> None:
    angles = torch.arange(12) * (2 * torch.pi / 12)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    every = Histories.from_lists([[(start + step) % 12 for step in range(4)] for start in range(12)])
    assert fit_markov_content(every, 12, circle, grid=(0.0, 0.1)).weight == 0.0  # the chain knows all
    split = Split.leave_one_out(every)
    assert fit_markov_content(split, 12, circle, grid=(0.0, 0.1)).weight == 0.0
    nothing = replace(split, training=Histories.from_lists([[]]))
    assert fit_markov_content(nothing, 12, circle, grid=(0.0, 0.1)).weight == 0.1


def test_what_does_not_fit_is_refused(refuses: Callable[..., Any]) -> None:
    for setting in ({"weight": -0.1}, {"content": 0.0}):
        with refuses("MarkovContent", next(iter(setting))):
            found(**setting)
    for wrong in (EMBEDDINGS[:4], EMBEDDINGS.long(), EMBEDDINGS * torch.nan):
        with refuses("MarkovContent", "embeddings"):
            MarkovContent(HISTORIES, 5, wrong)
    with refuses("MarkovContent", "embeddings", TypeError):
        MarkovContent(HISTORIES, 5, EMBEDDINGS.tolist())  # type: ignore[arg-type]
    for grid in ((), (0.1, -1.0)):
        with refuses("fit_markov_content", "grid"):
            fit_markov_content(HISTORIES, 5, EMBEDDINGS, grid=grid)
    with refuses("fit_markov_content", "users"):
        fit_markov_content(HISTORIES, 5, EMBEDDINGS, users=0)
    with pytest.raises(TypeError, match="grid must be a float"):
        fit_markov_content(HISTORIES, 5, EMBEDDINGS, grid=("0",))  # type: ignore[arg-type]
