"""Histories: training, validation and test are split leave-one-out, and none sees what is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unitok.data import Interactions, read_interactions
from unitok.recommender import Histories


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
