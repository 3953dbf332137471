"""Vectors of behaviour: cosines of PPMI rows, made of the training items alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unitok.data import behaviour
from unitok.recommender import Histories


def walks(users: int = 150, num_items: int = 40, seed: int = 0) -> list[list[int]]:
    """Users who stay among the first or the second half of the items."""
    generator = torch.Generator().manual_seed(seed)
    half = num_items // 2
    return [(torch.randint(half, (6,), generator=generator) + half * (user % 2)).tolist() for user in range(users)]


def cosines_by_definition(lists: list[list[int]], num_items: int) -> Tensor:
    counts = torch.zeros(num_items, num_items, dtype=torch.float64)
    for items in lists:
        kept = items[:-2] if len(items) > 2 else items
        for place, a in enumerate(kept):
            for span in range(1, 6):
                if place + span < len(kept) and kept[place + span] != a:
                    b = kept[place + span]
                    counts[a, b] += 0.7 ** (span - 1)
                    counts[b, a] += 0.7 ** (span - 1)
    met, ppmi = counts.sum(1), torch.zeros_like(counts)
    for a, b in counts.nonzero().tolist():
        ppmi[a, b] = max(0.0, math.log(counts[a, b] * counts.sum() / (met[a] * met[b])))
    rows = torch.nn.functional.normalize(ppmi, dim=1)
    return (rows @ rows.T).float()


def test_vectors_are_as_near_as_rows_of_ppmi() -> None:
    lists = [*walks(40, 12), [0, 5], [3], [7, 7, 7, 7, 7]]
    found = behaviour(Histories.from_lists(lists), 12, width=12)
    torch.testing.assert_close(found @ found.T, cosines_by_definition(lists, 12), atol=1e-5, rtol=0)


def test_fewer_columns_keep_the_main_directions() -> None:
    found = behaviour(Histories.from_lists(walks()), 40, width=4)
    assert found.shape == (40, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))
    cosines = found @ found.T
    assert cosines[:20, :20].mean() > 0.5
    assert cosines[20:, 20:].mean() > 0.5
    assert cosines[:20, 20:].abs().max() < 0.01  # nobody went from one half to the other


def test_an_interaction_among_the_last_two_of_a_user_changes_nothing() -> None:
    lists = walks()
    expected = behaviour(Histories.from_lists(lists), 40)
    for place in (-1, -2):
        planted = [list(items) for items in lists]
        planted[3][place] = 0  # which is of the other half
        assert torch.equal(behaviour(Histories.from_lists(planted), 40), expected)
    planted[3][-3] = 0
    assert not torch.equal(behaviour(Histories.from_lists(planted), 40), expected)


def test_items_that_are_in_no_transition_have_no_vector() -> None:
    lists = [[0, 1, 2, 5, 6], [1, 0, 2, 6, 5], [3], [4, 4, 4, 1, 2]]  # 5 and 6 only as targets
    found = behaviour(Histories.from_lists(lists), 8, width=3)
    assert found.isnan().all(1).tolist() == found.isnan().any(1).tolist()
    assert found.isnan().all(1).tolist() == [False, False, False, True, True, True, True, True]
    assert behaviour(Histories.from_lists([[2], [5]]), 6).isnan().all()
    assert behaviour(Histories.from_lists([]), 2).isnan().all()


def test_equal_histories_give_equal_vectors_and_a_wider_one_ends_in_zeros() -> None:
    histories = Histories.from_lists(walks())
    state = torch.get_rng_state()
    once = behaviour(histories, 40)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(behaviour(histories, 40), once)
    assert once.shape == (40, 64)
    assert not once[:, 40:].any()


def test_what_does_not_fit_is_refused(refuses) -> None:
    histories = Histories.from_lists(walks())
    with refuses("behaviour", "histories", TypeError):
        behaviour([[1, 2]], 40)
    with refuses("behaviour", "histories"):
        behaviour(histories, 39)
    with refuses("behaviour", "num_items", TypeError):
        behaviour(histories, 40.0)
    for width in (0, -1):
        with refuses("behaviour", "width"):
            behaviour(histories, 40, width=width)


def test_no_items_have_no_vectors() -> None:
    assert behaviour(Histories.from_lists([]), 0, width=5).shape == (0, 5)
