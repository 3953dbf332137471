"""Baselines that every model must beat: popularity, and a Markov chain over several items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unitok.recommender.histories import Histories, as_histories, check_is_histories
from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail

_CELLS_AT_ONCE = 2**23  # queries x items that a batch of scores holds


class Popularity:
    """Ranks items by their number of interactions, whatever the history; ties take the lowest item.

    Items that the history holds are ranked as all others are.

    Args:
        histories: what users met, such as `Histories.training`.
        num_items: N.

    Raises:
        TypeError: something else than histories, or no integer.
        ValueError: histories of other items.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        _check_items("Popularity", histories, num_items)
        met = torch.bincount(histories.items, minlength=num_items)
        self.order = met.argsort(descending=True, stable=True)

    @property
    def names(self) -> Tensor:
        """The name of each item: arange(N), since all can be told apart."""
        return torch.arange(len(self.order))

    def rank(self, histories: Tensor | Sequence[Sequence[int]], k: int) -> Tensor:
        """Give the most popular items.

        Args:
            histories: (Q, H) int64, or Q lists; only their number matters.
            k: how many names to give, at least 1.

        Returns:
            (Q, k) int64, the same for every query; -1 at the end where there are fewer items.

        Raises:
            TypeError: histories that are neither a tensor nor lists of integers, or k that is no integer.
            ValueError: another shape, a row that is no item, or k below 1.
        """
        histories = as_histories("rank", "histories", histories, len(self.order))
        _check_k(k)
        return _padded(self.order[:k], k).expand(len(histories), k)


class MarkovChain:
    """Ranks items by decayed transitions from all items of the history.

    T[a, b] = sum of learn^(d - 1) over the times that b came d <= reach places after a;
    score(b) = sum_j query^(j - 1) T[h_j, b] / sum_b T[h_j, b], h_j being the j-th item from the end of the history.
    Items of equal score, such as those that no transition leads to, stand in the order of their popularity.
    Items that the history holds are ranked as all others are.

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
        _check_items("MarkovChain", histories, num_items)
        checks.whole("MarkovChain", reach=reach)
        checks.number("MarkovChain", learn=learn, query=query)
        if reach < 1:
            raise ValueError(f"MarkovChain: reach must be at least 1, got {reach}. Take 1 for neighbours alone.")
        for name, decay in (("learn", learn), ("query", query)):
            if not 0 < decay <= 1:
                raise ValueError(f"MarkovChain: {name} must be in (0, 1], got {decay}. Take 0.5.")
        self.query = query
        self.order = Popularity(histories, num_items).order
        column = torch.empty_like(self.order)
        column[self.order] = torch.arange(num_items)
        user = torch.arange(len(histories)).repeat_interleave(histories.lengths)
        cells, weights = [], []
        for span in range(1, reach + 1):
            same = user[span:] == user[: len(user) - span]
            source, to = histories.items[: len(user) - span][same], histories.items[span:][same]
            cells.append(source * num_items + column[to])
            weights.append(torch.full(cells[-1].shape, learn ** (span - 1), dtype=torch.float64))
        cell, entry = torch.cat(cells).unique(return_inverse=True)
        value = torch.zeros(len(cell), dtype=torch.float64).index_add_(0, entry, torch.cat(weights))
        source = cell // num_items
        if normalised:
            value = value / torch.zeros(num_items, dtype=torch.float64).index_add_(0, source, value)[source]
        # From each item, the places in order of popularity that transitions lead to: rows laid end to end.
        self.offsets = torch.cat([source.new_zeros(1), source.bincount(minlength=num_items).cumsum(0)])
        self.to, self.value = cell % num_items, value

    @property
    def names(self) -> Tensor:
        """The name of each item: arange(N), since all can be told apart."""
        return torch.arange(len(self.order))

    def rank(self, histories: Tensor | Sequence[Sequence[int]], k: int) -> Tensor:
        """Rank the whole catalogue after each history.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left. Or Q lists of items.
            k: how many names to give, at least 1.

        Returns:
            (Q, k) int64, best first; -1 at the end where there are fewer items.

        Raises:
            TypeError: histories that are neither a tensor nor lists of integers.
            ValueError: another shape, a row that is no item, or k below 1.
        """
        histories = as_histories("rank", "histories", histories, len(self.order))
        _check_k(k)
        blocks = histories.split(max(1, _CELLS_AT_ONCE // len(self.order)))
        return torch.cat([_padded(self.order[self._best(block, k)], k) for block in blocks])

    def _best(self, histories: Tensor, k: int) -> Tensor:
        query, place = (histories >= 0).nonzero(as_tuple=True)
        item = histories[query, place]
        decay = self.query ** (histories.shape[1] - 1 - place).double()
        count = self.offsets[item + 1] - self.offsets[item]
        row = torch.arange(len(item)).repeat_interleave(count)
        edge = torch.arange(len(row)) - (count.cumsum(0) - count)[row] + self.offsets[item][row]
        num_items = len(self.order)
        scores = torch.zeros(len(histories) * num_items, dtype=torch.float64)
        scores.index_add_(0, query[row] * num_items + self.to[edge], decay[row] * self.value[edge])
        # In float32, so that sums in another order tie as they should; then the more popular first, by place.
        bits = scores.float().view(torch.int32).long()
        keys = (bits << 32) - torch.arange(num_items).repeat(len(histories))
        return keys.view(len(histories), num_items).topk(min(k, num_items)).indices


def _check_items(what: str, histories: Histories, num_items: int) -> None:
    checks.whole(what, num_items=num_items)
    check_is_histories(what, histories)
    if len(histories.items) and not 0 <= int(histories.items.min()) <= int(histories.items.max()) < num_items:
        got = f"{int(histories.items.min())} to {int(histories.items.max())}"
        fail(what, "histories", f"of items in [0, {num_items})", got, "Pass the number of all items.")


def _check_k(k: int) -> None:
    checks.whole("rank", k=k)
    at_least("rank", "k", k, 1, "Use 10, a common value.")


def _padded(names: Tensor, k: int) -> Tensor:
    return torch.nn.functional.pad(names, (0, k - names.shape[-1]), value=-1)
