"""Users' histories, cut into what is learnt from and what is asked for, and what answers: a recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unitok.data.catalogue import Interactions

PARTS = {"validation": 2, "test": 1}  # how far from a history's end the item that is asked for stands
HELD_OUT = max(PARTS.values())


@dataclass(frozen=True, eq=False)
class Queries:
    """Q questions, each for the item that comes next.

    Attributes:
        histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
        targets: (Q,) int64, the item that came next.
        users: (Q,) int64, whose history each is.
    """

    histories: Tensor
    targets: Tensor
    users: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class Recommender(Protocol):
    """What ranks names of items: a model or a baseline.

    A name is an item, but where items share an ID that the recommender can't tell apart they share a name.
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
    """What U users met, in order of time; `Histories.of` makes it from a domain's interactions.

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
        """Take a domain's interactions.

        Args:
            interactions: M events, sorted by user and then by time, as every reader gives them.
            num_items: N, the items of the domain.

        Returns:
            The histories, users in the order of their ids.

        Raises:
            ValueError: an item that the domain doesn't have, or events out of order.
        """
        users, items, positions = interactions.user_ids, interactions.item_ids, interactions.positions
        if items.size and not 0 <= items.min() <= items.max() < num_items:
            got = items[(items < 0) | (items >= num_items)][0]
            raise ValueError(f"Histories: item_ids must be in [0, {num_items}), got {got}. Pass its own events.")
        falls = (users[1:] < users[:-1]) | ((users[1:] == users[:-1]) & (positions[1:] < positions[:-1]))
        if falls.any():
            row = int(falls.argmax()) + 1
            raise ValueError(
                f"Histories: events must be sorted by user and position, got user {users[row]}, position "
                f"{positions[row]} in row {row}. Sort them, or read them with read_interactions."
            )
        ids, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], counts.cumsum()])
        return cls(*(torch.tensor(array, dtype=torch.int64) for array in (offsets, items, ids)))

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def lengths(self) -> Tensor:
        """Items a user: (U,) int64."""
        return self.offsets.diff()

    def training(self) -> Histories:
        """Leave out the last two items of every user, which validation and test ask for.

        Returns:
            The same users; those of fewer than 3 items keep what they have, since nothing is asked of them.
        """
        lengths = self.lengths
        kept = torch.where(lengths > HELD_OUT, lengths - HELD_OUT, lengths)
        place = torch.arange(len(self.items)) - self.offsets[:-1].repeat_interleave(lengths)
        offsets = torch.cat([self.offsets[:1], kept.cumsum(0)])
        return Histories(offsets, self.items[place < kept.repeat_interleave(lengths)], self.user_ids)

    def queries(self, part: str = "validation", most: int = 20) -> Queries:
        """Ask every user of at least 3 items for one of the last two: chronological leave-one-out.

        Args:
            part: "validation" asks for the item before the last by all before it, "test" for the last by all before
                it, the one of validation among them.
            most: H, the latest items that a history is cut to.

        Returns:
            One query a user.

        Raises:
            ValueError: an unknown part, or a history of no items.

        Source:
            The protocol of SASRec, arXiv 1808.09781.
        """
        if part not in PARTS:
            raise ValueError(f"queries: part must be one of {', '.join(PARTS)}, got {part!r}. Pick one of them.")
        if most < 1:
            raise ValueError(f"queries: most must be at least 1, got {most}. Take 20, as is usual.")
        users = (self.lengths > HELD_OUT).nonzero()[:, 0]
        at = self.offsets[1:][users] - PARTS[part]
        places = at[:, None] + torch.arange(-most, 0)
        inside = places >= self.offsets[:-1][users, None]
        histories = torch.where(inside, self.items[places.clamp(min=0)], -1)
        return Queries(histories, self.items[at], users)
