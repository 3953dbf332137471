"""Item-kNN: items that the same users met are neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok.recommender.evaluation.baselines import Transitions
from unitok.recommender.histories import Histories
from unitok_kernels import checks
from unitok_kernels.rules import at_least

PAIRS_AT_ONCE = 2**22


class ItemKNN(Transitions):
    """Ranks items by their similarity to the items of the history, in whatever order users met them.

    sim(a, b) = n_ab / (sqrt(n_a n_b) + shrinkage), n_ab being the users who met both and n_a those who met a;
    score(b) = sum_j query^(j - 1) sim(h_j, b) over the history's items whose `neighbours` nearest b is one of, h_j
    being the j-th item from the end. Items of equal score stand in the order of their popularity.

    A user of L items makes L^2 pairs; they are counted 4 million at a time. Making it takes about 130 bytes for each
    pair of items that occurs; 16 bytes are kept for each neighbour.

    Args:
        histories: what users met, such as `Histories.training`.
        num_items: N.
        neighbours: how many of the most similar items are kept for each item; ties keep the more popular.
        shrinkage: makes pairs that few users met less similar; 0 is the plain cosine.
        query: decay of a history's item with its distance from the end, in (0, 1]; 1 takes all alike.

    Raises:
        TypeError: something else than histories, or a setting that is no number.
        ValueError: no neighbours, a shrinkage below 0, a decay outside (0, 1], or histories of other items.

    Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", 2001.
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        *,
        neighbours: int = 100,
        shrinkage: float = 10.0,
        query: float = 1.0,
    ) -> None:
        super().__init__("ItemKNN", histories, num_items, query)
        checks.whole("ItemKNN", neighbours=neighbours)
        checks.number("ItemKNN", shrinkage=shrinkage)
        at_least("ItemKNN", "neighbours", neighbours, 1, "Take 100.")
        at_least("ItemKNN", "shrinkage", shrinkage, 0, "Take 0 for the plain cosine.")
        user = torch.arange(len(histories)).repeat_interleave(histories.lengths)
        met = (user * num_items + self.place[histories.items]).unique()  # an item that was met twice counts once
        user, place = met // num_items, met % num_items
        pair, count = _pairs(user, place, num_items)
        source, to = pair // num_items, pair % num_items
        users = torch.bincount(place, minlength=num_items).double()
        alike = count.double() / ((users[source] * users[to]).sqrt() + shrinkage)
        # Most similar first within each item: two stable sorts. They start in the order of popularity.
        order = alike.argsort(descending=True, stable=True)
        order = order[self.order[source[order]].argsort(stable=True)]
        item, to, alike = self.order[source[order]], to[order], alike[order]
        starts = torch.bincount(item, minlength=num_items).cumsum(0) - torch.bincount(item, minlength=num_items)
        nearest = torch.arange(len(item)) - starts[item] < neighbours
        self._keep(item[nearest], to[nearest], alike[nearest])


def _pairs(user: Tensor, place: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Count the users of each ordered pair of different places: source * num_items + to, ascending, and the counts."""
    pair, count = user.new_zeros(0), user.new_zeros(0)
    lengths = user.unique_consecutive(return_counts=True)[1]
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    each = lengths.repeat_interleave(lengths)  # how many pairs each of a user's items begins
    block = each.cumsum(0) // PAIRS_AT_ONCE
    for rows in torch.arange(len(user)).split(block.unique_consecutive(return_counts=True)[1].tolist()):
        first = rows.repeat_interleave(each[rows])
        before = (each[rows].cumsum(0) - each[rows]).repeat_interleave(each[rows])
        second = starts[first] + torch.arange(len(first)) - before
        apart = first != second
        found, times = (place[first[apart]] * num_items + place[second[apart]]).unique(return_counts=True)
        pair, entry = torch.cat([pair, found]).unique(return_inverse=True)
        count = torch.zeros_like(pair).index_add_(0, entry, torch.cat([count, times]))
    return pair, count
