"""Who shares a semantic ID, and how those items are told apart: what `SemanticIds.assign` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from unitok.semantic_id import SemanticIds

Key = int | str

RESOLVERS = ("suffix", "reassign", "none")
_DISTANCES_AT_ONCE = 2**20  # elements of the (movers, K) table that "reassign" holds at a time: 8 MiB


@dataclass(frozen=True, eq=False)
class AssignedIds:
    """Item keys and the IDs that `SemanticIds.assign` gave them, for a later `assign(existing=...)` to keep.

    Args:
        item_keys: N distinct integers or strings.
        ids: (N) the IDs of those items, in the same order.

    Source: UniTok.
    """

    item_keys: Sequence[Key] | np.ndarray | Tensor
    ids: SemanticIds


def row_groups(rows: Tensor) -> Tensor:
    """Number the distinct rows of an integer matrix in lexicographic order.

    groups[i] = how many distinct rows are smaller than row i, so equal rows, and only they, share a number.

    Args:
        rows: (N, T) integer, any values.

    Returns:
        (N,) int64, dense: 0 .. number of distinct rows - 1.

    Raises:
        ValueError: rows is not a matrix.

    Source: UniTok.
    """
    if rows.ndim != 2:
        raise ValueError(f"row_groups: rows must be (N, T), got shape {tuple(rows.shape)}. Stack one row an item.")
    groups = torch.zeros(len(rows), dtype=torch.int64)
    if not len(rows):
        return groups
    # A column is one digit of a mixed-radix number, which one int64 sort orders; ranks stand in on overflow.
    span = 1
    for column in rows.long().unbind(1):
        low, size = int(column.min()), int(column.max()) - int(column.min()) + 1
        if size >= 2**31:
            column, low, size = _ranks(column), 0, len(rows)
        if span * size >= 2**63:
            groups, span = _ranks(groups), len(rows)
        groups, span = groups * size + (column - low), span * size
    return _ranks(groups)


def _ranks(values: Tensor) -> Tensor:
    ranks: Tensor = torch.unique(values, return_inverse=True)[1]
    return ranks


def _rank_in_group(groups: Tensor, keys: Sequence[Key]) -> Tensor:
    """Rank every row by its key among the rows of its group; 0 for a row that is alone.

    Only rows in company are sorted, so all but two counts is work on the colliding items alone.
    """
    ranks = torch.zeros_like(groups)
    crowded = (torch.bincount(groups)[groups] > 1).nonzero()[:, 0].tolist()
    by_key = torch.tensor(sorted(crowded, key=keys.__getitem__), dtype=torch.int64)
    rows = by_key[torch.argsort(groups[by_key], stable=True)]
    sizes = torch.unique_consecutive(groups[rows], return_counts=True)[1]
    ranks[rows] = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return ranks


def resolve(
    ids: SemanticIds,
    item_keys: Sequence[Key] | np.ndarray | Tensor,
    resolver: str | None,
    existing: AssignedIds | None,
) -> SemanticIds:
    """Tell items that share an ID apart: `SemanticIds.assign`, which documents it.

    Args:
        ids: the IDs of N items.
        item_keys: N distinct integers or strings.
        resolver: one of RESOLVERS, or None.
        existing: an earlier assignment to keep, or None.

    Returns:
        SemanticIds: with a suffix unless resolver is "none".

    Raises:
        ValueError: as `SemanticIds.assign` does.
        TypeError: keys that are neither all integers nor all strings.

    Source: TIGER, arXiv 2305.05065, for the suffix; UniTok.
    """
    if resolver not in (None, *RESOLVERS):
        raise ValueError(f"assign: resolver must be one of {', '.join(RESOLVERS)}, got {resolver!r}. Choose one.")
    keys = _checked_keys("item_keys", item_keys, len(ids))
    if resolver in (None, "none"):
        return ids
    ids.check_encoded("assign")
    known, known_keys = replace(ids[:0], suffix=None), list[Key]()
    if existing is not None:
        known = existing.ids
        known_keys = _checked_keys("existing.item_keys", existing.item_keys, len(known))
        _check_existing(ids, keys, known, known_keys)
    known_ids, own_ids = _top1(known), _top1(ids)
    row_of = {key: row for row, key in enumerate(known_keys)}
    match = torch.tensor([row_of.get(key, -1) for key in keys], dtype=torch.int64)
    seen, new = (match >= 0).nonzero()[:, 0], (match < 0).nonzero()[:, 0]
    _check_unchanged(own_ids[seen], known_ids, match[seen], [keys[row] for row in seen.tolist()], resolver)
    new_keys = [keys[row] for row in new.tolist()]

    # From here on one table holds everything that has an ID: the known rows first, then the newcomers.
    table = torch.cat([known_ids, own_ids[new]])
    if resolver == "reassign":
        table[:, ids.num_levels - 1] = _reassigned(table, len(known), new_keys, ids[new])
    groups = row_groups(table)
    known_suffix = torch.zeros(len(known), dtype=torch.int64) if known.suffix is None else known.suffix
    # A number computed from an item alone (a hash) is unique only if it is large, and a rank within the group
    # moves when a smaller key arrives: an append-only suffix needs memory. So newcomers count on from the
    # largest number of their group; gaps below it, left by removed items, stay empty.
    free = torch.zeros(len(table), dtype=torch.int64)
    free.scatter_reduce_(0, groups[: len(known)], known_suffix + 1, reduce="amax")
    new_groups = groups[len(known) :]

    codes, suffix = ids.codes.clone(), torch.empty(len(ids), dtype=torch.int64)
    codes[seen], suffix[seen] = known.codes[match[seen]], known_suffix[match[seen]]
    codes[new] = table[len(known) :, : ids.num_levels]
    suffix[new] = free[new_groups] + _rank_in_group(new_groups, new_keys)
    slot_codes = ids.slot_codes
    if slot_codes is not None:
        slot_codes = torch.cat([codes[:, None], slot_codes[:, 1:]], dim=1)
    return replace(ids, codes=codes, slot_codes=slot_codes, suffix=suffix)


def _top1(ids: SemanticIds) -> Tensor:
    return torch.cat([ids.codes, ids.experts[:, :1]], dim=1)


def _checked_keys(name: str, keys: Sequence[Key] | np.ndarray | Tensor, count: int) -> list[Key]:
    """The keys as plain Python values, which sort and hash alike whatever sequence they came in."""
    plain: list[Key] = keys.tolist() if isinstance(keys, np.ndarray | Tensor) else list(keys)
    if len(plain) != count:
        raise ValueError(f"assign: {name} must be one for each of {count} rows, got {len(plain)}. Pass theirs.")
    kinds = {type(key) for key in plain}
    integers = all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds)
    if not (integers or all(issubclass(kind, str) for kind in kinds)):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"assign: {name} must be all integers or all strings, got {names}. Convert them to one.")
    if len(set(plain)) < count:
        key = Counter(plain).most_common(1)[0][0]
        raise ValueError(f"assign: {name} must be distinct, got {key!r} more than once. Give each item its own.")
    return plain


def _check_existing(ids: SemanticIds, keys: list[Key], known: SemanticIds, known_keys: list[Key]) -> None:
    want, got = (ids.num_levels, ids.codebook_size), (known.num_levels, known.codebook_size)
    if want != got:
        raise ValueError(f"assign: existing must have (L, K) = {want}, got {got}. Pass one of the same tokenizer.")
    if keys and known_keys and isinstance(keys[0], str) != isinstance(known_keys[0], str):
        raise TypeError(
            f"assign: item_keys must be of the kind of the existing ones, got {keys[0]!r} beside "
            f"{known_keys[0]!r}. Use integers in both or strings in both."
        )
    known.check_encoded("assign")
    if len(known) and int(row_groups(known.tokens()).max()) + 1 < len(known):
        raise ValueError("assign: existing must hold distinct IDs, got one twice. Pass what assign returned.")


def _check_unchanged(own: Tensor, known: Tensor, match: Tensor, keys: list[Key], resolver: str) -> None:
    """Refuse an item that is no longer encoded as it was: its old ID would stand for something else."""
    same = own == known[match]
    if resolver == "reassign":
        # A reassigned item comes back with its first choice at the last level; its holder may be gone by now.
        same[:, -2] = True
    changed = ~same.all(dim=1)
    if changed.any():
        row = int(changed.nonzero()[0, 0])
        raise ValueError(
            f"assign: the ID of the existing item {keys[row]!r} must be {tuple(known[match[row]].tolist())}, "
            f"got {tuple(own[row].tolist())}. Use its tokenizer, or leave the item out of `existing`."
        )


def _reassigned(table: Tensor, num_known: int, new_keys: Sequence[Key], new: SemanticIds) -> Tensor:
    """The table's last-level codes after each newcomer without an ID of its own took the nearest free one.

    IDs that differ in the last level alone form a family; only families with a collision are looked at. A row
    for which all K codewords are taken keeps its code.
    """
    last = new.num_levels - 1
    groups = row_groups(table)
    # The expert comes first, so that rows of one expert, which share a codebook, are met together.
    families = row_groups(torch.cat([table[:, last + 1 :], table[:, :last]], dim=1)).numpy()
    ranks = torch.zeros(len(table), dtype=torch.int64)
    ranks[num_known:] = _rank_in_group(groups[num_known:], new_keys)
    held = torch.zeros(len(table), dtype=torch.bool)
    held[groups[:num_known]] = True
    moves = (ranks > 0) | held[groups]
    moves[:num_known] = False
    movers = moves.nonzero()[:, 0].numpy()
    # Families don't touch one another, so this is the order of (ID, key) as far as it matters.
    codes = table[:, last].numpy().copy()
    movers = movers[np.lexsort((ranks.numpy()[movers], codes[movers], families[movers]))]

    crowded = np.zeros(len(table), dtype=bool)
    crowded[families[movers]] = True
    members = np.flatnonzero(crowded[families])
    members = members[np.argsort(families[members], kind="stable")]
    member_families, member_codes = families[members], codes[members]

    family, taken = -1, np.zeros(new.codebook_size, dtype=bool)
    step = max(1, _DISTANCES_AT_ONCE // new.codebook_size)
    for start in range(0, len(movers), step):
        block = movers[start : start + step]
        for row, distance in zip(block, _last_level_distances(new, block - num_known), strict=True):
            if families[row] != family:
                family = families[row]
                first, end = np.searchsorted(member_families, (family, family + 1))
                taken[:] = False
                taken[member_codes[first:end]] = True
            if not taken.all():
                codes[row] = np.where(taken, np.inf, distance).argmin()
                taken[codes[row]] = True
    return torch.from_numpy(codes)


def _last_level_distances(ids: SemanticIds, rows: np.ndarray) -> np.ndarray:
    """Distance of each row's last residual to its expert's last-level codewords: (M, K) float64."""
    index = torch.from_numpy(rows)
    if ids.last_residual is None or ids.last_codebooks is None:
        raise ValueError(
            "assign: last_residual and last_codebooks must be kept for resolver 'reassign', got None. Take "
            "the IDs fresh from the tokenizer, or resolver 'suffix'."
        )
    residual, experts = ids.last_residual[index].double(), ids.experts[index, 0]
    if not residual.isfinite().all():
        raise ValueError("assign: last_residual must be finite, got NaN or infinity. Tokenize those items again.")
    # Differences, not a matrix product: a pair's distance is then the same whatever rows are beside it, and
    # equal codewords tie exactly.
    distance = torch.empty(len(rows), ids.codebook_size, dtype=torch.float64)
    for expert in experts.unique().tolist():
        own, codebook = experts == expert, ids.last_codebooks[expert].double()
        distance[own] = torch.cdist(residual[own], codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.numpy()
