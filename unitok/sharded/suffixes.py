"""What is told over all shards at once, with memory for a part of them at a time: suffixes, and names that repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_AT_ONCE = 2**23  # rows that are compared at a time
_NAMES_AT_ONCE = 2**16
_MIX = 0x9E3779B97F4A7C15  # odd, with bits as if drawn

Packed = NDArray[np.uint8] | NDArray[np.uint16]


def suffixes(
    packed: Sequence[Packed], names: Callable[[int], pa.Array], at_once: int = _AT_ONCE
) -> list[NDArray[np.int32]]:
    """Number the items of each ID in the order of their names, as `SemanticIds.assign` does with the resolver suffix.

    IDs are parted by a hash, and one part is compared at a time. Names are read of one shard at a time, and kept of
    items that share an ID alone.

    Args:
        packed: for each shard (N, T), the tokens of its items' IDs, in an array or a memory map.
        names: gives the names of a shard's items, N texts or N integers, distinct over all shards.
        at_once: about how many rows are compared at a time.

    Returns:
        For each shard (N,), the suffixes.
    """
    found = [np.zeros(len(rows), np.int32) for rows in packed]
    shared, table = _alike(packed, names, at_once)
    order = pc.sort_indices(table, sort_keys=[("group", "ascending"), ("name", "ascending")]).to_numpy()
    group = shared[2][order]
    begins = np.append(True, group[1:] != group[:-1])[: len(group)]
    rank = np.arange(len(group)) - np.maximum.accumulate(np.where(begins, np.arange(len(group)), 0))
    for place in np.unique(shared[0]).tolist():
        own = shared[0][order] == place
        found[place][shared[1][order][own]] = rank[own]
    return found


def repeated(
    hashes: Sequence[NDArray[np.uint64]], names: Callable[[int], pa.Array], at_once: int = _AT_ONCE
) -> tuple[str, list[tuple[int, int]]] | None:
    """Find a name that two items have.

    Args:
        hashes: for each shard (N,), of its items' names.
        names: gives the names of a shard's items.
        at_once: about how many rows are compared at a time.

    Returns:
        The name, and shard and row of two of its items; None if no name is there twice.
    """
    shared, table = _alike([own[:, None] for own in hashes], names, at_once)
    order = pc.sort_indices(table, sort_keys=[("group", "ascending"), ("name", "ascending")]).to_numpy()
    group, name = shared[2][order], table["name"].take(pa.array(order)).combine_chunks()
    equal = pc.equal(name[1:], name[:-1]).to_numpy(zero_copy_only=False) if len(name) else np.zeros(0, bool)
    twice = np.flatnonzero((group[1:] == group[:-1]) & equal)
    if not len(twice):
        return None
    where = sorted(tuple(shared[:2, row].tolist()) for row in order[twice[0] : twice[0] + 2])
    return str(name[int(twice[0])].as_py()), where


def hashed(names: pa.Array) -> NDArray[np.uint64]:
    """A number for each name, N texts or integers; equal for equal names, and hardly ever for others."""
    if pa.types.is_integer(names.type):
        return np.asarray(names.to_numpy().astype(np.uint64))
    found = np.empty(len(names), np.uint64)
    for start in range(0, len(names), _NAMES_AT_ONCE):
        texts = pa.concat_arrays([names.slice(start, _NAMES_AT_ONCE)]).cast(pa.large_binary())
        _, offsets, content = texts.buffers()
        ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        letters = np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]].astype(np.uint64) + np.uint64(1)
        ends = ends - ends[0]
        # A polynomial per text, modulo 2^64: the differences of one running sum, each shifted back to its beginning.
        powers = np.cumprod(np.append(np.uint64(1), np.full(len(letters), _MIX, np.uint64)))
        back = np.cumprod(np.append(np.uint64(1), np.full(len(letters), pow(_MIX, -1, 2**64), np.uint64)))
        sums = np.append(np.uint64(0), np.cumsum(letters * powers[:-1]))
        found[start : start + len(texts)] = (sums[ends[1:]] - sums[ends[:-1]]) * back[ends[:-1]]
    return found


def _alike(
    tokens: Sequence[NDArray[Any]], names: Callable[[int], pa.Array], at_once: int
) -> tuple[NDArray[np.int64], pa.Table]:
    """The rows whose tokens another row has, too: (3, M) as `_shared` gives them, by shard, and a table with names."""
    parts = max(1, -(-sum(map(len, tokens)) // at_once))
    shared = np.concatenate([_shared(tokens, part, parts) for part in range(parts)], axis=1)
    shared = shared[:, np.argsort(shared[0], kind="stable")]
    texts = [names(place).take(pa.array(shared[1][shared[0] == place])) for place in np.unique(shared[0]).tolist()]
    return shared, pa.table({"group": shared[2], "name": pa.chunked_array(texts, None if texts else pa.string())})


def _shared(given: Sequence[NDArray[Any]], part: int, parts: int) -> NDArray[np.int64]:
    """The rows of a part whose tokens another row has, too: (3, M), their shard, their row, a number of the tokens."""
    tokens, shard, row = [], [], []
    for place, rows in enumerate(given):
        own = np.flatnonzero(_hash(rows) % np.uint64(parts) == part) if parts > 1 else np.arange(len(rows))
        tokens.append(np.asarray(rows)[own])
        shard.append(np.full(len(own), place))
        row.append(own)
    every = np.concatenate(tokens)
    order = np.lexsort(every.T)
    differs = (every[order][1:] != every[order][:-1]).any(1)
    number = np.append(0, np.cumsum(differs))[: len(every)]
    crowded = np.bincount(number, minlength=1)[number] > 1
    group = number[crowded] * parts + part
    return np.stack([np.concatenate(shard)[order][crowded], np.concatenate(row)[order][crowded], group])


def _hash(tokens: NDArray[Any]) -> NDArray[np.uint64]:
    found = np.zeros(len(tokens), np.uint64)
    for column in tokens.T:
        found = (found ^ column) * np.uint64(_MIX)
    return found >> np.uint64(32)
