"""One evaluation for every recommender: by item and, for comparison only, by token.

Figures are kept per query, so that two recommenders can be compared on the same queries: recommenders differ much less
than queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitok.recommender.evaluation.bootstrap import RESAMPLES, Difference, resampled
from unitok.recommender.evaluation.ranking import LEVELS, ndcgs, ranks, recalls
from unitok.recommender.histories import Queries, Recommender, as_histories
from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail, flag, one_of

if TYPE_CHECKING:
    from rich.table import Table

CUTOFFS = (5, 10)
FURTHER = 50  # how far a cold target is looked for: few are among the first 10
METRICS = {"recall": recalls, "ndcg": ndcgs}
WARNING = "Token-level figures count any item of the target's ID as a hit: collisions inflate them."


@dataclass(frozen=True, eq=False)
class Scores:
    """Where one recommender ranks the targets of Q queries.

    Attributes:
        item_rank: (Q,) float64, names that stand before the target's; inf where it isn't named.
        credit: (Q,) float64, 1 / items that share the target's name, excluded ones not counted.
        token_rank: (Q,) float64, names that stand before the first one of the target's ID; inf where none is named.
        exclude_seen: whether the items of each query's history were left out.
        seen_targets: queries whose target is in their history; if those items are left out, it can't be found.
        cold: (Q,) bool, whether no training history holds the target; None where nobody asked.
    """

    item_rank: Tensor
    credit: Tensor
    token_rank: Tensor
    exclude_seen: bool = False
    seen_targets: int = 0
    cold: Tensor | None = None

    def __len__(self) -> int:
        return len(self.credit)

    def values(self, metric: str = "ndcg", k: int = 10, level: str = "item") -> Tensor:
        """Give a metric query by query.

        Args:
            metric: "recall" | "ndcg".
            k: names that count.
            level: "item" | "token"; the latter is inflated by collisions.

        Returns:
            (Q,) float64.

        Raises:
            ValueError: an unknown metric or level, or k below 1.
        """
        return self._values("values", metric, k, level)

    def _values(self, what: str, metric: str, k: int, level: str) -> Tensor:
        """`values`, for the operation that a message names."""
        checks.whole(what, k=k)
        one_of(what, "metric", metric, tuple(METRICS))
        one_of(what, "level", level, LEVELS)
        if level == "item":
            return METRICS[metric](self.item_rank, self.credit, k, what)
        return METRICS[metric](self.token_rank, torch.ones_like(self.credit), k, what)

    def to_dict(self) -> dict[str, Any]:
        """Write all as JSON can hold it.

        Returns:
            The fields by name, None in place of inf.
        """
        ranks = {"item_rank": self.item_rank, "token_rank": self.token_rank}
        lists = {name: [int(r) if r < torch.inf else None for r in rank.tolist()] for name, rank in ranks.items()}
        plain = {"exclude_seen": self.exclude_seen, "seen_targets": self.seen_targets}
        cold = {} if self.cold is None else {"cold": self.cold.tolist()}
        return {**lists, "credit": self.credit.tolist(), **plain, **cold}

    @classmethod
    def from_dict(cls, lists: Mapping[str, Any]) -> Scores:
        """Read what `to_dict` wrote; what an older release wrote is of ranks with the history included.

        Args:
            lists: the fields by name.

        Returns:
            The scores.

        Raises:
            ValueError: fields that are missing, or of another type.
        """
        for name in ("item_rank", "token_rank", "credit"):
            found = lists.get(name) if isinstance(lists, Mapping) else None
            if not isinstance(found, list | tuple) or not all(isinstance(v, int | float | None) for v in found):
                step = "Pass what Scores.to_dict wrote."
                fail("Scores.from_dict", "lists", f"lists of numbers, with {name}", type(found).__name__, step)
        fields = {
            name: torch.tensor([torch.inf if v is None else v for v in lists[name]], dtype=torch.float64)
            for name in ("item_rank", "credit", "token_rank")
        }
        seen, count = lists.get("exclude_seen", False), lists.get("seen_targets", 0)
        if not isinstance(seen, bool) or type(count) is not int:
            step = "Pass what Scores.to_dict wrote."
            fail("Scores.from_dict", "lists", "of a bool exclude_seen and an int seen_targets", (seen, count), step)
        cold = lists.get("cold")
        if cold is not None and not (isinstance(cold, list | tuple) and all(isinstance(v, bool) for v in cold)):
            fail("Scores.from_dict", "lists", "of bools as cold", cold, "Pass what Scores.to_dict wrote.")
        known = None if cold is None else torch.tensor(cold, dtype=torch.bool)
        return cls(**fields, exclude_seen=seen, seen_targets=count, cold=known)


def evaluate(
    recommender: Recommender,
    queries: Queries,
    ids: Tensor | None = None,
    k: int | None = None,
    *,
    exclude_seen: bool = True,
) -> Scores:
    """Rank the whole catalogue for every query, and find the ranks of the targets.

    If the items of a query's history are left out, a target that is among them can't be found by item.

    Args:
        recommender: what ranks.
        queries: what is asked, such as `Histories.queries("test")` or `Split.test`.
        ids: (N,) int64, the ID of each item without a suffix, as `SemanticIds.groups` numbers them, for the token
            level; by default the recommender's names.
        k: names that are asked for; no metric can look further. By default 10, or 50 if the queries say which targets
            are cold.
        exclude_seen: leave out the items of each query's history, as far as the query holds it.

    Returns:
        The scores, with the number of queries whose target is in their history.

    Raises:
        TypeError: something else than a recommender or queries, or IDs that are no tensor.
        ValueError: k is below 1, histories hold something else than the recommender's items, or items of one name have
            several IDs.
    """
    for name, value, needed, step in (
        ("recommender", recommender, "rank", "Pass a model or a baseline."),
        ("queries", queries, "targets", "Make them with Histories.queries."),
    ):
        if not hasattr(value, needed):
            rule = "a recommender" if name == "recommender" else "Queries"
            fail("evaluate", name, rule, type(value).__name__, step, TypeError)
    if k is None:
        k = max(CUTOFFS) if queries.cold is None else FURTHER
    checks.whole("evaluate", k=k)
    flag("evaluate", exclude_seen=exclude_seen)
    at_least("evaluate", "k", k, 1, "Use 10, a common value.")
    names = recommender.names
    as_histories("evaluate", "queries.histories", queries.histories, len(names))
    if ((queries.targets < 0) | (queries.targets >= len(names))).any():
        got = f"{int(queries.targets.min())} to {int(queries.targets.max())}"
        step = "Number the items as the recommender does."
        fail("evaluate", "queries.targets", f"of the {len(names)} items", got, step)
    if ids is not None:
        checks.tensors("evaluate", ids=ids)
        if ids.dtype != torch.int64 or ids.shape != names.shape:
            got = f"{ids.dtype} of shape {tuple(ids.shape)}"
            fail("evaluate", "ids", f"int64 of shape {tuple(names.shape)}", got, "Pass SemanticIds.groups.")
    ids = names if ids is None else ids
    id_of = torch.empty(int(names.max()) + 1, dtype=torch.int64)
    id_of[names] = ids
    if not torch.equal(id_of[names], ids):
        row = int((id_of[names] != ids).nonzero()[0, 0])
        got = f"{int(ids[row])} for item {row} and {int(id_of[names[row]])} for another of its name"
        fail("evaluate", "ids", "equal where names are", got, "Pass the IDs that the recommender knows.")
    ranked = recommender.rank(queries.histories, k, exclude_seen=exclude_seen)
    tokens = torch.where(ranked >= 0, id_of[ranked], -1)
    item_rank, credit = ranks(ranked, queries.targets, names, what="evaluate")
    met = (queries.histories == queries.targets[:, None]).any(1)
    if exclude_seen:
        item_rank = item_rank.masked_fill(met, torch.inf)  # also if its name stands for others that may be named
        credit = 1 / (1 / credit - _others_seen(queries, names))
    token_rank = ranks(tokens, queries.targets, ids, "token", "evaluate")[0]
    return Scores(item_rank, credit, token_rank, exclude_seen, int(met.sum()), queries.cold)


def _others_seen(queries: Queries, names: Tensor) -> Tensor:
    """How many items of each query's history share the target's name, the target itself not counted, (Q,) float64."""
    items = queries.histories.sort(dim=1).values  # equal ones stand together, to be counted once
    first = torch.ones_like(items, dtype=torch.bool)
    first[:, 1:] = items[:, 1:] != items[:, :-1]
    alike = (items >= 0) & (names[items] == names[queries.targets][:, None])  # -1 reads the last name, and is left out
    return (first & alike & (items != queries.targets[:, None])).sum(1).double()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Several recommenders on one domain's queries, each with the scores of all its seeds.

    Args:
        domain: name of the domain that was asked about.
        runs: the scores of each recommender by name, one per seed; only one if there is no randomness.
        baselines: the recommenders that all others are compared with.

    Raises:
        ValueError: no scores; scores of other queries, with other targets that are cold, or with items of the history
            both left out and ranked; or a baseline that isn't among the runs.
    """

    domain: str
    runs: Mapping[str, Sequence[Scores]]
    baselines: Iterable[str] = field(default=())

    def __post_init__(self) -> None:
        """Check that all can be compared."""
        sizes = {name: {len(scores) for scores in seeds} for name, seeds in self.runs.items()}
        if len(set().union(*sizes.values())) != 1 or not all(sizes.values()):
            raise ValueError(f"Evaluation: runs must be of the same queries, got {sizes}. Evaluate all on one set.")
        if len({scores.exclude_seen for scores in self._all}) > 1:
            rule = "runs must all leave out the items of the history, or none"
            raise ValueError(f"Evaluation: {rule}, got both. Evaluate all with the same exclude_seen.")
        if len({scores.cold if scores.cold is None else tuple(scores.cold.tolist()) for scores in self._all}) > 1:
            fail("Evaluation", "runs", "of the same cold targets", "others", "Evaluate all on the same queries.")
        if missing := [name for name in self.baselines if name not in self.runs]:
            raise ValueError(f"Evaluation: baselines must be among the runs, got {missing[0]}. Evaluate it as well.")

    @property
    def _all(self) -> list[Scores]:
        return [scores for seeds in self.runs.values() for scores in seeds]

    @property
    def _any(self) -> Scores:
        """One of the scores: all are of the same queries."""
        return self._all[0]

    @property
    def _groups(self) -> dict[str, Tensor]:
        """The queries of each group of targets that there is, (Q,) bool; without a cold split, all are one."""
        cold, every = self._any.cold, {"all": torch.ones(len(self._any), dtype=torch.bool)}
        parts = {} if cold is None else {"warm": ~cold, "cold": cold}
        return every | {targets: rows for targets, rows in parts.items() if bool(rows.any())}

    @property
    def _shown(self) -> list[tuple[str, int]]:
        """The metrics that a table shows."""
        further = [] if self._any.cold is None else [("recall", FURTHER)]
        return [(metric, k) for metric in METRICS for k in CUTOFFS] + further

    def figures(
        self, name: str, metric: str = "ndcg", k: int = 10, level: str = "item", targets: str = "all"
    ) -> tuple[float, float | None]:
        """Give mean and standard deviation over seeds.

        Args:
            name: of the recommender.
            metric: "recall" | "ndcg".
            k: names that count.
            level: "item" | "token"; the latter is inflated by collisions.
            targets: "all" | "warm" | "cold": the queries that count; the latter two if these say which is which.

        Returns:
            The mean, and the deviation (n - 1 below; None for one seed).

        Raises:
            ValueError: an unknown name, metric or level, k below 1, or targets that no query has.
        """
        one_of("figures", "name", name, tuple(self.runs))
        one_of("figures", "targets", targets, tuple(self._groups))
        return self._figures(name, metric, k, level, targets)

    def _figures(self, name: str, metric: str, k: int, level: str, targets: str = "all") -> tuple[float, float | None]:
        """`figures` of a recommender that is among the runs."""
        rows = self._groups[targets]
        means = torch.stack([scores._values("figures", metric, k, level)[rows].mean() for scores in self.runs[name]])
        return float(means.mean()), float(means.std()) if len(means) > 1 else None

    def against(self, name: str, baseline: str, metric: str = "ndcg", k: int = 10, seed: int = 0) -> Difference:
        """Compare two recommenders at the item level, query by query, each averaged over its seeds.

        Args:
            name: of the one.
            baseline: of the other.
            metric: "recall" | "ndcg".
            k: names that count.
            seed: of the bootstrap.

        Returns:
            The difference, above 0 where `name` is better.

        Raises:
            ValueError: an unknown name or metric, k below 1, or scores of no queries.
        """
        return self._against("against", name, baseline, metric, k, seed)

    def _against(
        self, what: str, name: str, baseline: str, metric: str = "ndcg", k: int = 10, seed: int = 0
    ) -> Difference:
        """`against`, for the operation that a message names."""
        for argument, asked in (("name", name), ("baseline", baseline)):
            one_of(what, argument, asked, tuple(self.runs))
        one, other = (
            torch.stack([scores._values(what, metric, k, "item") for scores in self.runs[n]]).mean(0)
            for n in (name, baseline)
        )
        return resampled(what, one - other, RESAMPLES, seed)

    def to_dict(self) -> dict[str, Any]:
        """Write all figures as plain data.

        Returns:
            For JSON: the figures by recommender and level, the differences from the baselines, and the warning. If the
            queries say which targets are cold, their number, and the figures of those and of the others.

        Raises:
            ValueError: the scores are of no queries.
        """
        parts = [targets for targets in self._groups if targets != "all"]
        return {
            "domain": self.domain,
            "queries": len(self._any),
            **({} if self._any.cold is None else {"cold_targets": int(self._any.cold.sum())}),
            "exclude_seen": self._any.exclude_seen,
            "seen_targets": self._any.seen_targets,
            "warning": WARNING,
            "figures": {
                name: self._written(name, "all")
                | {"seeds": len(seeds)}
                | {targets: self._written(name, targets) for targets in parts}
                for name, seeds in self.runs.items()
            },
            "against": {
                name: {
                    baseline: {
                        f"{metric}@10": vars(self._against("to_dict", name, baseline, metric)) for metric in METRICS
                    }
                    for baseline in self.baselines
                    if baseline != name
                }
                for name in self.runs
            },
        }

    def _written(self, name: str, targets: str) -> dict[str, Any]:
        """The figures of a group of targets for `to_dict`, by level."""
        keys = ("mean", "deviation")
        return {
            level: {
                f"{metric}@{k}": dict(zip(keys, self._figures(name, metric, k, level, targets), strict=True))
                for metric, k in self._shown
            }
            for level in LEVELS
        }

    def to_table(self) -> Table:
        """Return the figures as a table for the terminal; `rich.print` shows it.

        Returns:
            One row per recommender, best NDCG@10 by item first; what became of the history and the warning below. If
            the queries say which targets are cold, a row for those and one for the others, too, all by item alone.
        """
        from rich.table import Table
        from rich.text import Text

        how = "left out" if self._any.exclude_seen else "ranked as all others"
        caption = f"Items of a user's history are {how}."
        if count := self._any.seen_targets:
            lost = ", so that it can't be found by item" if self._any.exclude_seen else ""
            caption += f"\nIn {count} of {len(self._any)} queries the target is in the history{lost}."
        cold = self._any.cold
        levels = LEVELS if cold is None else LEVELS[:1]  # by token is for comparison with what others published
        below = (
            WARNING if cold is None else f"{int(cold.sum())} of {len(cold)} targets are cold: in no training history."
        )
        table = Table(title=Text(str(self.domain), style="table.title"), caption=f"{caption}\n{below}")
        for title in ("recommender",) if cold is None else ("recommender", "targets"):
            table.add_column(title)
        columns = [(level, metric, k) for level in levels for metric, k in self._shown]
        for level, metric, k in columns:
            title = f"{'NDCG' if metric == 'ndcg' else 'Recall'}@{k}\nby {level}"
            table.add_column(title, justify="right", style="dim" if level == "token" else "")
        for name in sorted(self.runs, key=lambda n: -self._figures(n, "ndcg", 10, "item")[0]):
            for targets in self._groups:
                cells = [written(*self._figures(name, metric, k, level, targets)) for level, metric, k in columns]
                table.add_row(Text(str(name)), *([] if cold is None else [targets]), *cells)
        return table


def written(mean: float, deviation: float | None) -> str:
    """Write a figure: .0472, or .0472 ± .0003 if there are several seeds."""
    parts = [f"{value:.4f}".removeprefix("0") for value in (mean, deviation) if value is not None]
    return " ± ".join(parts)
