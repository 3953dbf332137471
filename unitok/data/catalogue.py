"""A catalogue in memory: domains of items, and the interactions of users with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CatalogueError(ValueError):
    """A catalogue that can't be read or must not be written; the message names the file and the next step."""


@dataclass(frozen=True)
class EmbeddingInfo:
    """What made a domain's embeddings; embeddings are comparable only if it is equal.

    Attributes:
        model: name of the embedding model.
        template: how an item's text was made, such as `{title} . Category: {category}`.
    """

    model: str
    template: str


@dataclass(frozen=True, eq=False)
class Domain:
    """The items of one domain.

    Attributes:
        name: what the domain is called, as its folder is.
        embeddings: (N, D) float16 or float32, finite; memory-mapped and read-only if read from a file.
        keys: (N,) int64, the item ids, in the order of the rows.
        titles: N titles, or None if there are none.
        embedding: what made the embeddings, or None if it is unknown.
        source_ids: N names by which the items are known again after they were imported anew, "" where an item has none;
            None if there are none.
    """

    name: str
    embeddings: NDArray[Any]
    keys: NDArray[np.int64]
    titles: list[str] | None = None
    embedding: EmbeddingInfo | None = None
    source_ids: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of users with items, sorted by user and then by time; M events.

    Attributes:
        user_ids: (M,) int64, the user of each event.
        item_ids: (M,) int64, each the key of an item.
        positions: (M,) int64, each event's position in its user's history.
        timestamps: (M,) seconds since 1970 in UTC, or None if the source has none. They are int64 where all are whole,
            else float64, which rounds to a microsecond or less; `positions` keep the exact order.
        user_names: U texts: user u is called user_names[u] in the source. None where users have no names but numbers of
            their own.

    Raises:
        ValueError: a user who has no name though others have.
    """

    user_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    timestamps: NDArray[np.int64] | NDArray[np.float64] | None = None
    user_names: list[str] | None = None

    def __post_init__(self) -> None:
        """Check that each user has a name, or none has."""
        if self.user_names is None:
            return
        users, names = np.asarray(self.user_ids), len(self.user_names)
        if users.size and not (users.dtype.kind in "iu" and 0 <= users.min() <= users.max() < names):
            got = f"{users.min()} to {users.max()}" if users.dtype.kind in "iu" else users.dtype
            rule = f"user_ids must be places in the {names} user_names"
            raise ValueError(f"Interactions: {rule}, got {got}. Number the users from 0, in the order of their names.")
