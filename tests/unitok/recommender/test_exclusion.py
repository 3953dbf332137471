"""Items that may not be named: those of the history, those that aren't allowed, those that are denied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.unitok.recommender.test_sequence_models import HISTORY, ITEMS, histories, ids, log_probabilities, make
from unitok.recommender import SequenceRecommender, TokenTable

KINDS = pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "rq", "sasrec"])
ALLOW = torch.tensor([*range(0, ITEMS, 2), 1, 3])
DENY = list(range(0, ITEMS, 5))


def recommender(kind: str, beam: int = ITEMS, *, suffix: bool = True) -> SequenceRecommender:
    table = TokenTable.items(ITEMS) if kind == "sasrec" else TokenTable.of(ids(suffix=suffix))
    return make("gpt2" if kind == "sasrec" else kind, table, beam)


def padded(*rows: list[int]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[-1] * (width - len(row)) + row for row in rows])


def left(found: SequenceRecommender, history: torch.Tensor, options: dict[str, Any]) -> set[int]:
    """The items that may be named after a history."""
    items = set(range(ITEMS) if found.rows is None else found.rows.tolist()) - set(options.get("deny", []))
    items &= set(torch.as_tensor(options.get("allow", range(ITEMS))).tolist())
    return items - set(history.tolist() if options.get("exclude_seen", True) else [])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"deny": DENY},
    {"allow": ALLOW, "exclude_seen": False},
    {"allow": ALLOW, "deny": DENY},
]


@KINDS
@torch.no_grad()
def test_ranks_are_those_of_scoring_every_item_and_leaving_some_out(kind: str) -> None:
    found, asked = recommender(kind), histories(3, HISTORY)
    for row, history in enumerate(asked):
        after = F.pad(history[history >= 0].expand(ITEMS, -1), (0, 1))
        after[:, -1] = torch.arange(ITEMS)
        order = log_probabilities(found, after).argsort(descending=True).tolist()
        for options in OPTIONS:
            kept = [item for item in order if item in left(found, history, options)]
            ranked = found.rank(asked, ITEMS, **options)[row].tolist()
            assert ranked == kept + [-1] * (ITEMS - len(kept))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rows", [None, torch.tensor([71, 3, *range(20, 60), 88])])
@pytest.mark.parametrize("kind", ["gpt2", "rq"])
def test_a_name_stays_while_one_of_its_items_is_left(
    kind: str, rows: torch.Tensor | None, options: dict[str, Any]
) -> None:
    whole = recommender(kind, suffix=False)
    found, names = (whole if rows is None else whole.within(rows)), whole.names
    crowd = names.bincount().argmax()
    alike = (names == crowd).nonzero()[:, 0].tolist()
    assert len(alike) > 2
    asked = padded(alike[:-1], alike, [*alike, *range(20, 50)], [])
    every = found.rank(asked, ITEMS, exclude_seen=False).tolist()
    for order, history, ranked in zip(every, asked, found.rank(asked, ITEMS, **options).tolist(), strict=True):
        there = {int(names[item]) for item in left(found, history, options)}
        kept = [name for name in order if name in there]
        assert ranked == kept + [-1] * (ITEMS - len(kept))


@KINDS
def test_a_narrow_beam_fills_the_list_while_items_are_left(kind: str) -> None:
    found, history = recommender(kind, beam=4), histories(HISTORY)[0].tolist()
    first = found.rank([history], 30, exclude_seen=False)[0].tolist()
    asked = padded(history, first + history)  # the same to the model, which reads the latest alone
    denied, seen = found.rank(asked, 4, deny=first)
    assert torch.equal(denied, seen)
    assert min(seen) >= 0
    assert not set(seen.tolist()) & {*first, *history}
    allowed = {*first[:2], 0, 1, 2}
    few = found.rank(asked, 6, allow=sorted(allowed), exclude_seen=False)
    assert [sorted(row) for row in few.tolist()] == [[-1] * (6 - len(allowed)) + sorted(allowed)] * 2
    assert (found.rank(asked, 3, deny=list(range(ITEMS))) == -1).all()


def test_items_before_the_latest_that_are_read_are_left_out_too() -> None:
    found = recommender("gpt2")
    best = found.rank(histories(HISTORY), 5)[0].tolist()
    longer = torch.cat([torch.tensor([[best[0], best[2]]]), histories(HISTORY)], 1)
    assert found.rank(longer, 3)[0].tolist() == [best[1], best[3], best[4]]
    assert found.rank([longer[0].tolist()], 3)[0].tolist() == [best[1], best[3], best[4]]


def test_a_catalogue_of_one_item_is_soon_exhausted() -> None:
    found = recommender("gpt2").within(torch.tensor([7]))
    assert found.rank([[7], [3]], 2).tolist() == [[-1, -1], [7, -1]]
    assert found.rank([[7], [3]], 2, exclude_seen=False).tolist() == [[7, -1], [7, -1]]
    assert found.rank([[], []], 1, deny=[7]).tolist() == [[-1], [-1]]


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_what_is_left_out_hangs_on_no_other_query(kind: str) -> None:
    found, asked = recommender(kind, beam=6), histories(0, 2, HISTORY, 5)
    together = found.rank(asked, 6, deny=DENY)
    assert torch.equal(together, torch.cat([found.rank(history[None], 6, deny=DENY) for history in asked]))


def test_lists_that_do_not_fit_are_refused(refuses: Callable[..., Any]) -> None:
    found = recommender("gpt2")
    for name in ("allow", "deny"):
        for wrong in ([ITEMS], [-1], torch.tensor([[1]]), torch.tensor([1.0]), torch.ones(ITEMS, dtype=torch.bool)):
            with refuses("rank", name):
                found.rank([[1]], 2, **{name: wrong})
        for odd in (3, "12", [1.5]):
            with refuses("rank", name, TypeError):
                found.rank([[1]], 2, **{name: odd})
    with refuses("rank", "exclude_seen", TypeError):
        found.rank([[1]], 2, exclude_seen="no")  # type: ignore[arg-type]
