"""Users' histories, split into training items and queries, and the protocol of a recommender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitok.data.catalogue import Interactions
from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail, one_of

PARTS = {"validation": 2, "test": 1}  # distance of the target from the end of the history
HELD_OUT = max(PARTS.values())


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries, each for the item that comes next; `queries[rows]` are some of them.

    Attributes:
        histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
        targets: (Q,) int64, the item that came next.
        users: (Q,) int64, the user of each history.
        cold: (Q,) bool, whether no training history holds the target; None where nobody asked.

    Raises:
        TypeError: a field is no tensor.
        ValueError: a field of another shape.
    """

    histories: Tensor
    targets: Tensor
    users: Tensor
    cold: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that there is one of each per query."""
        _check_fields("Queries", vars(self), histories=2, targets=1, users=1)
        if self.cold is not None:
            _check_fields("Queries", vars(self), torch.bool, cold=1)
        for name, value in vars(self).items():
            if value is not None and len(value) != len(self.targets):
                step = "Pass one history, one target and one user per query."
                fail("Queries", name, f"of {len(self.targets)} queries, as targets is", len(value), step)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Tensor) -> Queries:
        cold = None if self.cold is None else self.cold[rows]
        return Queries(self.histories[rows], self.targets[rows], self.users[rows], cold)


class Recommender(Protocol):
    """Something that ranks names of items: a model or a baseline.

    Each item has a name of its own, except that items which the recommender can't tell apart share a name.
    """

    @property
    def names(self) -> Tensor:
        """The name of each item: (N,) int64; arange(N) where every item can be told apart."""

    def rank(self, histories: Tensor, k: int, *, exclude_seen: bool = True) -> Tensor:
        """Rank the whole catalogue after each history.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
            k: how many names to give.
            exclude_seen: leave out the items of the query's own history. A name stays while one of its items may be
                recommended.

        Returns:
            (Q, k) int64: names, best first, none twice; -1 at the end where there are fewer.
        """


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of U users in order of time; `of` makes it from a domain's interactions, `from_lists` from lists.

    Attributes:
        offsets: (U + 1,) int64; the items of user u are offsets[u] .. offsets[u + 1].
        items: (M,) int64, rows of items.
        user_ids: (U,) the users' own ids: a tensor of int64, or a numpy array of texts.

    Raises:
        TypeError: a field of another type.
        ValueError: offsets that don't part the items among the users.
    """

    offsets: Tensor
    items: Tensor
    user_ids: Tensor | NDArray[np.str_] | NDArray[np.object_]

    def __post_init__(self) -> None:
        """Check that every item is one user's; nothing later has to."""
        _check_fields("Histories", vars(self), offsets=1, items=1)
        if isinstance(self.user_ids, Tensor):
            _check_fields("Histories", vars(self), user_ids=1)
        elif not _are_texts(self.user_ids):
            got = getattr(self.user_ids, "dtype", type(self.user_ids).__name__)
            fail("Histories", "user_ids", "a tensor of int64 or an array of texts", got, _MAKE, TypeError)
        offsets, users, items = self.offsets, len(self.user_ids), len(self.items)
        if len(offsets) != users + 1 or offsets[0] != 0 or offsets[-1] != items or bool((offsets.diff() < 0).any()):
            rule = f"rise from 0 to {items} and be one more than the {users} users"
            raise ValueError(f"Histories: offsets must {rule}, got {_shown(offsets)}. {_MAKE}")

    @classmethod
    def of(cls, interactions: Interactions, num_items: int) -> Histories:
        """Make histories of a domain's interactions.

        Args:
            interactions: M events, sorted by user and then by time, as every reader returns them.
            num_items: N, the items of the domain.

        Returns:
            The histories, users in the order of their ids, which are integers or texts; their names, if they have some.

        Raises:
            TypeError: something else than interactions, or ids and positions of another type.
            ValueError: an item that the domain doesn't have, or events out of order.
        """
        if not isinstance(interactions, Interactions):
            step = "Read them with read_interactions, or use Histories.from_lists."
            fail("Histories.of", "interactions", "Interactions", type(interactions).__name__, step, TypeError)
        checks.whole("Histories.of", num_items=num_items)
        users = _ids("Histories.of", "user_ids", interactions.user_ids)
        items, positions = np.asarray(interactions.item_ids), np.asarray(interactions.positions)
        for name, found, kinds in (("item_ids", items, "iu"), ("positions", positions, "iuf")):
            if found.dtype.kind not in kinds and found.size:
                rule, step = "numbers" if "f" in kinds else "integers", f"Convert them with {name}.astype('int64')."
                fail("Histories.of", name, rule, found.dtype, step, TypeError)
            if found.shape != users.shape:
                fail("Histories.of", name, f"of {len(users)} events, as user_ids is", found.shape, "Pass one of each.")
        if items.size and not 0 <= items.min() <= items.max() < num_items:
            got = items[(items < 0) | (items >= num_items)][0]
            raise ValueError(f"Histories.of: item_ids must be in [0, {num_items}), got {got}. Pass its own events.")
        falls = (users[1:] < users[:-1]) | ((users[1:] == users[:-1]) & (positions[1:] < positions[:-1]))
        if falls.any():
            row = int(falls.argmax()) + 1
            got = f"user {users[row]}, position {positions[row]} in row {row}"
            step = "Sort them, or read them with read_interactions."
            fail("Histories.of", "events", "sorted by user and position", got, step)
        ids, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], counts.cumsum()])
        if interactions.user_names is not None:
            ids = np.array(interactions.user_names, dtype=object)[ids]  # as long as each is, to the last character
        return cls(_tensor(offsets), _tensor(items), _tensor(ids) if ids.dtype.kind == "i" else ids)

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], user_ids: Sequence[int] | Sequence[str] | None = None
    ) -> Histories:
        """Make histories of lists of items.

        Args:
            lists: a list of items per user, the latest last.
            user_ids: the users' own ids, integers or texts; 0 to U - 1 by default.

        Returns:
            The histories, users in the order of the lists.

        Raises:
            TypeError: something else than lists of integers, or ids that are neither integers nor texts.
            ValueError: a negative item, or not one id per list.
        """
        rows = _rows("Histories.from_lists", "lists", lists)
        items = [item for row in rows for item in row]
        if (low := min(items, default=0)) < 0:
            fail("Histories.from_lists", "lists", "of items from 0 on", low, "Number the items from 0.")
        ids = _ids("Histories.from_lists", "user_ids", np.arange(len(rows)) if user_ids is None else user_ids)
        if len(ids) != len(rows):
            fail("Histories.from_lists", "user_ids", f"{len(rows)}, one per list", len(ids), "Pass one of each.")
        offsets = np.cumsum([0, *map(len, rows)])
        own = ids if ids.dtype.kind == "U" else _tensor(ids)
        return cls(_tensor(offsets), torch.tensor(items, dtype=torch.int64), own)

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def lengths(self) -> Tensor:
        """Items per user: (U,) int64."""
        return self.offsets.diff()

    def training(self) -> Histories:
        """Leave out the last two items of every user, the targets of validation and test.

        Returns:
            The same users; those with fewer than 3 items keep all, since they are in no query.
        """
        lengths = self.lengths
        kept = torch.where(lengths > HELD_OUT, lengths - HELD_OUT, lengths)
        place = torch.arange(len(self.items)) - self.offsets[:-1].repeat_interleave(lengths)
        return self._only(place < kept.repeat_interleave(lengths))

    def _only(self, kept: Tensor) -> Histories:
        """Leave out items where `kept`, (M,) bool, is False; the users stay, some without items."""
        offsets = torch.cat([self.offsets[:1], kept.cumsum(0)])[self.offsets]
        return Histories(offsets, self.items[kept], self.user_ids)

    def queries(self, part: str = "validation", most: int = 20) -> Queries:
        """Make a query of every user with at least 3 items, for one of the last two: chronological leave-one-out.

        Args:
            part: "validation": the target is the last but one item, given all before it. "test": the last item, given
                all before it, including that of validation.
            most: H, the number of latest items that are kept of a history.

        Returns:
            One query per user.

        Raises:
            ValueError: an unknown part, or a history of no items.

        Source:
            The protocol of SASRec, arXiv 1808.09781.
        """
        one_of("queries", "part", part, tuple(PARTS))
        users = (self.lengths > HELD_OUT).nonzero()[:, 0]
        return self._ask("queries", users, self.offsets[1:][users] - PARTS[part], most)

    def _ask(self, what: str, users: Tensor, at: Tensor, most: int) -> Queries:
        """Ask each of some users for the item at a place of `items`, given at most `most` before it."""
        checks.whole(what, most=most)
        at_least(what, "most", most, 1, "Use 20, a common value.")
        places = at[:, None] + torch.arange(-most, 0)
        inside = places >= self.offsets[:-1][users, None]
        histories = torch.where(inside, self.items[places.clamp(min=0)], -1)
        return Queries(histories, self.items[at], users)


