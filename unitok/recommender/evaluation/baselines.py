"""Baselines that every model must beat: popularity, and a Markov chain over several items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from unitok.recommender.histories import Histories, as_histories, check_is_histories, excluded_items
from unitok.recommender.hybrid.memory import count_transitions
from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail, flag

_CELLS_AT_ONCE = 2**23  # queries x items that a batch of scores holds
_NONE = torch.iinfo(torch.int64).min


class Baseline(ABC):
    """Ranks items by a score; of equal scores, the more popular item comes first, then the lower one.

    Args:
        what: the class that a message names.
        histories: what users met, such as `Histories.training`.
        num_items: N.

    Raises:
        TypeError: something else than histories, or no integer.
        ValueError: histories of other items.
    """

    def __init__(self, what: str, histories: Histories, num_items: int) -> None:
        checks.whole(what, num_items=num_items)
        check_is_histories(what, histories)
        if len(histories.items) and not 0 <= int(histories.items.min()) <= int(histories.items.max()) < num_items:
            got = f"{int(histories.items.min())} to {int(histories.items.max())}"
            fail(what, "histories", f"of items in [0, {num_items})", got, "Pass the number of all items.")
        met = torch.bincount(histories.items, minlength=num_items)
        self.order = met.argsort(descending=True, stable=True)
        self.place = torch.empty_like(self.order)
        self.place[self.order] = torch.arange(num_items)

    @property
    def names(self) -> Tensor:
        """The name of each item: arange(N), since all can be told apart."""
        return torch.arange(len(self.order))

    def rank(
        self,
        histories: Tensor | Sequence[Sequence[int]],
        k: int,
        *,
        exclude_seen: bool = True,
        allow: Tensor | Sequence[int] | None = None,
        deny: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Rank the whole catalogue after each history.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left. Or Q lists of items.
            k: how many names to give, at least 1.
            exclude_seen: leave out the items of the query's own history.
            allow: (A,) int64, the only items that may be named; None allows all.
            deny: (A,) int64, items that may not be named.

        Returns:
            (Q, k) int64, best first; -1 at the end where there are fewer items.

        Raises:
            TypeError: histories that are neither a tensor nor lists of integers, or another argument's type.
            ValueError: another shape, a row that is no item, or k below 1.
        """
        flag("rank", exclude_seen=exclude_seen)
        checks.whole("rank", k=k)
        at_least("rank", "k", k, 1, "Use 10, a common value.")
        banned = excluded_items("rank", len(self.order), allow, deny)
        histories = as_histories("rank", "histories", histories, len(self.order))
        ranked = torch.full((len(histories), k), -1)
        for rows in torch.arange(len(histories)).split(self._at_once(histories, k)):
            found = self._best(histories[rows], k, exclude_seen, banned)
            ranked[rows, : found.shape[1]] = found
        return ranked

    def _at_once(self, histories: Tensor, k: int) -> int:
        """How many queries a batch may hold."""
        return max(1, _CELLS_AT_ONCE // max(1, len(self.order)))

    def _best(self, histories: Tensor, k: int, exclude_seen: bool, banned: Tensor | None) -> Tensor:
        """The best k items for (B, H) histories, (B, at most k); -1 at the end where there are fewer."""
        return self._choose(self._scores(histories), histories, k, exclude_seen, banned)

    def _choose(
        self, scores: Tensor, histories: Tensor, k: int, exclude_seen: bool, banned: Tensor | None = None
    ) -> Tensor:
        """The best k items by (B, N) scores, of those that aren't excluded."""
        # In float32, so that sums in another order tie as they should; then the more popular first, by place.
        bits = scores.float().view(torch.int32).long()
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # in the order of the floats, also of negative ones
        keys = (bits << 32) - torch.arange(len(self.order))
        if banned is not None:
            keys[:, self.place[banned]] = _NONE
        if exclude_seen:
            query, at = (histories >= 0).nonzero(as_tuple=True)
            keys[query, self.place[histories[query, at]]] = _NONE
        best = keys.topk(min(k, len(self.order)))
        return self.order[best.indices].where(best.values != _NONE, -1)

    @abstractmethod
    def _scores(self, histories: Tensor) -> Tensor:
        """The scores for (B, H) histories, (B, N) float64, items in the order of their popularity."""


class Popularity(Baseline):
    """Ranks items by their number of interactions, whatever the history; ties take the lowest item.

    Args:
        histories: what users met, such as `Histories.training`.
        num_items: N.

    Raises:
        TypeError: something else than histories, or no integer.
        ValueError: histories of other items.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        super().__init__("Popularity", histories, num_items)

    def _at_once(self, histories: Tensor, k: int) -> int:
        return max(1, _CELLS_AT_ONCE // ((k + histories.shape[1]) * max(1, histories.shape[1])))

    def _best(self, histories: Tensor, k: int, exclude_seen: bool, banned: Tensor | None) -> Tensor:
        """Of the first k + H items, a history holds at most H: no more have to be looked at."""
        order = self.order if banned is None else self.order[~banned[self.order]]
        found = order[: k + histories.shape[1]].expand(len(histories), -1)
        if exclude_seen:
            seen = (found[:, :, None] == histories[:, None]).any(2)
            first = seen.int().argsort(dim=1, stable=True)
            found = found.where(~seen, -1).gather(1, first)
        return found[:, :k]

    def _scores(self, histories: Tensor) -> Tensor:
        return torch.zeros(len(histories), len(self.order), dtype=torch.float64)


class Transitions(Baseline):
    """Ranks items by weights that lead from the history's items to others.

    score(b) = sum_j query^(j - 1) W[h_j, b], h_j being the j-th item from the end of the history.

    Args:
        what: the class that a message names.
        histories: what users met, such as `Histories.training`.
        num_items: N.
        query: decay of a history's item with its distance from the end, in (0, 1].

    Raises:
        TypeError: something else than histories, or a setting that is no number.
        ValueError: a decay outside (0, 1], or histories of other items.
    """

    def __init__(self, what: str, histories: Histories, num_items: int, query: float) -> None:
        super().__init__(what, histories, num_items)
        check_decay(what, query=query)
        self.query = query

    def _keep(self, source: Tensor, to: Tensor, value: Tensor) -> None:
        """Keep the weights W[source, item at place to], sorted by source: rows laid end to end."""
        self.offsets = torch.cat([source.new_zeros(1), source.bincount(minlength=len(self.order)).cumsum(0)])
        self.to, self.value = to, value

    def _scores(self, histories: Tensor) -> Tensor:
        query, place = (histories >= 0).nonzero(as_tuple=True)
        item = histories[query, place]
        decay = self.query ** (histories.shape[1] - 1 - place).double()
        count = self.offsets[item + 1] - self.offsets[item]
        row = torch.arange(len(item)).repeat_interleave(count)
        edge = torch.arange(len(row)) - (count.cumsum(0) - count)[row] + self.offsets[item][row]
        num_items = len(self.order)
        scores = torch.zeros(len(histories) * num_items, dtype=torch.float64)
        scores.index_add_(0, query[row] * num_items + self.to[edge], decay[row] * self.value[edge])
        return scores.view(len(histories), num_items)


class MarkovChain(Transitions):
    """Ranks items by decayed transitions from all items of the history.

    T[a, b] = sum of learn^(d - 1) over the times that b came d <= reach places after a;
    score(b) = sum_j query^(j - 1) T[h_j, b] / sum_b T[h_j, b], h_j being the j-th item from the end of the history.
    Items of equal score, such as those that no transition leads to, stand in the order of their popularity.

    Args:
        histories: what users met, such as `Histories.training`.
        num_items: N.
        reach: how many places a transition spans at most.
        learn: decay of a transition with its span, in (0, 1].
        query: decay of a history's item with its distance from the end, in (0, 1].
        normalised: off leaves T as it is, so that a popular item of the history counts more.

    Raises:
        TypeError: something else than histories, or a setting that is no number.
        ValueError: a reach below 1, a decay outside (0, 1], or histories of other items.
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        *,
        reach: int = 1,
        learn: float = 1.0,
        query: float = 0.5,
        normalised: bool = True,
    ) -> None:
        super().__init__("MarkovChain", histories, num_items, query)
        checks.whole("MarkovChain", reach=reach)
        if reach < 1:
            raise ValueError(f"MarkovChain: reach must be at least 1, got {reach}. Take 1 for neighbours alone.")
        check_decay("MarkovChain", learn=learn)
        cell, value = count_transitions(histories, num_items, reach, learn)
        source = cell // num_items
        if normalised:
            value = value / torch.zeros(num_items, dtype=torch.float64).index_add_(0, source, value)[source]
        self._keep(source, self.place[cell % num_items], value)


def check_decay(what: str, **decays: float) -> None:
    """Refuse a decay that isn't in (0, 1]."""
    checks.number(what, **decays)
    for name, decay in decays.items():
        if not 0 < decay <= 1:
            raise ValueError(f"{what}: {name} must be in (0, 1], got {decay}. Take 0.5.")
