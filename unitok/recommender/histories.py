"""Users' histories, split into training items and queries, and the protocol of a recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unitok.data.catalogue import Interactions

PARTS = {"validation": 2, "test": 1}  # distance of the target from the end of the history
HELD_OUT = max(PARTS.values())


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries, each for the item that comes next.

    Attributes:
        histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
        targets: (Q,) int64, the item that came next.
        users: (Q,) int64, the user of each history.
    """

    histories: Tensor
    targets: Tensor
    users: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class Recommender(Protocol):
    """Something that ranks names of items: a model or a baseline.

    Each item has a name of its own, except that items which the recommender can't tell apart share a name.
    """

    @property
    def names(self) -> Tensor:
        """The name of each item: (N,) int64; arange(N) where every item can be told apart."""

    def rank(self, histories: Tensor, k: int) -> Tensor:
        """Rank the whole catalogue after each history.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
            k: how many names to give.

        Returns:
            (Q, k) int64: names, best first, none twice; -1 at the end where there are fewer.
        """


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of U users in order of time; `Histories.of` makes it from a domain's interactions.

    Attributes:
        offsets: (U + 1,) int64; the items of user u are offsets[u] .. offsets[u + 1].
        items: (M,) int64, rows of items.
        user_ids: (U,) int64, the users' own ids.
    """

    offsets: Tensor
    items: Tensor
    user_ids: Tensor

    @classmethod
    def of(cls, interactions: Interactions, num_items: int) -> Histories:
        """Make histories of a domain's interactions.

        Args:
            interactions: M events, sorted by user and then by time, as every reader returns them.
            num_items: N, the items of the domain.

        Returns:
            The histories, users in the order of their ids.

        Raises:
            ValueError: an item that the domain doesn't have, or events out of order.
        """
        users, items, positions = interactions.user_ids, interactions.item_ids, interactions.positions
        if items.size and not 0 <= items.min() <= items.max() < num_items:
            got = items[(items < 0) | (items >= num_items)][0]
            raise ValueError(f"Histories.of: item_ids must be in [0, {num_items}), got {got}. Pass its own events.")
        falls = (users[1:] < users[:-1]) | ((users[1:] == users[:-1]) & (positions[1:] < positions[:-1]))
        if falls.any():
            row = int(falls.argmax()) + 1
            raise ValueError(
                f"Histories.of: events must be sorted by user and position, got user {users[row]}, position "
                f"{positions[row]} in row {row}. Sort them, or read them with read_interactions."
            )
        ids, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], counts.cumsum()])
        return cls(*(torch.tensor(array, dtype=torch.int64) for array in (offsets, items, ids)))

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
        offsets = torch.cat([self.offsets[:1], kept.cumsum(0)])
        return Histories(offsets, self.items[place < kept.repeat_interleave(lengths)], self.user_ids)

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
        if part not in PARTS:
            raise ValueError(f"queries: part must be one of {', '.join(PARTS)}, got {part!r}. Pick one of them.")
        if most < 1:
            raise ValueError(f"queries: most must be at least 1, got {most}. Use 20, a common value.")
        users = (self.lengths > HELD_OUT).nonzero()[:, 0]
        at = self.offsets[1:][users] - PARTS[part]
        places = at[:, None] + torch.arange(-most, 0)
        inside = places >= self.offsets[:-1][users, None]
        histories = torch.where(inside, self.items[places.clamp(min=0)], -1)
        return Queries(histories, self.items[at], users)


def check_histories(what: str, name: str, histories: Tensor, num_items: int) -> None:
    """Refuse histories that are no rows of items, padded on the left.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
        num_items: N.

    Raises:
        ValueError: another shape or dtype, a row that is no item, or -1 after an item.
    """
    if histories.ndim != 2 or histories.dtype != torch.int64:
        got = f"{histories.dtype} of shape {tuple(histories.shape)}"
        raise ValueError(f"{what}: {name} must be (Q, H) int64, got {got}. Pass Queries.histories.")
    there = histories >= 0
    bad = (histories >= num_items) | (histories < -1)
    bad[:, 1:] |= there[:, :-1] & ~there[:, 1:]
    if bad.any():
        row = int(bad.any(1).nonzero()[0, 0])
        raise ValueError(
            f"{what}: {name} must be rows of the {num_items} items after any -1, got {histories[row].tolist()} in "
            f"row {row}. Number the items as the recommender does."
        )