def as_histories(what: str, name: str, histories: object, num_items: int, most: int | None = None) -> Tensor:
    """Take histories as rows of items, padded on the left: a tensor as it is; lists and arrays are made one.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left. Or Q lists of items.
        num_items: N.
        most: how many of the latest are kept; None keeps all.

    Returns:
        (Q, H) int64 as above, H being at most `most`.

    Raises:
        TypeError: something else than a tensor, an array or lists of integers.
        ValueError: another shape or dtype, a row that is no item, or -1 after an item.
    """
    if not isinstance(histories, Tensor):
        rows = _rows(what, name, histories)
        if most is not None:
            rows = [row[-most:] for row in rows]
        width = max(map(len, rows), default=0)
        padded = [[-1] * (width - len(row)) + row for row in rows]
        histories = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)
    elif most is not None and histories.ndim:
        histories = histories[..., -most:]
    if histories.ndim != 2 or histories.dtype != torch.int64:
        got = f"{histories.dtype} of shape {tuple(histories.shape)}"
        raise ValueError(f"{what}: {name} must be (Q, H) int64, got {got}. Pass Queries.histories.")
    there = histories >= 0
    bad = (histories >= num_items) | (histories < -1)
    bad[:, 1:] |= there[:, :-1] & ~there[:, 1:]
    if bad.any():
        row = int(bad.any(1).nonzero()[0, 0])
        got = f"{histories[row].tolist()} in row {row}"
        fail(what, name, f"rows of the {num_items} items after any -1", got, _NUMBER)
    return histories


