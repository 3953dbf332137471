"""The prefix trie against dictionaries of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unitok.ids.trie import PrefixTrie


def made_tokens(rows: int, length: int, high: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, (rows, length), generator=torch.Generator().manual_seed(seed))


SHAPES = [(1, 1, 1), (1, 4, 9), (7, 1, 3), (200, 4, 3), (200, 3, 60000), (50, 0, 1), (64, 2, 1)]


@pytest.mark.parametrize(("rows", "length", "high"), SHAPES)
def test_every_prefix_is_there_once_with_its_rows_and_tokens(rows: int, length: int, high: int) -> None:
    tokens = made_tokens(rows, length, high)
    table = [tuple(row) for row in tokens.tolist()]
    below: dict[tuple[int, ...], list[int]] = {}
    for row, token in enumerate(table):
        for depth in range(length + 1):
            below.setdefault(token[:depth], []).append(row)
    trie = PrefixTrie.build(tokens)
    assert trie.num_nodes == len(below)
    nodes = {prefix: trie.walk(prefix) for prefix in below}
    assert sorted(nodes.values()) == list(range(trie.num_nodes))
    assert sorted(below, key=lambda prefix: (len(prefix), prefix)) == sorted(nodes, key=nodes.get)
    for prefix, node in nodes.items():
        expected = sorted(below[prefix], key=lambda row: (table[row], row))
        assert trie.rows(node).tolist() == expected
        assert trie.rows(prefix).tolist() == expected
        next_tokens, next_nodes = trie.children(node)
        assert next_tokens.tolist() == sorted({p[-1] for p in below if len(p) > len(prefix) and p[:-1] == prefix})
        assert next_nodes.tolist() == [nodes[(*prefix, token)] for token in next_tokens.tolist()]
    assert trie.depth_starts[-1] == trie.num_nodes
    assert len(trie.depth_starts) == length + 2


def test_prefixes_that_do_not_occur_lead_nowhere() -> None:
    trie = PrefixTrie.build(np.array([[1, 2, 3], [1, 4, 3]], dtype=np.uint8))
    assert trie.walk([]) == 0
    assert trie.walk([2]) is None
    assert trie.walk([1, 9]) is None
    assert trie.walk([1, 2, 3, 0]) is None
    assert trie.walk([4, 3], node=trie.walk([1])) == trie.walk([1, 4, 3])
    assert trie.rows([2]).tolist() == []


@pytest.mark.parametrize("node", [-1, 5])
def test_nodes_that_are_not_there_are_refused(node: int) -> None:
    trie = PrefixTrie.build(np.array([[1, 2], [1, 4]]))
    for use in (trie.children, trie.rows, lambda node: trie.walk([], node)):
        with pytest.raises(IndexError, match=rf"node must be in \[0, 4\), got {node}"):
            use(node)


def test_an_empty_trie_has_a_root_alone() -> None:
    trie = PrefixTrie.build(torch.zeros(0, 5, dtype=torch.int64))
    assert trie.num_nodes == 1
    assert trie.walk([]) == 0
    assert trie.walk([0]) is None
    assert trie.rows(0).tolist() == []
    assert [part.tolist() for part in trie.children(0)] == [[], []]
    with pytest.raises(IndexError, match=r"row must be in \[0, 0\), got 0"):
        trie.nearest(0, 1)


@pytest.mark.parametrize("k", [0, 1, 5, 500])
def test_nearest_share_the_longest_prefix(k: int) -> None:
    table = made_tokens(200, 4, 3).tolist()
    trie = PrefixTrie.build(torch.tensor(table))
    for row in range(0, 200, 7):
        shared = [
            next((d for d in range(4) if other[d] != table[row][d]), 4) if i != row else 0
            for i, other in enumerate(table)
        ]
        others = [i for i in range(200) if shared[i]]
        others.sort(key=lambda i: (-shared[i], table[i], i))
        rows, lengths = trie.nearest(row, k)
        assert rows.tolist() == others[:k]
        assert lengths.tolist() == [shared[i] for i in others[:k]]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"integer matrix .* of shape \(3,\)"),
        (torch.zeros(3, 2), r"integer matrix .* got float32"),
        (torch.tensor([[0, 1], [0, -1]]), r"got \[0, -1\] in row 1"),
        (torch.tensor([[2**31, 1]]), r"got \[2147483648, 1\] in row 0"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrefixTrie.build(tokens)


def test_memory_is_plain_int32() -> None:
    trie = PrefixTrie.build(made_tokens(1000, 4, 8))
    assert {a.dtype for a in (trie.offsets, trie.tokens, trie.row_order, trie.row_starts)} == {np.dtype(np.int32)}
