"""Splits: what is left out of training is in none of it, and each query is the one that was worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unitok.recommender import Histories
from unitok.recommender.evaluation.splits import Split, points_in_time


def lists(histories: Histories) -> list[list[int]]:
    return [part.tolist() for part in histories.items.split(histories.lengths.tolist())]


def seconds(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


@pytest.fixture(scope="module")
def made() -> Histories:
    """200 users of 0 to 11 items, of 60."""
    draw = np.random.default_rng(0)
    return Histories.from_lists([draw.integers(0, 60, draw.integers(0, 12)) for _ in range(200)])


def test_leave_one_out_is_that_of_the_histories_themselves(made: Histories) -> None:
    split = Split.leave_one_out(made, most=5)
    assert torch.equal(split.training.items, made.training().items)
    assert torch.equal(split.training.offsets, made.training().offsets)
    for part, asked in (("validation", split.validation), ("test", split.test)):
        wanted = made.queries(part, 5)
        for name in ("histories", "targets", "users"):
            assert torch.equal(getattr(asked, name), getattr(wanted, name))
        assert asked.cold is None
    assert split.how == {"kind": "leave-one-out"}


def test_cold_items_are_in_no_training_history_and_asked_as_ever() -> None:
    histories = Histories.from_lists([[0, 1, 2, 3, 4, 5], [1, 3], [5, 4, 3, 2], [], [2, 1, 0, 7]], list("abcde"))
    split = Split.cold_items(histories, 10, share=0.3, seed=3)
    left_out = torch.randperm(10, generator=torch.Generator().manual_seed(3))[:3].tolist()
    assert sorted(left_out) == [0, 3, 6]  # so that what follows can be read by eye
    assert lists(split.training) == [[1, 2], [1], [5, 4], [], [2, 1]]
    assert split.training.user_ids.tolist() == ["a", "b", "c", "d", "e"]
    validation, test = split.validation, split.test
    assert validation.users.tolist() == test.users.tolist() == [0, 2, 4]
    assert validation.histories[:, -5:].tolist() == [[-1, 0, 1, 2, 3], [-1, -1, -1, 5, 4], [-1, -1, -1, 2, 1]]
    assert test.histories[:, -5:].tolist() == [[0, 1, 2, 3, 4], [-1, -1, 5, 4, 3], [-1, -1, 2, 1, 0]]
    assert validation.targets.tolist() == [4, 3, 0]
    assert test.targets.tolist() == [5, 2, 7]
    assert validation.cold is not None
    assert validation.cold.tolist() == [False, True, True]
    assert test.cold is not None
    assert test.cold.tolist() == [False, False, True]  # 7 was not left out, but was met last alone


def test_a_share_of_the_items_is_cold_and_the_seed_says_which(made: Histories) -> None:
    split, again, other = (Split.cold_items(made, 60, share=0.2, seed=seed) for seed in (0, 0, 1))
    whole = made.training()
    gone = set(whole.items.tolist()) - set(split.training.items.tolist())
    assert len(gone) == 12
    assert torch.equal(split.training.items, again.training.items)
    assert not torch.equal(split.training.items, other.training.items)
    kept = [[item for item in row if item not in gone] for row in lists(whole)]
    assert lists(split.training) == kept
    for asked, part in ((split.validation, "validation"), (split.test, "test")):
        assert torch.equal(asked.targets, made.queries(part).targets)
        assert torch.equal(asked.histories, made.queries(part).histories)
        assert asked.cold is not None
        assert asked.cold.tolist() == [target in gone for target in asked.targets.tolist()]
        assert asked.cold.any()
    assert json.loads(json.dumps(split.how)) == {"kind": "cold", "share": 0.2, "seed": 0}


def test_queries_by_time_are_those_worked_out_by_hand() -> None:
    histories = Histories.from_lists(
        [
            [0, 1, 2, 3],  # before, before, between, after
            [4, 5, 6],  # before, after, after: asked in test alone
            [7, 8],  # both between: nothing is known of the user for validation, and nothing is asked in test
            [9, 0],  # both after: nothing is known
            [1, 2],  # both before: nothing to ask
            [],
            [3, 9, 9, 1],  # at the points themselves: between, after
            [8, 4],  # between, after: in validation nothing is known, in test one item
        ]
    )
    times = seconds(1, 5, 12, 25, 3, 30, 31, 11, 12, 21, 22, 2, 9, 4, 10, 20, 20, 15, 28)
    split = Split.by_time(histories, times, (10, 20))
    assert lists(split.training) == [[0, 1], [4], [], [], [1, 2], [], [3], []]
    assert split.validation.users.tolist() == [0, 6]
    assert split.validation.targets.tolist() == [2, 9]
    assert split.validation.histories[:, -3:].tolist() == [[-1, 0, 1], [-1, -1, 3]]
    assert split.test.users.tolist() == [0, 1, 6, 7]
    assert split.test.targets.tolist() == [3, 5, 9, 4]
    assert split.test.histories[:, -4:].tolist() == [[-1, 0, 1, 2], [-1, -1, -1, 4], [-1, -1, 3, 9], [-1, -1, -1, 8]]
    assert split.validation.cold is not None
    assert split.test.cold is not None
    assert split.validation.cold.tolist() == [False, True]
    assert split.test.cold.tolist() == [False, True, True, False]
    assert split.how == {"kind": "time", "points": [10.0, 20.0]}


def test_no_event_that_is_learnt_from_is_at_or_after_the_point(made: Histories) -> None:
    draw = np.random.default_rng(1)
    ordered = [np.sort(draw.integers(10**9, 10**9 + 300, length)) for length in made.lengths.tolist()]
    times = np.concatenate(ordered)  # of few values: many events are at the points themselves
    split = Split.by_time(made, times)
    first, second = split.how["points"]
    before = [row[at < first].tolist() for row, at in zip(map(np.array, lists(made)), ordered, strict=True)]
    assert lists(split.training) == before
    assert 0.75 * len(made.items) < len(split.training.items) <= round(0.8 * len(made.items))
    for asked, start, end in ((split.validation, first, second), (split.test, second, np.inf)):
        assert len(asked) > 20
        for history, target, user in zip(asked.histories, asked.targets, asked.users.tolist(), strict=True):
            at, items = ordered[user], lists(made)[user]
            place = int((at < start).sum())
            assert start <= at[place] < end
            assert items[place] == target
            assert history[history >= 0].tolist() == items[:place]
            assert place > 0
    again = Split.by_time(made, torch.from_numpy(times), split.how["points"])
    assert torch.equal(again.test.targets, split.test.targets)


def test_points_in_time_part_the_events_and_keep_ties_together() -> None:
    assert points_in_time(seconds(*range(10))) == (8, 9)
    assert points_in_time(np.arange(10)[::-1], (0.5, 0.3, 0.2)) == (5, 8)
    assert points_in_time(seconds(0, 1, 2, 3, 4, 5, 6, 6, 6, 7)) == (6, 7)  # the 6 at place 7 is after the point, too
    late = 1_400_000_000.5  # float32 would put these in one minute
    assert points_in_time(late + np.arange(10) / 4) == (late + 2, late + 2.25)
    exact = torch.arange(10) + 1_400_000_000
    assert points_in_time(exact) == (1_400_000_008, 1_400_000_009)
    ten = Histories.from_lists([list(range(10))])
    assert lists(Split.by_time(ten, exact).training) == [list(range(8))]


def test_what_does_not_fit_is_refused(refuses: Any) -> None:
    histories = Histories.from_lists([[0, 1, 2, 3]])
    times = seconds(1, 2, 3, 4)
    with refuses("leave_one_out", "histories", TypeError):
        Split.leave_one_out([[0, 1, 2]])  # type: ignore[arg-type]
    for share in (0, 1, -0.1, float("nan"), 0.01):
        with refuses("cold_items", "share"):
            Split.cold_items(histories, 4, share=share)
    with refuses("cold_items", "histories"):
        Split.cold_items(histories, 3)
    with refuses("cold_items", "seed", TypeError):
        Split.cold_items(histories, 4, seed="0")  # type: ignore[arg-type]
    with refuses("by_time", "times", TypeError):
        Split.by_time(histories, None)  # type: ignore[arg-type]
    for bad in (times[:3], times[None], times.where(times < 4, torch.nan)):
        with refuses("by_time", "times"):
            Split.by_time(histories, bad)
    for points in ((3, 2), (2, 2), (1, 3), (2, 5), (2.2, 2.5), (2,), 2):
        with refuses("by_time", "points"):
            Split.by_time(histories, times, points)  # type: ignore[arg-type]
    with refuses("by_time", "points"):  # all at once: no point is between them
        Split.by_time(histories, seconds(5, 5, 5, 5))
    with refuses("by_time", "most"):
        Split.by_time(histories, times, (2, 3), most=0)
    with refuses("points_in_time", "shares"):
        points_in_time(times, (0.8, 0.1))
    with refuses("points_in_time", "shares"):
        points_in_time(times, (0.8, 0.2, 0.0))
    with refuses("points_in_time", "times"):
        points_in_time(seconds())
    split = Split.leave_one_out(histories)
    with refuses("Split", "validation", TypeError):
        Split(split.training, split.training, split.test, split.how)  # type: ignore[arg-type]
