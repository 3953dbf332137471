"""What a recommender learns from and what it is asked: leave-one-out, with items left out, or by a point in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitok.recommender.histories import Histories, Queries, check_is_histories
from unitok_kernels import checks
from unitok_kernels.rules import fail

SPLITS = ("leave-one-out", "cold", "time")  # what `how` names as the kind
SHARES = (0.8, 0.1, 0.1)  # of the events: before the first point in time, between the two, after the second

Times = Tensor | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Split:
    """What a recommender learns from, and what it is asked for validation and for test.

    `leave_one_out`, `cold_items` and `by_time` make it of whole histories.

    Attributes:
        training: what is learnt from: the same users as in the whole histories, some of them without items.
        validation: queries to choose settings and the best epoch by; rows of `users` are those of `training`.
        test: queries to report, alike.
        how: how it was made, plain data for JSON: its `kind`, one of SPLITS, and the settings of the maker.

    Raises:
        TypeError: a field of another type.
    """

    training: Histories
    validation: Queries
    test: Queries
    how: dict[str, Any]

    def __post_init__(self) -> None:
        """Check that each is what it should be."""
        step = "Make it with Split.leave_one_out, Split.cold_items or Split.by_time."
        fields = {"training": Histories, "validation": Queries, "test": Queries, "how": dict}
        for name, kind in fields.items():
            if not isinstance(value := getattr(self, name), kind):
                fail("Split", name, f"of the type {kind.__name__}", type(value).__name__, step, TypeError)

    @classmethod
    def leave_one_out(cls, histories: Histories, *, most: int = 20) -> Split:
        """Ask every user with at least 3 items for the last two, as `Histories.queries` does.

        Args:
            histories: whole histories.
            most: H, the number of latest items that are kept of a query's history.

        Returns:
            The split; `cold` of its queries is None.

        Raises:
            TypeError: something else than histories or a number.
            ValueError: a query's history of no items.

        Source:
            The protocol of SASRec, arXiv 1808.09781.
        """
        check_is_histories("leave_one_out", histories)
        validation, test = (histories.queries(part, most) for part in ("validation", "test"))
        return cls(histories.training(), validation, test, {"kind": "leave-one-out"})

    @classmethod
    def cold_items(
        cls, histories: Histories, num_items: int, *, share: float = 0.1, seed: int = 0, most: int = 20
    ) -> Split:
        """Leave a share of the items out of training, and ask the same queries as leave-one-out does.

        The items are drawn of the whole catalogue. In training, a user's history is as if those items had never been
        met. A query's history holds them: a user has met them, as users of a running system meet what came after the
        training, and so every query is that of leave-one-out, and figures can be compared query by query.

        Args:
            histories: whole histories.
            num_items: N.
            share: of the N items, in (0, 1).
            seed: of the draw.
            most: H, the number of latest items that are kept of a query's history.

        Returns:
            The split. A target is cold if no training history holds it: if it was left out, or was met last alone.

        Raises:
            TypeError: something else than histories or numbers.
            ValueError: a share that leaves out no item or all of them, or histories of other items.
        """
        what = "cold_items"
        check_is_histories(what, histories)
        checks.whole(what, num_items=num_items, seed=seed)
        checks.number(what, share=share)
        if len(histories.items) and int(histories.items.max()) >= num_items:
            got = int(histories.items.max())
            fail(what, "histories", f"of items in [0, {num_items})", got, "Pass the number of all items.")
        if not (0 < share < 1 and 0 < (count := round(share * num_items)) < num_items):
            fail(what, "share", f"in (0, 1) and leave out some of the {num_items} items", share, "Take 0.1.")
        left_out = torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))[:count]
        whole = cls.leave_one_out(histories, most=most)
        training = whole.training._only(~torch.isin(whole.training.items, left_out))
        return cls._of(training, whole.validation, whole.test, {"kind": "cold", "share": share, "seed": seed})

    @classmethod
    def by_time(
        cls, histories: Histories, times: Times, points: Sequence[float] | None = None, *, most: int = 20
    ) -> Split:
        """Learn from what was before a point in time, the same for all users, and ask for what came after it.

        For each of the two points, a user is asked for the first item at or after it, given all before it. That item
        is a target of validation if it is before the second point. Users of no earlier item are in no query: nothing
        is known of them.

        Args:
            histories: whole histories, each in order of time.
            times: (M,) seconds, when each of `histories.items` was met, such as `Interactions.timestamps`.
            points: where validation and where test begin, in the same seconds; by default `points_in_time(times)`.
            most: H, the number of latest items that are kept of a query's history.

        Returns:
            The split. A target is cold if no training history holds it.

        Raises:
            TypeError: something else than histories, times or numbers.
            ValueError: times of another shape or not finite, points that don't rise, or no event before the first,
                between the two or after the second.
        """
        what = "by_time"
        check_is_histories(what, histories)
        at = _seconds(what, times)
        if len(at) != len(histories.items):
            step = "Pass the timestamps of the interactions that the histories were made of."
            fail(what, "times", f"({len(histories.items)},), one per item", tuple(at.shape), step)
        if points is None:
            points = points_in_time(at)
        if not isinstance(points, list | tuple) or len(points) != 2:
            fail(what, "points", "two points in time", points, "Take points_in_time(times).")
        checks.number(what, points=points[0])
        checks.number(what, points=points[1])
        first, second = map(float, points)
        parts = [int(part.sum()) for part in (at < first, (at >= first) & (at < second), at >= second)]
        if not first < second or not all(parts):
            got = f"{first:.15g} and {second:.15g}, with {', '.join(map(str, parts))} events"
            fail(what, "points", "rising, with events before, between and after them", got, "Choose other points.")
        training = histories._only(at < first)
        validation, test = (_first_after(histories, at, *span, most) for span in ((first, second), (second, math.inf)))
        return cls._of(training, validation, test, {"kind": "time", "points": [first, second]})

    @classmethod
    def _of(cls, training: Histories, validation: Queries, test: Queries, how: dict[str, Any]) -> Split:
        """Tell which targets no training history holds."""
        validation, test = (
            replace(asked, cold=~torch.isin(asked.targets, training.items)) for asked in (validation, test)
        )
        return cls(training, validation, test, how)


def points_in_time(times: Times, shares: Sequence[float] = SHARES) -> tuple[float, float]:
    """Find the two points in time that divide all events into training, validation and test.

    A point is the time of an event. That event and all of the same time are after it, so what comes before a point may
    be less than its share.

    Args:
        times: (M,) seconds.
        shares: of the events: before the first point, between the two, and after the second; they sum to 1.

    Returns:
        The times at which validation and test begin.

    Raises:
        TypeError: times that are no tensor or array of numbers, or a share that is no number.
        ValueError: no times, times that are not finite, or shares that aren't three parts of 1.
    """
    what = "points_in_time"
    ordered = _seconds(what, times).sort().values
    if not len(ordered):
        fail(what, "times", "of some events", 0, "Pass the timestamps of all interactions.")
    for share in shares:
        checks.number(what, shares=share)
    if len(shares) != 3 or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1):
        fail(what, "shares", "three parts of 1, each above 0", shares, "Take (0.8, 0.1, 0.1).")
    places = (round(shares[0] * len(ordered)), round((shares[0] + shares[1]) * len(ordered)))
    first, second = (float(ordered[min(place, len(ordered) - 1)]) for place in places)
    return first, second


def _first_after(histories: Histories, at: Tensor, start: float, end: float, most: int) -> Queries:
    """Ask each user who has earlier items for the first one at or after `start`, if it is before `end`."""
    user = torch.arange(len(histories)).repeat_interleave(histories.lengths)
    places = (at >= start).nonzero()[:, 0]
    is_first = torch.ones_like(places, dtype=torch.bool)
    is_first[1:] = user[places[1:]] != user[places[:-1]]
    places = places[is_first]
    places = places[(at[places] < end) & (places > histories.offsets[user[places]])]
    return histories._ask("by_time", user[places], places, most)


def _seconds(what: str, times: object) -> Tensor:
    """Take times as (M,) float64: in float32, times of today are minutes apart."""
    if isinstance(times, np.ndarray) and times.dtype.kind in "iuf":
        times = torch.from_numpy(np.array(times, dtype=np.float64, order="C"))
    if not isinstance(times, Tensor) or times.is_complex() or times.dtype == torch.bool:
        got = getattr(times, "dtype", type(times).__name__)
        step = "Read interactions that have a timestamp for each event, or split them in another way."
        fail(what, "times", "a tensor or an array of seconds", got, step, TypeError)
    found = times.detach().cpu().double()
    if found.ndim != 1:
        fail(what, "times", "of shape (M,)", tuple(found.shape), "Pass one time per item.")
    checks.finite(what, "times", found, "Drop the events whose time is unknown.")
    return found
