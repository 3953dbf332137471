"""Items as tokens in a vocabulary of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unitok import SemanticIds
from unitok.recommender import TokenTable


def ids(codes: list[list[int]], experts: list[int], **fields: Any) -> SemanticIds:
    made = SemanticIds(torch.tensor(codes), torch.tensor(experts)[:, None], codebook_size=4, num_experts=3, **fields)
    return made.assign(range(len(codes)))


def test_columns_have_ranges_of_their_own() -> None:
    # The expert and the suffix are one column of the pairs that there are: (0, 0), (2, 0), (2, 1).
    table = TokenTable.of(ids([[0, 3], [1, 3], [2, 0], [2, 0]], [0, 2, 2, 2]))
    assert table.tokens.tolist() == [[2, 9, 10], [3, 9, 11], [4, 6, 11], [4, 6, 12]]
    assert (table.vocab_size, table.start, table.pad, table.width) == (13, 1, 0, 3)
    assert table.names.tolist() == [0, 1, 2, 3]
    assert table.groups is not None
    assert table.groups.tolist() == [0, 1, 2, 2]


def test_a_code_of_another_expert_can_be_another_token() -> None:
    # Codes 0, 1, 2, 2 of experts 0, 2, 2, 2 and codes 3, 3, 0, 0: of the pairs that there are, 3 in each column.
    made = ids([[0, 3], [1, 3], [2, 0], [2, 0]], [0, 2, 2, 2])
    table = TokenTable.of(made, by_expert=True)
    assert table.tokens.tolist() == [[2, 5, 8], [3, 7, 9], [4, 6, 9], [4, 6, 10]]
    assert table.vocab_size == 11
    assert table.groups is not None
    assert table.groups.tolist() == [0, 1, 2, 2]
    shared = torch.tensor([[1, 1], [0, 1]])
    other = SemanticIds(torch.tensor([[3, 3], [3, 2]]), torch.tensor([[0], [1]]), 4, 2, shared_codes=shared)
    # The first code is always 3; what the expert makes of it, its own column says. Shared codes are nobody's.
    assert TokenTable.of(other, "top1_shared", by_expert=True).tokens.tolist() == [[2, 4, 7], [3, 5, 6]]


@pytest.mark.parametrize("by_expert", [False, True])
def test_items_that_came_later_get_tokens_of_the_table_or_new_ones(
    by_expert: bool, refuses: Callable[..., Any]
) -> None:
    codes, experts = [[0, 3], [1, 3], [2, 0]], [0, 2, 2]
    table = TokenTable.of(ids(codes, experts), by_expert=by_expert)
    every = ids([*codes, [1, 0], [2, 0], [0, 3]], [*experts, 2, 2, 2])
    grown = table.extended(every)
    assert grown.tokens[:3].equal(table.tokens)
    assert grown.tokens[3].tolist() == [table.tokens[1, 0], table.tokens[2, 1], table.tokens[1, 2]]
    assert grown.tokens[4].tolist() == [*table.tokens[2, :2].tolist(), table.vocab_size + by_expert]
    fresh = grown.tokens[5, 0] >= table.vocab_size  # code 0 was of expert 0 alone
    assert bool(fresh) == by_expert
    assert grown.vocab_size == len(grown.tokens.unique()) + (table.vocab_size - len(table.tokens.unique()))
    assert grown.groups is not None
    assert len(grown.groups) == 6
    with refuses("extended", "ids"):
        table.extended(ids(codes, experts))
    with refuses("extended", "ids"):
        table.extended(ids([*codes[::-1], [1, 0]], [*experts[::-1], 2]))
    with refuses("extended", "ids", TypeError):
        table.extended(every.to_text())  # type: ignore[arg-type]


def test_a_new_item_of_another_expert_shares_no_code_where_none_did() -> None:
    table = TokenTable.of(ids([[0, 1], [1, 2], [2, 3]], [0, 0, 1]), by_expert=True)
    grown = table.extended(ids([[0, 1], [1, 2], [2, 3], [0, 1]], [0, 0, 1, 2]))
    assert grown.tokens[:3].equal(table.tokens)
    assert grown.tokens[3].min() >= table.vocab_size


def test_columns_that_say_nothing_are_left_out() -> None:
    table = TokenTable.of(ids([[0, 3], [1, 3]], [1, 1]))
    assert table.tokens.tolist() == [[2], [3]]
    assert TokenTable.of(ids([[2, 1]], [1])).tokens.tolist() == [[4]]


def test_layouts_need_no_suffix() -> None:
    shared = torch.tensor([[1, 1], [0, 1]])
    made = SemanticIds(torch.tensor([[0, 3], [0, 2]]), torch.tensor([[0], [1]]), 4, 2, shared_codes=shared)
    assert TokenTable.of(made).tokens.tolist() == [[5, 6], [4, 7]]
    assert TokenTable.of(made, "top1_shared").tokens.tolist() == [[5, 6, 9], [4, 7, 8]]


def test_what_is_no_table_is_refused(refuses: Callable[..., Any]) -> None:
    with refuses("TokenTable.of", "ids"):
        TokenTable.of(ids([[0, 3]], [1])[:0])
    with pytest.raises(ValueError, match=r"TokenTable\.of: every row must have been encoded"):
        TokenTable.of(SemanticIds(torch.tensor([[-1, 0]]), torch.tensor([[0]]), 4, 3))
    for tokens, size in (
        (torch.zeros(0, 2, dtype=torch.int64), 3),
        (torch.tensor([[3]]), 3),
        (torch.tensor([[-1]]), 3),
    ):
        with refuses("TokenTable", "tokens"):
            TokenTable(tokens, size)


@pytest.mark.parametrize(
    ("argument", "error", "changes"),
    [
        ("tokens", TypeError, {"tokens": [[2], [3]]}),
        ("tokens", TypeError, {"tokens": torch.tensor([[2.0], [3.0]])}),
        ("vocab_size", TypeError, {"vocab_size": "4"}),
        ("start", ValueError, {"start": 4}),
        ("pad", ValueError, {"pad": -1}),
        ("groups", ValueError, {"groups": torch.tensor([0])}),
        ("groups", TypeError, {"groups": torch.tensor([0.0, 1.0])}),
    ],
)
def test_odd_types_and_tokens_are_refused(argument: str, error: Any, changes: Any, refuses: Callable[..., Any]) -> None:
    with refuses("TokenTable", argument, error):
        TokenTable(**{"tokens": torch.tensor([[2], [3]]), "vocab_size": 4, **changes})
    with refuses("TokenTable.items", "num_items", TypeError):
        TokenTable.items("3")  # type: ignore[arg-type]
    with refuses("TokenTable.of", "ids", TypeError):
        TokenTable.of(torch.tensor([[2]]))  # type: ignore[arg-type]
