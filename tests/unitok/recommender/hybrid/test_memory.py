"""The memory of transitions: what it recalls, whose own transitions it leaves out, and how it grows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unitok.recommender import Histories
from unitok.recommender.hybrid.memory import TransitionMemory

NUM_ITEMS = 30


def histories(seed: int = 0, users: int = 40) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randint(NUM_ITEMS, (int(torch.randint(2, 15, (), generator=draw)),), generator=draw).tolist()
        for _ in range(users)
    ]


def memory(lists: list[list[int]]) -> TransitionMemory:
    return TransitionMemory(NUM_ITEMS).observed(Histories.from_lists(lists))


def padded(lists: list[list[int]]) -> Tensor:
    width = max(map(len, lists))
    return torch.tensor([own + [-1] * (width - len(own)) for own in lists])


def by_hand(lists: list[list[int]], history: list[int], num_items: int = NUM_ITEMS) -> list[float]:
    """What is recalled after a history: a chain of reach 5 and decays .7, whose rows sum to 1, step by step."""
    recalled = [0.0] * num_items
    for back, source in enumerate(reversed(history)):
        came = [0.0] * num_items
        for own in lists:
            for at, item in enumerate(own):
                if item == source:
                    for span, later in enumerate(own[at + 1 : at + 6]):
                        came[later] += 0.7**span
        if total := sum(came):
            recalled = [kept + 0.7**back * weight / total for kept, weight in zip(recalled, came, strict=True)]
    return recalled


def test_it_recalls_what_came_after_the_items_of_a_history() -> None:
    lists = histories()
    expected = torch.tensor([by_hand(lists, own) for own in lists])
    torch.testing.assert_close(memory(lists).after(padded(lists)), expected)


def test_in_training_a_user_is_told_what_others_did_alone() -> None:
    lists = histories()
    found = memory(lists).before_each(padded(lists))
    for user, own in enumerate(lists):
        others = memory(lists[:user] + lists[user + 1 :])
        assert not found[user, 0].any()
        for place in range(1, len(own)):
            torch.testing.assert_close(found[user, place], others.after(torch.tensor([own[:place]]))[0])


def test_some_items_are_recalled_as_among_all() -> None:
    lists, among = histories(), torch.tensor([29, 3, 4, 17])
    found, every = memory(lists).before_each(padded(lists), among), memory(lists).before_each(padded(lists))
    assert found.any()
    assert found.equal(every[:, :, among])


def test_what_is_observed_later_counts_as_if_it_had_been_there() -> None:
    lists, more = histories(), histories(seed=1, users=7)
    before = memory(lists)
    grown = before.observed(Histories.from_lists(more))
    assert before.value.equal(memory(lists).value)
    whole = memory(lists + more)
    assert grown.offsets.equal(whole.offsets)
    assert grown.items.equal(whole.items)
    torch.testing.assert_close(grown.value, whole.value)


@pytest.mark.parametrize("new", [1, 2, 20])
def test_new_events_of_known_users_are_counted_once(new: int) -> None:
    lists = histories()
    grown = memory([own[:-new] for own in lists]).observed(Histories.from_lists(lists), new=new)
    whole = memory(lists)
    assert grown.items.equal(whole.items)
    torch.testing.assert_close(grown.value, whole.value)


def test_room_for_more_items_changes_nothing_for_those_that_were_there() -> None:
    lists = histories()
    made = memory(lists)
    before = made.after(padded(lists))
    after = made.grown(NUM_ITEMS + 3).after(padded(lists))
    assert after[:, :NUM_ITEMS].equal(before)
    assert not after[:, NUM_ITEMS:].any()


def test_an_empty_memory_recalls_nothing() -> None:
    made = TransitionMemory(3).observed(Histories.from_lists([]))
    assert not made.after(torch.tensor([[0, 1]])).any()
    assert not made.before_each(torch.tensor([[0, 1], [2, -1]])).any()


def test_loaded_weights_bring_their_sums() -> None:
    one, other = memory([[0, 1]]), memory([[0, 1], [0, 1]])
    assert len(one.value) == len(other.value)
    one.load_state_dict(other.state_dict())
    assert one.mass.equal(other.mass)
    assert float(one.mass[0]) == 2.0


@pytest.mark.parametrize(
    "broken",
    [
        {"offsets": torch.tensor([0, 2, 1])},
        {"items": torch.tensor([1, 2], dtype=torch.int32)},
        {"items": torch.tensor([1, 0])},
        {"value": torch.ones(1, dtype=torch.float64)},
        {"value": torch.tensor([1.0, torch.nan], dtype=torch.float64)},
        {"value": torch.tensor([1.0, -1.0], dtype=torch.float64)},
        {"offsets": torch.tensor([0, 2, 2])},  # in row 0 item 1 comes before item 0
    ],
)
def test_transitions_that_cannot_be_are_refused(broken: dict[str, Tensor]) -> None:
    whole = {"offsets": torch.tensor([0, 1, 2]), "items": torch.tensor([1, 0], dtype=torch.int32)}
    whole["value"] = torch.ones(2, dtype=torch.float64)
    assert TransitionMemory.of(**whole).after(torch.tensor([[0]])).tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match="transitions"):
        TransitionMemory.of(**whole | broken)
