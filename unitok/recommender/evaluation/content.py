"""A Markov chain that also knows what items are like, and the choice of how much that counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.evaluation.baselines import MarkovChain, check_decay
from unitok.recommender.evaluation.ranking import ndcgs, ranks
from unitok.recommender.evaluation.splits import Split
from unitok.recommender.histories import Histories
from unitok_kernels import checks
from unitok_kernels.ops.ordered_linear import ordered_linear
from unitok_kernels.rules import at_least, fail, flag

GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class MarkovContent(MarkovChain):
    """Ranks items by a Markov chain and by how much their embeddings are like those of the history.

    score(b) = score of the chain + weight cos(e_b, sum_j content^(j - 1) e_{h_j} / |e_{h_j}|), h_j being the j-th item
    from the end of the history. So items that no transition leads to are ranked by their content. If all embeddings
    have a direction in common, centred ones tell items apart better: pass `embeddings - embeddings.mean(0)`.

    The embeddings are kept as (N, D) float32.

    Args:
        histories: what users met, such as `Histories.training`.
        num_items: N.
        embeddings: (N, D) floating point, one per item, such as a catalogue's.
        weight: of the cosine; at least 0.
        content: decay of a history's item with its distance from the end, for the cosine, in (0, 1].
        reach: how many places a transition spans at most.
        learn: decay of a transition with its span, in (0, 1].
        query: decay of a history's item with its distance from the end, for the chain, in (0, 1].

    Raises:
        TypeError: something else than histories or a tensor, or a setting that is no number.
        ValueError: embeddings of another shape or not finite, a setting out of its range, or histories of other items.
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        embeddings: Tensor,
        *,
        weight: float = 0.1,
        content: float = 0.5,
        reach: int = 5,
        learn: float = 0.7,
        query: float = 0.7,
    ) -> None:
        super().__init__(histories, num_items, reach=reach, learn=learn, query=query)
        checks.tensors("MarkovContent", embeddings=embeddings)
        if embeddings.ndim != 2 or len(embeddings) != num_items or not embeddings.is_floating_point():
            got = f"{embeddings.dtype} of shape {tuple(embeddings.shape)}"
            fail("MarkovContent", "embeddings", f"({num_items}, D) floating point", got, "Pass one row per item.")
        if not bool(embeddings.isfinite().all()):
            fail("MarkovContent", "embeddings", "finite", "NaN or infinity", "Embed those items again.")
        checks.number("MarkovContent", weight=weight)
        at_least("MarkovContent", "weight", weight, 0, "Take 0 for the chain alone.")
        check_decay("MarkovContent", content=content)
        self.weight, self.content = weight, content
        self.directions = F.normalize(embeddings.detach().cpu().float(), dim=1)[self.order]

    def _scores(self, histories: Tensor) -> Tensor:
        scores = super()._scores(histories)
        return scores + self.weight * self._cosines(histories) if self.weight else scores

    def _cosines(self, histories: Tensor) -> Tensor:
        """The cosines of items and (B, H) histories, (B, N) float64, items in the order of their popularity."""
        profile = torch.zeros(len(histories), self.directions.shape[1], dtype=torch.float64)
        for column, items in enumerate(histories.T):  # one at a time: (B, D) at most, added in one order
            decay = self.content ** (histories.shape[1] - 1 - column)
            there = items >= 0
            profile[there] += decay * self.directions[self.place[items[there]]]
        nothing = torch.zeros(len(self.order), dtype=torch.float64)
        cosines: Tensor = ordered_linear(F.normalize(profile, dim=1), self.directions, nothing)
        return cosines


def fit_markov_content(
    histories: Histories | Split,
    num_items: int,
    embeddings: Tensor,
    *,
    grid: Sequence[float] = GRID,
    most: int = 20,
    users: int = 5000,
    exclude_seen: bool = True,
) -> MarkovContent:
    """Choose the weight of the content: the one with the best NDCG@10 on validation, the smallest among ties.

    Args:
        histories: a split, whose test is not looked at; or whole histories, which are split leave-one-out.
        num_items: N.
        embeddings: (N, D) floating point, one per item.
        grid: the weights to try.
        most: number of latest items of a history that are read; a split has its own.
        users: how many users are asked about at most; drawn at random, always the same.
        exclude_seen: leave out the items of a query's history.

    Returns:
        The recommender with the chosen weight.

    Raises:
        TypeError: something else than histories, a split or a tensor, or a weight that is no number.
        ValueError: an empty grid, or what `MarkovContent` refuses.
    """
    if not len(grid):
        fail("fit_markov_content", "grid", "some weights", "none", "Pass such as (0.0, 0.1).")
    for weight in grid:
        checks.number("fit_markov_content", grid=weight)
        at_least("fit_markov_content", "grid", weight, 0, "Take 0 for the chain alone.")
    checks.whole("fit_markov_content", users=users)
    at_least("fit_markov_content", "users", users, 1, "Take 5000.")
    flag("fit_markov_content", exclude_seen=exclude_seen)
    split = histories if isinstance(histories, Split) else Split.leave_one_out(histories, most=most)
    found, queries = MarkovContent(split.training, num_items, embeddings), split.validation
    drawn = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:users].sort().values
    reached = dict.fromkeys(sorted(grid), 0.0)
    for rows in drawn.split(found._at_once(queries.histories, 10)):  # the parts of the scores once, for all weights
        asked, targets = queries.histories[rows], queries.targets[rows]
        chain, cosines = MarkovChain._scores(found, asked), found._cosines(asked)
        for weight in reached:
            ranked = found._choose(chain + weight * cosines, asked, 10, exclude_seen)
            reached[weight] += float(ndcgs(*ranks(ranked, targets, found.names), 10).sum())
    found.weight = max(reached, key=lambda weight: reached[weight])
    return found
