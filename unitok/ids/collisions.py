"""Items that share a semantic ID, and how they get distinct ones: `SemanticIds.assign` on plain tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unitok.ids.rows import row_groups

Key = int | str

RESOLVERS = ("suffix", "reassign", "least_cost", "none")
MOVING = ("reassign", "least_cost")  # resolvers that give items other last-level codes than their own
CHANGED = ("fail", "keep", "renew")
DISTANCES_AT_ONCE = 2**20  # elements of the (movers, K) table that "reassign" holds at a time: 8 MiB


class Chains(NamedTuple):
    """The IDs of N items: what the resolvers need of them.

    Attributes:
        codes: (N, L) int64, of the top expert.
        experts: (N,) int64, the top expert.
        codebook_size: K.
        suffix: (N,) int64, or None if no ID has one.
        last_residual: (N, D) float32, what the last level quantises, or None.
        last_codebooks: (E, K, D) float32, the experts' last-level codebooks, or None.
    """

    codes: Tensor
    experts: Tensor
    codebook_size: int
    suffix: Tensor | None = None
    last_residual: Tensor | None = None
    last_codebooks: Tensor | None = None

    @property
    def top1(self) -> Tensor:
        """Codes and expert in one matrix: (N, L + 1)."""
        return torch.cat([self.codes, self.experts[:, None]], dim=1)


def _rank_in_group(groups: Tensor, keys: Sequence[Key]) -> Tensor:
    """Rank every row by its key among the rows of its group; 0 for a row that is alone.

    Only rows of groups with several rows are sorted, so most of the work is on the colliding items.
    """
    ranks = torch.zeros_like(groups)
    crowded = (torch.bincount(groups)[groups] > 1).nonzero()[:, 0].tolist()
    by_key = torch.tensor(sorted(crowded, key=keys.__getitem__), dtype=torch.int64)
    rows = by_key[torch.argsort(groups[by_key], stable=True)]
    sizes = torch.unique_consecutive(groups[rows], return_counts=True)[1]
    ranks[rows] = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return ranks


def resolve(
    ids: Chains, keys: list[Key], resolver: str, known: Chains, known_keys: list[Key], changed: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Give items that share an ID distinct ones; see `SemanticIds.assign`.

    Args:
        ids: the IDs of N items; every row was encoded.
        keys: the keys of the N items, from `checked_keys`.
        resolver: "suffix", "reassign" or "least_cost".
        known: an earlier assignment to keep; no rows if there is none.
        known_keys: the keys of its items, from `checked_keys`.
        changed: "fail", "keep" or "renew".

    Returns:
        codes (N, L), top experts (N,) and suffix (N,), int64.

    Raises:
        ValueError: as `SemanticIds.assign` does.
        TypeError: keys of another kind than the known ones.

    Source: TIGER, arXiv 2305.05065, for the suffix; UniTok.
    """
    _check_known(ids, keys, known, known_keys)
    levels, known_ids, own_ids = ids.codes.shape[1], known.top1, ids.top1
    match, moved = matches(ids, keys, resolver, known, known_keys)
    if changed == "fail" and len(moved):
        row, count = int(moved[0]), f"{len(moved)} that differ" if len(moved) > 1 else "one that differs"
        raise ValueError(
            f"assign: codes of existing items must be those of `existing`, got {count}: item {keys[row]!r} had "
            f"{tuple(known_ids[match[row]].tolist())} and has {tuple(own_ids[row].tolist())}. Use the tokenizer and "
            "the embeddings that they were made with, or pass changed='keep' or 'renew'."
        )
    if changed == "renew":  # what they had stays taken
        match[moved] = -1
    seen, new = (match >= 0).nonzero()[:, 0], (match < 0).nonzero()[:, 0]
    new_keys = [keys[row] for row in new.tolist()]

    # From here on one table holds everything that has an ID: the known rows first, then the newcomers.
    table = torch.cat([known_ids, own_ids[new]])
    if resolver in MOVING:
        moved_to = _reassigned if resolver == "reassign" else _at_least_cost
        table[:, levels - 1] = moved_to(table, len(known_ids), new_keys, ids, new)
    groups = row_groups(table)
    known_suffix = torch.zeros(len(known_ids), dtype=torch.int64) if known.suffix is None else known.suffix
    # A suffix must never change later. A hash of the item would be unique only if it were large, and a rank within the
    # group changes when a smaller key arrives. So newcomers count on from the largest suffix of their group; gaps
    # below it, left by removed items, stay empty.
    free = torch.zeros(len(table), dtype=torch.int64)
    free.scatter_reduce_(0, groups[: len(known_ids)], known_suffix + 1, reduce="amax")
    new_groups = groups[len(known_ids) :]

    codes, experts, suffix = ids.codes.clone(), ids.experts.clone(), torch.empty(len(keys), dtype=torch.int64)
    codes[seen], experts[seen] = known.codes[match[seen]], known.experts[match[seen]]
    suffix[seen] = known_suffix[match[seen]]
    codes[new] = table[len(known_ids) :, :levels]
    suffix[new] = free[new_groups] + _rank_in_group(new_groups, new_keys)
    return codes, experts, suffix


