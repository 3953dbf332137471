"""Histories: training, validation and test are split leave-one-out, and none sees what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unitok.data import Interactions, read_interactions
from unitok.recommender import Histories, Queries
from unitok.recommender.histories import as_histories


def events(*histories: list[int]) -> Interactions:
    users = np.repeat(np.arange(len(histories)) * 10, [len(h) for h in histories])
    positions = np.concatenate([np.arange(len(h)) for h in histories])
    return Interactions(users, np.concatenate([*histories, []]).astype(np.int64), positions)


def test_splits_are_those_made_by_hand() -> None:
    histories = Histories.of(events([5, 3, 4, 0], [1, 2], [7, 7, 7]), 8)
    assert len(histories) == 3
    assert histories.user_ids.tolist() == [0, 10, 20]
    training = histories.training()
    assert [part.tolist() for part in training.items.split(training.lengths.tolist())] == [[5, 3], [1, 2], [7]]
    validation, test = histories.queries("validation", most=3), histories.queries("test", most=3)
    assert validation.histories.tolist() == [[-1, 5, 3], [-1, -1, 7]]
    assert validation.targets.tolist() == [4, 7]
    assert test.histories.tolist() == [[5, 3, 4], [-1, 7, 7]]
    assert test.targets.tolist() == [0, 7]
    assert test.users.tolist() == validation.users.tolist() == [0, 2]


def test_training_never_holds_what_is_asked_for(generated: Path) -> None:
    histories = Histories.of(read_interactions(generated), 200)
    training, longest = histories.training(), int(histories.lengths.max())
    assert torch.equal(histories.lengths - training.lengths, torch.full((len(histories),), 2))
    for part, known in (("validation", training.lengths), ("test", training.lengths + 1)):
        queries = histories.queries(part, longest)
        for user in range(len(histories)):
            whole = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
            given = queries.histories[user]
            assert torch.equal(given[given >= 0], whole[: known[user]])
            assert queries.targets[user] == whole[known[user]]
        cut = histories.queries(part, 4)
        assert torch.equal(cut.histories, queries.histories[:, -4:])


def test_no_users_and_none_to_ask_make_no_query() -> None:
    assert len(Histories.of(events([]), 3).queries()) == 0
    short = Histories.of(events([1, 2], [0]), 3)
    assert len(short.queries("test")) == 0
    assert torch.equal(short.training().items, short.items)


def test_some_queries_are_taken_with_all_that_is_said_of_them() -> None:
    made = Histories.from_lists([[5, 3, 4, 0], [1, 2, 6], [7, 7, 7]]).queries("test", most=2)
    cold = torch.tensor([False, True, False])
    for rows in (torch.tensor([2, 1]), torch.tensor([False, True, True])):
        some = replace(made, cold=cold)[rows]
        for name in ("histories", "targets", "users", "cold"):
            assert torch.equal(getattr(some, name), (cold if name == "cold" else getattr(made, name))[rows])
        assert made[rows].cold is None


def test_what_does_not_fit_is_refused(refuses) -> None:
    with refuses("Histories.of", "item_ids"):
        Histories.of(events([1, 2, 3]), 3)
    with refuses("Histories.of", "item_ids"):
        Histories.of(events([1, -1, 2]), 3)
    unsorted = events([0, 1, 2])
    with refuses("Histories.of", "events"):
        Histories.of(Interactions(unsorted.user_ids, unsorted.item_ids, unsorted.positions[::-1]), 3)
    with refuses("Histories.of", "events"):
        Histories.of(Interactions(np.array([1, 0]), np.zeros(2, np.int64), np.zeros(2, np.int64)), 3)
    histories = Histories.of(unsorted, 3)
    with refuses("queries", "part"):
        histories.queries("dev")
    with refuses("queries", "most"):
        histories.queries(most=0)
    with refuses("queries", "most", TypeError):
        histories.queries(most="20")


def test_lists_of_items_are_histories() -> None:
    made = Histories.from_lists([[5, 3, 4, 0], [], (7, 7, 7)], ["ann", "bob", "cy"])
    assert made.lengths.tolist() == [4, 0, 3]
    assert made.items.tolist() == [5, 3, 4, 0, 7, 7, 7]
    assert made.user_ids.tolist() == ["ann", "bob", "cy"]
    assert made.training().user_ids.tolist() == ["ann", "bob", "cy"]
    assert made.queries().histories[:, -2:].tolist() == [[5, 3], [-1, 7]]
    arrays = Histories.from_lists([np.array([5, 3]), torch.tensor([4])])
    assert arrays.items.tolist() == [5, 3, 4]
    assert arrays.user_ids.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [str, object])
def test_ids_of_users_may_be_texts(dtype: Any) -> None:
    users = np.array(["ann", "ann", "bob"], dtype=dtype)
    made = Histories.of(Interactions(users, np.array([2, 0, 1]), np.array([0, 1, 0])), 3)  # type: ignore[arg-type]
    assert made.user_ids.tolist() == ["ann", "bob"]
    assert made.items.tolist() == [2, 0, 1]


def test_users_with_names_are_known_by_them() -> None:
    names = ["10", "2", "a\0", "b" * 9]  # of which the third has no event
    users = np.array([0, 0, 1, 3])
    made = Histories.of(Interactions(users, np.arange(4), np.array([0, 1, 0, 0]), user_names=names), 4)
    assert made.user_ids.tolist() == ["10", "2", "b" * 9]
    assert made.training().user_ids.tolist() == made.user_ids.tolist()
    assert made.lengths.tolist() == [2, 1, 1]
    last = Histories.of(Interactions(users * 0 + 2, np.arange(4), np.arange(4), user_names=names), 4)
    assert last.user_ids.tolist() == ["a\0"]


def test_lists_are_padded_to_rows() -> None:
    asked = [[0, 1], [2], [], [3, 4, 5, 6]]
    padded = [[-1, 0, 1], [-1, -1, 2], [-1, -1, -1], [4, 5, 6]]
    assert as_histories("rank", "histories", asked, 7, most=3).tolist() == padded
    assert as_histories("rank", "histories", np.array(padded), 7).tolist() == padded
    assert as_histories("rank", "histories", [], 7).shape == (0, 0)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ([0, 1], TypeError),
        ([["a"]], TypeError),
        ([[0.0]], TypeError),
        ([[True]], TypeError),
        ("01", TypeError),
        ({0: [1]}, TypeError),
        (None, TypeError),
        (np.array([[0.5]]), TypeError),
        (np.array(1), TypeError),
        (torch.tensor(1), ValueError),
        (torch.tensor([1]), ValueError),
        ([[7]], ValueError),
        ([[2**70]], ValueError),
        ([[1, -1]], ValueError),
    ],
)
def test_what_is_no_history_is_refused_in_one_line(asked: Any, error: Any, refuses: Any) -> None:
    for most in (None, 3):
        with refuses("rank", "histories", error):
            as_histories("rank", "histories", asked, 7, most)


def test_odd_types_are_refused(refuses: Any) -> None:
    made: Any = Interactions
    zeros, row = np.zeros(1, np.int64), torch.zeros(1, dtype=torch.int64)
    for argument, interactions in (
        ("interactions", [[0, 1]]),
        ("user_ids", made(np.array([0.5]), zeros, zeros)),
        ("user_ids", made(np.array([None]), zeros, zeros)),
        ("item_ids", made(zeros, np.array([0.0]), zeros)),
        ("item_ids", made(zeros, np.array(["a"]), zeros)),
        ("positions", made(zeros, zeros, np.array(["first"]))),
    ):
        with refuses("Histories.of", argument, TypeError):
            Histories.of(interactions, 3)
    with refuses("Histories.of", "num_items", TypeError):
        Histories.of(made(zeros, zeros, zeros), "3")  # type: ignore[arg-type]
    with refuses("Histories.of", "item_ids"):
        Histories.of(made(zeros, np.zeros(2, np.int64), zeros), 3)
    for argument, error, fields in (
        ("offsets", TypeError, ([0, 1], row, row)),
        ("items", ValueError, (torch.tensor([0, 1]), row.float(), row)),
        ("offsets", ValueError, (torch.tensor([0, 2]), row, row)),
        ("offsets", ValueError, (torch.tensor([0, 2, 1]), row, torch.tensor([0, 1]))),
        ("user_ids", TypeError, (torch.tensor([0, 1]), row, ["ann"])),
        ("user_ids", TypeError, (torch.tensor([0, 1]), row, np.array([None]))),
        ("user_ids", TypeError, (torch.tensor([0, 1]), row, np.array("ann"))),
    ):
        with refuses("Histories", argument, error):
            Histories(*fields)  # type: ignore[arg-type]
    for argument, error, lists, users in (
        ("lists", TypeError, [0, 1], None),
        ("lists", ValueError, [[-1]], None),
        ("user_ids", ValueError, [[1]], [1, 2]),
        ("user_ids", TypeError, [[1]], [1.5]),
    ):
        with refuses("Histories.from_lists", argument, error):
            Histories.from_lists(lists, users)  # type: ignore[arg-type]
    with refuses("Queries", "histories", TypeError):
        Queries([[0]], row, row)  # type: ignore[arg-type]
    with refuses("Queries", "users"):
        Queries(row[None], row, torch.tensor([0, 1]))
    with refuses("Queries", "cold", TypeError):
        Queries(row[None], row, row, [True])  # type: ignore[arg-type]
    for cold in (row, torch.tensor([True, False])):
        with refuses("Queries", "cold"):
            Queries(row[None], row, row, cold)
