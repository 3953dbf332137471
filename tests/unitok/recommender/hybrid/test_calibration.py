"""Factors that a score is high by, and how a recommender chooses how much its parts count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.unitok.recommender.test_sequence_models import ITEMS, ids
from unitok.recommender import Histories, HybridRecommender, TokenTable, TrainingConfig, evaluate, fit, gpt2_config
from unitok.recommender.hybrid.calibration import STEP, climb


def test_it_climbs_to_the_top_of_a_hill_and_asks_for_nothing_twice() -> None:
    asked = []

    def score(factors: Sequence[float]) -> float:
        asked.append(tuple(factors))
        down, up = math.log(factors[0] / 0.25), math.log(factors[1] / 3.0)
        return -(down**2) - up**2 + 0.5 * down * up

    found = climb(score, 2)
    assert len(set(asked)) == len(asked)
    best = score(found)
    for place in range(2):
        for factor in (STEP, 1 / STEP):
            moved = list(found)
            moved[place] *= factor
            assert score(moved) < best
    assert found == pytest.approx([0.25, 2 * STEP])


def test_it_ends_where_nothing_rises_and_stays_where_nothing_changes() -> None:
    assert climb(lambda factors: factors[0] - factors[1], 2) == pytest.approx([16.0, 1 / 16])
    assert climb(lambda _: 0.5, 3) == [1.0, 1.0, 1.0]


def walks() -> Histories:
    """Users who mostly take the item after the one before."""
    g = torch.Generator().manual_seed(0)
    items = [torch.randint(ITEMS, (150,), generator=g)]
    for _ in range(6):
        follows = torch.rand(150, generator=g) < 0.6
        items.append(torch.where(follows, (items[-1] + 1) % ITEMS, torch.randint(ITEMS, (150,), generator=g)))
    return Histories.from_lists(torch.stack(items, 1).tolist())


USERS = walks()


def recommender() -> HybridRecommender:
    """What it learnt, which is nothing yet, is loud."""
    model = gpt2_config(16, layers=1)
    content = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(2))
    return HybridRecommender.create(TokenTable.of(ids()), model, histories=USERS, content=content)


def reached(found: HybridRecommender) -> float:
    return float(evaluate(found, USERS.queries("validation")).values("ndcg", 10).mean())


def test_what_is_chosen_ranks_validation_better_than_anything_a_step_away() -> None:
    found = recommender()
    before = reached(found)
    found.finish(USERS.queries("validation"))
    chosen, best = found.model.balance.clone(), reached(found)
    assert chosen[0] < 1
    assert best > before + 0.05
    for place in range(2):
        for factor in (STEP, 1 / STEP):
            found.model.balance.copy_(chosen)
            found.model.balance[place] *= factor
            assert reached(found) <= best


def test_fit_ends_with_it_also_when_it_is_resumed_and_it_is_saved(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=64)
    found, again = recommender(), recommender()
    fit(found, USERS, config, directory=tmp_path / "run")
    assert not torch.equal(found.model.balance, torch.ones(2))
    fit(again, USERS, config, directory=tmp_path / "run")  # it is finished: only the choice is made again
    assert torch.equal(again.model.balance, found.model.balance)
    found.save_pretrained(tmp_path / "saved")
    loaded = HybridRecommender.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.model.balance, found.model.balance)
    assert reached(loaded) == reached(found)
    found.model.balance.fill_(1.0)
    assert reached(loaded) > reached(found)
