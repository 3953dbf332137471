"""The suffixes of items that share an ID, over all shards at once, with memory for a part of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unitok_kernels.rules import fail

_AT_ONCE = 2**23  # rows that are compared at a time
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
        names: gives the names of a shard's items, N texts.
        at_once: about how many rows are compared at a time.

    Returns:
        For each shard (N,), the suffixes.

    Raises:
        ValueError: two items of one ID and one name.
    """
    found = [np.zeros(len(rows), np.int32) for rows in packed]
    parts = max(1, -(-sum(map(len, packed)) // at_once))
    shared = np.concatenate([_shared(packed, part, parts) for part in range(parts)], axis=1)
    shared = shared[:, np.argsort(shared[0], kind="stable")]
    shards, counts = np.unique(shared[0], return_counts=True)
    if not len(shards):
        return found
    places = np.split(shared[1], np.cumsum(counts)[:-1])
    texts = [names(shard).take(pa.array(rows)) for shard, rows in zip(shards.tolist(), places, strict=True)]
    table = pa.table({"group": shared[2], "name": pa.chunked_array(texts)})
    order = pc.sort_indices(table, sort_keys=[("group", "ascending"), ("name", "ascending")]).to_numpy()
    group = shared[2][order]
    _check_distinct(group, table["name"].take(pa.array(order)).combine_chunks())
    begins = np.append(True, group[1:] != group[:-1])
    rank = np.arange(len(group)) - np.maximum.accumulate(np.where(begins, np.arange(len(group)), 0))
    ranks = np.empty_like(rank)
    ranks[order] = rank
    for shard, rows, own in zip(shards.tolist(), places, np.split(ranks, np.cumsum(counts)[:-1]), strict=True):
        found[shard][rows] = own
    return found


def _shared(packed: Sequence[Packed], part: int, parts: int) -> NDArray[np.int64]:
    """The rows of a part whose ID another row has, too: (3, M), their shard, their row, and a number of the ID."""
    tokens, shard, row = [], [], []
    for place, rows in enumerate(packed):
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


def _hash(tokens: Packed) -> NDArray[np.uint64]:
    found = np.zeros(len(tokens), np.uint64)
    for column in tokens.T:
        found = (found ^ column) * np.uint64(_MIX)
    return found >> np.uint64(32)


def _check_distinct(group: NDArray[np.int64], name: pa.Array) -> None:
    """Refuse two items of one ID and one name, which nothing tells apart."""
    if len(group) < 2:
        return
    alike = (group[1:] == group[:-1]) & pc.equal(name[1:], name[:-1]).to_numpy(zero_copy_only=False)
    if alike.any():
        twice = name[int(np.flatnonzero(alike)[0])].as_py()
        fail("tokenize", "source_id", "distinct", f"{twice!r} more than once", "Give each item its own.")