def matches(
    ids: Chains, keys: Sequence[Key], resolver: str | None, known: Chains, known_keys: Sequence[Key]
) -> tuple[Tensor, Tensor]:
    """Find each item among the known ones, and the items whose codes aren't the known ones any more.

    Args:
        ids: the IDs of N items.
        keys: their keys.
        resolver: those of `MOVING` gave items other last-level codes than their own, so these aren't compared.
        known: an earlier assignment.
        known_keys: the keys of its items.

    Returns:
        match (N,) int64, the known row of each item or -1, and moved (M,) int64, the rows whose codes changed.
    """
    row_of = {key: row for row, key in enumerate(known_keys)}
    match = torch.tensor([row_of.get(key, -1) for key in keys], dtype=torch.int64)
    seen = (match >= 0).nonzero()[:, 0]
    same = ids.top1[seen] == known.top1[match[seen]]
    if resolver in MOVING:
        # A reassigned item comes with its own last-level code again; the item that held that ID may be gone by now.
        same[:, -2] = True
    return match, seen[~same.all(dim=1)]


def checked_keys(what: str, name: str, keys: Sequence[Key] | np.ndarray | Tensor, count: int) -> list[Key]:
    """Return item keys as plain Python values, which sort and hash alike whatever sequence they came in.

    Args:
        what: the operation that a message names.
        name: the argument that a message names.
        keys: distinct integers, or distinct strings.
        count: how many there must be.

    Returns:
        list: the keys.

    Raises:
        ValueError: another number of keys, or one that repeats.
        TypeError: keys that are neither all integers nor all strings.
    """
    plain: list[Key] = keys.tolist() if isinstance(keys, np.ndarray | Tensor) else list(keys)
    if len(plain) != count:
        raise ValueError(f"{what}: {name} must be one for each of {count} rows, got {len(plain)}. Pass theirs.")
    kinds = {type(key) for key in plain}
    integers = all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds)
    if not (integers or all(issubclass(kind, str) for kind in kinds)):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{what}: {name} must be all integers or all strings, got {names}. Convert them to one.")
    if len(set(plain)) < count:
        key = Counter(plain).most_common(1)[0][0]
        raise ValueError(f"{what}: {name} must be distinct, got {key!r} more than once. Give each item its own.")
    return plain


def check_sizes(what: str, ids: Chains, known: Chains) -> None:
    """Refuse an earlier assignment of other sizes."""
    want, got = (ids.codes.shape[1], ids.codebook_size), (known.codes.shape[1], known.codebook_size)
    if want != got:
        raise ValueError(f"{what}: existing must have (L, K) = {want}, got {got}. Pass one of the same tokenizer.")


def _check_known(ids: Chains, keys: list[Key], known: Chains, known_keys: list[Key]) -> None:
    check_sizes("assign", ids, known)
    if keys and known_keys and isinstance(keys[0], str) != isinstance(known_keys[0], str):
        raise TypeError(
            f"assign: item_keys must be of the kind of the existing ones, got {keys[0]!r} beside "
            f"{known_keys[0]!r}. Use integers in both or strings in both."
        )
    tokens = known.top1 if known.suffix is None else torch.cat([known.top1, known.suffix[:, None]], dim=1)
    if len(tokens) and int(row_groups(tokens).max()) + 1 < len(tokens):
        raise ValueError("assign: existing must hold distinct IDs, got one twice. Pass what assign returned.")