def excluded_items(what: str, num_items: int, allow: object, deny: object) -> Tensor | None:
    """Find the items that are excluded for all queries: those that aren't allowed, and those that are denied.

    Args:
        what: the operation that a message names.
        num_items: N.
        allow: (A,) int64 or a list, the only items that may be named; None allows all.
        deny: (A,) int64 or a list, items that may not be named; None denies none.

    Returns:
        (N,) bool on the CPU; None if both are None.

    Raises:
        TypeError: neither a tensor nor a list of whole numbers.
        ValueError: another shape or dtype, or an item that there isn't.
    """
    if allow is None and deny is None:
        return None
    excluded = torch.full((num_items,), allow is not None)
    for name, given, value in (("allow", allow, False), ("deny", deny, True)):
        if given is None:
            continue
        items = given if isinstance(given, Tensor) else torch.tensor(_rows(what, name, [given])[0], dtype=torch.int64)
        if items.ndim != 1 or items.dtype != torch.int64:
            got = f"{items.dtype} of shape {tuple(items.shape)}"
            fail(what, name, "(A,) int64", got, "Pass numbers of items.")
        if (strange := (items < 0) | (items >= num_items)).any():
            fail(what, name, f"of the {num_items} items", int(items[strange][0]), _NUMBER)
        excluded[items.cpu()] = value
    return excluded


