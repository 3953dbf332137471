"""A prefix trie over token rows, in plain arrays (compressed sparse rows), without a Python object per node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrefixTrie:
    """All prefixes of N token rows of equal length T; `PrefixTrie.build` makes one.

    Node 0 is the root. Nodes are numbered by depth, and in lexicographic order within a depth. So edge j leads to
    node j + 1, and the rows below a node are adjacent in `row_order`.

    Args:
        offsets: (nodes + 1,) int32; the edges of node v are offsets[v] .. offsets[v + 1].
        tokens: (nodes - 1,) int32, the token of each edge, ascending within a node.
        row_order: (N,) int32, the rows in lexicographic order, rows of equal tokens in the order of their numbers.
        row_starts: (nodes,) int32, where the rows below each node begin in `row_order`.
        depth_starts: (T + 2,) int64, the first node of each depth, then the number of nodes.

    Source: UniTok.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    row_order: np.ndarray
    row_starts: np.ndarray
    depth_starts: np.ndarray

    @classmethod
    def build(cls, tokens: Tensor | np.ndarray) -> PrefixTrie:
        """Build the trie of a token matrix, such as `SemanticIds.tokens()`; row i is item i.

        Args:
            tokens: (N, T) integer in [0, 2^31), N T < 2^31; rows may repeat.

        Returns:
            The trie; with N = 0 only the root.

        Raises:
            ValueError: another shape, a value out of range, or too many of them.

        Source: UniTok.
        """
        table = np.asarray(tokens)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer) or table.size >= 2**31:
            raise ValueError(
                f"PrefixTrie.build: tokens must be an integer matrix of under 2^31 entries, got {table.dtype} of "
                f"shape {table.shape}. Pass SemanticIds.tokens()."
            )
        outside = np.flatnonzero(((table < 0) | (table >= 2**31)).any(axis=1))
        if outside.size:
            raise ValueError(
                f"PrefixTrie.build: tokens must be in [0, 2^31), got {table[outside[0]].tolist()} in row "
                f"{outside[0]}. Leave out the rows that could not be encoded."
            )
        rows, length = table.shape
        order = np.lexsort(table.T[::-1]) if length else np.arange(rows)
        # A row begins a new node at depth t + 1 where it differs from the row before in one of tokens 0 .. t.
        begins = np.zeros(rows, dtype=bool)
        begins[:1] = True
        starts, edge_tokens, fan_out = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], []
        for column in table.T:
            parent = np.cumsum(begins) - 1 if len(starts) > 1 else np.zeros(rows, dtype=np.int64)
            column = column[order]
            begins[1:] |= column[1:] != column[:-1]
            first = np.flatnonzero(begins)
            fan_out.append(np.bincount(parent[first], minlength=len(starts[-1])))
            starts.append(first)
            edge_tokens.append(column[first])
        fan_out.append(np.zeros(len(starts[-1]), dtype=np.int64))
        return cls(
            offsets=np.concatenate([[0], *fan_out]).cumsum().astype(np.int32),
            tokens=np.concatenate(edge_tokens).astype(np.int32),
            row_order=order.astype(np.int32),
            row_starts=np.concatenate(starts).astype(np.int32),
            depth_starts=np.cumsum([0, *map(len, starts)]),
        )

    @property
    def num_nodes(self) -> int:
        """The number of distinct prefixes, including the empty one."""
        return len(self.row_starts)

    def children(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """Look up what can follow a node: tokens[offsets[v] .. offsets[v + 1]]; edge j leads to node j + 1.

        Args:
            node: the node v, in [0, num_nodes).

        Returns:
            The M tokens, ascending, and the nodes that they lead to; (M,) int32 both.

        Raises:
            IndexError: there is no such node.

        Source: UniTok.
        """
        self._check_node("children", node)
        first, end = self.offsets[node], self.offsets[node + 1]
        return self.tokens[first:end], np.arange(first + 1, end + 1, dtype=np.int32)

    def walk(self, prefix: Sequence[int], node: int = 0) -> int | None:
        """Follow the tokens of a prefix.

        Args:
            prefix: any number of tokens.
            node: the node to start at; 0 is the root.

        Returns:
            The node that they lead to, or None if no row has this prefix.

        Raises:
            IndexError: there is no such node.

        Source: UniTok.
        """
        self._check_node("walk", node)
        for token in prefix:
            tokens, nodes = self.children(node)
            edge = int(np.searchsorted(tokens, token))
            if edge == len(tokens) or tokens[edge] != token:
                return None
            node = int(nodes[edge])
        return node

    def rows(self, at: int | Sequence[int]) -> np.ndarray:
        """Find the rows below a node or a prefix.

        Args:
            at: a node in [0, num_nodes), or the tokens of a prefix.

        Returns:
            (M,) int32, the rows as counted in `build`, in lexicographic order; none if the prefix doesn't occur.

        Raises:
            IndexError: there is no such node.

        Source: UniTok.
        """
        node = int(at) if isinstance(at, int | np.integer) else self.walk(at)
        self._check_node("rows", node or 0)
        return self.row_order[slice(*self._span(node))] if node is not None else self.row_order[:0]

    def nearest(self, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k other rows that share the longest prefix with a row.

        Rows that share equally long prefixes come in lexicographic order; rows that share nothing are left out.

        Args:
            row: the row, as counted in `build`.
            k: how many to return at most.

        Returns:
            rows (at most k,) int32, and the number of tokens each shares with `row` (at most k,) int64, most first.

        Raises:
            IndexError: there is no such row.

        Source: UniTok.
        """
        if not 0 <= row < len(self.row_order):
            raise IndexError(f"nearest: row must be in [0, {len(self.row_order)}), got {row}. Use a row of build().")
        position = int(self._positions[row])
        inner = (position, position + 1)
        found, shared = [self.row_order[:0]], [np.zeros(0, dtype=np.int64)]
        for depth in range(len(self.depth_starts) - 2, 0, -1):
            low, high = self.depth_starts[depth], self.depth_starts[depth + 1]
            outer = self._span(int(low + np.searchsorted(self.row_starts[low:high], position, side="right") - 1))
            ring = (self.row_order[outer[0] : inner[0]][:k], self.row_order[inner[1] : outer[1]][:k])
            new = np.concatenate(ring)[:k]
            found.append(new)
            shared.append(np.full(len(new), depth))
            k, inner = k - len(new), outer
            if not k:
                break
        return np.concatenate(found), np.concatenate(shared)

    def _check_node(self, what: str, node: int) -> None:
        if not 0 <= node < self.num_nodes:
            raise IndexError(f"{what}: node must be in [0, {self.num_nodes}), got {node}. Use one of walk() or 0.")

    def _span(self, node: int) -> tuple[int, int]:
        """Where the rows below a node begin and end in `row_order`."""
        # The next node of the same depth begins where this one ends; the first node of a depth begins at 0.
        end = int(self.row_starts[node + 1]) if node + 1 < self.num_nodes else 0
        return int(self.row_starts[node]), end or len(self.row_order)

    @cached_property
    def _positions(self) -> np.ndarray:
        positions = np.empty_like(self.row_order)
        positions[self.row_order] = np.arange(len(self.row_order), dtype=np.int32)
        return positions