def _reassigned(table: Tensor, num_known: int, new_keys: Sequence[Key], ids: Chains, new: Tensor) -> Tensor:
    """The table's last-level codes, after each newcomer whose ID was taken got the nearest free code.

    IDs that differ only in the last level form a family; only families with a collision are looked at. A row keeps its
    code if all K codes of its family are taken.
    """
    last = ids.codes.shape[1] - 1
    groups = row_groups(table)
    families = _families(table)
    ranks = torch.zeros(len(table), dtype=torch.int64)
    ranks[num_known:] = _rank_in_group(groups[num_known:], new_keys)
    held = torch.zeros(len(table), dtype=torch.bool)
    held[groups[:num_known]] = True
    moves = (ranks > 0) | held[groups]
    moves[:num_known] = False
    movers = moves.nonzero()[:, 0].numpy()
    # Families don't affect one another, so within each of them this is the order of (ID, key).
    codes = table[:, last].numpy().copy()
    movers = movers[np.lexsort((ranks.numpy()[movers], codes[movers], families[movers]))]

    crowded = np.zeros(len(table), dtype=bool)
    crowded[families[movers]] = True
    members = np.flatnonzero(crowded[families])
    members = members[np.argsort(families[members], kind="stable")]
    member_families, member_codes = families[members], codes[members]

    family, taken = -1, np.zeros(ids.codebook_size, dtype=bool)
    step = max(1, DISTANCES_AT_ONCE // ids.codebook_size)
    for start in range(0, len(movers), step):
        block = movers[start : start + step]
        for row, distance in zip(block, _last_level_distances(ids, new[block - num_known]), strict=True):
            if families[row] != family:
                family = families[row]
                first, end = np.searchsorted(member_families, (family, family + 1))
                taken[:] = False
                taken[member_codes[first:end]] = True
            if not taken.all():
                codes[row] = np.where(taken, np.inf, distance).argmin()
                taken[codes[row]] = True
    return torch.from_numpy(codes)


def _at_least_cost(table: Tensor, num_known: int, new_keys: Sequence[Key], ids: Chains, new: Tensor) -> Tensor:
    """The table's last-level codes, with the least sum of squared distances over the newcomers of each crowded family.

    No two of a family get the same code, nor one that a known row holds. If fewer codes are free than there are
    newcomers, as many as can be are placed, at the least sum; the others keep their codes.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        step = "pip install 'unitok-kernels[align]'"
        raise ImportError(f"assign: resolver 'least_cost' needs scipy, which isn't installed: {step}") from error
    last = ids.codes.shape[1] - 1
    families, codes = _families(table), table[:, last].numpy().copy()
    groups = row_groups(table)
    shared = (torch.bincount(groups)[groups] > 1).numpy()
    crowded = np.unique(families[num_known:][shared[num_known:]])
    place = np.argsort(families, kind="stable")
    first, end = (np.searchsorted(families[place], crowded, side) for side in ("left", "right"))
    for start, stop in zip(first, end, strict=True):
        rows = place[start:stop]
        known, newcomers = rows[rows < num_known], rows[rows >= num_known]
        newcomers = np.array(sorted(newcomers, key=lambda row: new_keys[row - num_known]))  # ties, whatever the order
        free = np.setdiff1d(np.arange(ids.codebook_size), codes[known])
        distances = _last_level_distances(ids, new[newcomers - num_known])[:, free]
        placed, choice = linear_sum_assignment(distances**2)
        codes[newcomers[placed]] = free[choice]
    return torch.from_numpy(codes)


def _families(table: Tensor) -> np.ndarray:
    """The family of each row: IDs that differ only in the last level.

    The expert comes first, so that rows of one expert, which share a codebook, are processed together.
    """
    return row_groups(torch.cat([table[:, -1:], table[:, :-2]], dim=1)).numpy()


def _last_level_distances(ids: Chains, rows: Tensor) -> np.ndarray:
    """Distance of each row's last residual to its expert's last-level codewords: (M, K) float64."""
    if ids.last_residual is None or ids.last_codebooks is None:
        raise ValueError(
            "assign: last_residual and last_codebooks must be kept for resolver 'reassign', got None. Use "
            "IDs fresh from the tokenizer, or resolver 'suffix'."
        )
    residual, experts = ids.last_residual[rows].double(), ids.experts[rows]
    if not residual.isfinite().all():
        raise ValueError("assign: last_residual must be finite, got NaN or infinity. Tokenize those items again.")
    # Differences, not a matrix product: a pair's distance then doesn't depend on the other rows, and equal codewords
    # tie exactly.
    distance = torch.empty(len(rows), ids.codebook_size, dtype=torch.float64)
    for expert in experts.unique().tolist():
        own, codebook = experts == expert, ids.last_codebooks[expert].double()
        distance[own] = torch.cdist(residual[own], codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.numpy()