def checked_rows(what: str, rows: Tensor, known: Tensor) -> Tensor:
    """Take a copy of some items on the CPU, if each is known and none is there twice.

    Args:
        what: the operation that a message names.
        rows: (M,) int64, items.
        known: (N,) int64, those that it may hold.

    Returns:
        (M,) int64 on the CPU.

    Raises:
        TypeError: no tensor.
        ValueError: no rows, another dtype or shape, an item that isn't known, or one twice.
    """
    checks.tensors(what, rows=rows)
    if rows.ndim != 1 or rows.dtype != torch.int64 or not len(rows):
        got = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise ValueError(f"{what}: rows must be (M,) int64, M at least 1, got {got}. Pass numbers of items.")
    rows = rows.detach().cpu().clone()
    if (strange := ~torch.isin(rows, known)).any():
        fail(what, "rows", f"of the {len(known)} items that are ranked", int(rows[strange][0]), _NUMBER)
    values, counts = rows.unique(return_counts=True)
    if (twice := counts > 1).any():
        fail(what, "rows", "there once each", f"{int(values[twice][0])} twice", "Pass rows.unique().")
    return rows


def check_is_histories(what: str, histories: object) -> None:
    """Refuse anything that isn't whole histories, before an attribute is missed."""
    if not isinstance(histories, Histories):
        fail(what, "histories", "Histories", type(histories).__name__, _MAKE, TypeError)


def _rows(what: str, name: str, lists: object) -> list[list[int]]:
    """Take lists, or arrays or tensors, of whole numbers as lists."""
    step = "Pass a list of items per user, such as [[3, 1, 4], [1, 5]]."
    rule = "a list of lists of whole numbers"
    plain = lists.tolist() if isinstance(lists, np.ndarray | Tensor) else lists
    if not isinstance(plain, list | tuple):
        fail(what, name, rule, type(lists).__name__, step, TypeError)
    rows = [row.tolist() if isinstance(row, np.ndarray | Tensor) else row for row in plain]
    for row in rows:
        if not isinstance(row, list | tuple):
            fail(what, name, rule, f"{_shown(row)} among them", step, TypeError)
        for item in row:
            if not isinstance(item, int | np.integer) or isinstance(item, bool):
                fail(what, name, rule, f"{_shown(item)} among them", step, TypeError)
            if not -(2**63) <= item < 2**63:
                fail(what, name, "of numbers of 64 bits", _shown(item), step)
    return [[int(item) for item in row] for row in rows]


def _ids(what: str, name: str, ids: object) -> NDArray[Any]:
    """Take ids as (M,) int64, or as an array of texts."""
    found: NDArray[Any] = np.asarray(ids)
    if found.dtype.kind == "T" or (found.dtype.kind == "O" and all(isinstance(each, str) for each in found.flat)):
        found = found.astype(str)  # as pandas gives texts
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iuU"):
        got, step = f"{found.dtype} of shape {found.shape}", "Convert them with .astype('int64') or .astype(str)."
        fail(what, name, "a row of integers or of texts", got, step, TypeError)
    return found if found.dtype.kind == "U" else found.astype(np.int64)


def _are_texts(ids: object) -> bool:
    if not isinstance(ids, np.ndarray) or ids.ndim != 1:
        return False
    return ids.dtype.kind == "U" or (ids.dtype.kind == "O" and all(isinstance(each, str) for each in ids))


def _check_fields(what: str, fields: dict[str, Any], dtype: torch.dtype = torch.int64, **ranks: int) -> None:
    """Refuse fields that are no tensors of a dtype, or of another number of dimensions."""
    for name, rank in ranks.items():
        checks.tensors(what, **{name: fields[name]})
        if fields[name].dtype != dtype or fields[name].ndim != rank:
            got, kind = f"{fields[name].dtype} of shape {tuple(fields[name].shape)}", str(dtype).removeprefix("torch.")
            fail(what, name, f"{kind} of {rank} dimension{'s' if rank > 1 else ''}", got, _MAKE)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.tensor(array, dtype=torch.int64)


_NUMBER = "Number the items as the recommender does."
_MAKE = "Make them with Histories.of or Histories.from_lists."
