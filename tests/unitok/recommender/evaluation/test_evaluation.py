"""Evaluation: ranks by item and by token, intervals and p values, and the warning where collisions inflate them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from unitok.recommender import Evaluation, Queries, Scores, evaluate, paired_bootstrap


class Fixed:
    """Names the same list for every query; none holds an item of a history, but for its name."""

    def __init__(self, names: Tensor, ranked: list[int]) -> None:
        self.names, self.ranked = names, torch.tensor(ranked)

    def rank(self, histories: Tensor, k: int, *, exclude_seen: bool = True) -> Tensor:
        ranked = torch.nn.functional.pad(self.ranked[:k], (0, max(0, k - len(self.ranked))), value=-1)
        return ranked.expand(len(histories), -1)


def asking(*targets: int) -> Queries:
    nothing = torch.full((len(targets), 1), -1)
    return Queries(nothing, torch.tensor(targets), torch.arange(len(targets)))


def test_ranks_and_figures_are_those_worked_out_by_hand() -> None:
    ids = torch.tensor([0, 1, 1, 2])  # items 1 and 2 share an ID, which a suffix tells apart
    scores = evaluate(Fixed(torch.arange(4), [2, 0]), asking(0, 1, 2, 3), ids)
    assert scores.item_rank.tolist() == [1, math.inf, 0, math.inf]
    assert scores.token_rank.tolist() == [1, 0, 0, math.inf]
    assert scores.values("recall", 1).tolist() == [0, 0, 1, 0]
    assert scores.values("recall", 1, "token").tolist() == [0, 1, 1, 0]
    assert scores.values("ndcg", 5).tolist() == pytest.approx([1 / math.log2(3), 0, 1, 0])
    # Without the suffix the two share a name: half the credit by item, all of it by token.
    scores = evaluate(Fixed(ids, [1, 0]), asking(0, 1, 2, 3))
    assert scores.values("recall", 5).tolist() == [1, 0.5, 0.5, 0]
    assert scores.values("recall", 5, "token").tolist() == [1, 1, 1, 0]


def test_colliding_on_purpose_wins_by_token_alone() -> None:
    """The trap: the fewer IDs there are, the better a recommender that knows nothing looks by token."""
    items, queries = 300, asking(*range(300))
    shown = {}
    for distinct in (300, 30, 3):
        ids = torch.arange(items) % distinct
        shown[distinct] = evaluate(Fixed(ids, list(range(min(10, distinct)))), queries)
    recall = {n: [float(s.values("recall", 10, level).mean()) for level in ("item", "token")] for n, s in shown.items()}
    assert recall[300] == pytest.approx([10 / 300, 10 / 300])
    assert recall[30] == pytest.approx([10 / 300, 10 / 30])
    assert recall[3] == pytest.approx([3 / 300, 1])


def test_scores_survive_json() -> None:
    scores = evaluate(Fixed(torch.arange(4), [2, 0]), asking(0, 1, 2, 3), torch.tensor([0, 1, 1, 2]))
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    for name in ("item_rank", "credit", "token_rank"):
        assert torch.equal(getattr(again, name), getattr(scores, name))
    assert again.exclude_seen is True
    older = {name: value for name, value in scores.to_dict().items() if "seen" not in name}
    assert (Scores.from_dict(older).exclude_seen, Scores.from_dict(older).seen_targets) == (False, 0)


def test_a_target_of_the_history_is_not_found_and_counted() -> None:
    names = torch.tensor([0, 1, 1, 1, 2])
    histories = torch.tensor([[-1, 3, 3], [0, 2, 4], [1, 3, 2], [-1, -1, -1]])
    queries = Queries(histories, torch.tensor([1, 2, 0, 3]), torch.arange(4))
    left_out = evaluate(Fixed(names, [1, 0]), queries)
    # Of the first query's three items of name 1, one was met, twice: the other two share the hit.
    assert left_out.values("recall").tolist() == pytest.approx([1 / 2, 0, 1, 1 / 3])
    assert left_out.values("recall", level="token").tolist() == [1, 1, 1, 1]
    assert (left_out.exclude_seen, left_out.seen_targets) == (True, 1)
    ranked = evaluate(Fixed(names, [1, 0]), queries, exclude_seen=False)
    assert ranked.values("recall").tolist() == pytest.approx([1 / 3, 1 / 3, 1, 1 / 3])
    assert (ranked.exclude_seen, ranked.seen_targets) == (False, 1)

    for scores, said in ((left_out, "left out"), (ranked, "ranked as all others")):
        evaluation = Evaluation("made", {"model": [scores]})
        plain = evaluation.to_dict()
        assert (plain["exclude_seen"], plain["seen_targets"]) == (scores.exclude_seen, 1)
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(evaluation.to_table())
        text = console.export_text()
        assert said in text
        assert "In 1 of 4 queries the target is in the history" in text
        assert ("can't be found" in text) == scores.exclude_seen


def test_cold_and_warm_targets_are_told_apart() -> None:
    ids, cold = torch.arange(100), torch.tensor([False, True, True, False])
    asked = replace(asking(0, 40, 60, 99), cold=cold)
    fixed = Fixed(ids, list(range(100)))
    scores = evaluate(fixed, asked)  # looks as far as 50 where some targets are cold
    assert scores.item_rank.tolist() == [0, 40, math.inf, math.inf]
    assert evaluate(fixed, asking(0, 40)).item_rank.tolist() == [0, math.inf]
    assert torch.equal(Scores.from_dict(json.loads(json.dumps(scores.to_dict()))).cold, cold)
    assert "cold" not in evaluate(fixed, asking(0, 40)).to_dict()

    evaluation = Evaluation("made", {"model": [scores]}, ["model"])
    recalls = [evaluation.figures("model", "recall", 50, targets=targets) for targets in ("all", "warm", "cold")]
    assert recalls == [(1 / 2, None)] * 3
    assert evaluation.figures("model", targets="warm") == (1 / 2, None)
    assert evaluation.figures("model", targets="cold") == (0, None)
    plain = evaluation.to_dict()
    assert (plain["queries"], plain["cold_targets"]) == (4, 2)
    figures = plain["figures"]["model"]
    assert figures["cold"]["item"] == {
        **{f"{metric}@{k}": {"mean": 0, "deviation": None} for metric in ("recall", "ndcg") for k in (5, 10)},
        "recall@50": {"mean": 1 / 2, "deviation": None},
    }
    assert figures["warm"]["item"]["ndcg@10"]["mean"] == 1 / 2
    assert figures["item"]["ndcg@10"]["mean"] == 1 / 4
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(evaluation.to_table())
    text = console.export_text()
    for wanted in ("Recall@50", "targets", "warm", "2 of 4 targets are cold"):
        assert wanted in text


def test_without_a_cold_split_nothing_is_told_apart() -> None:
    scores = evaluate(Fixed(torch.arange(4), [2, 0]), asking(0, 1))
    evaluation = Evaluation("made", {"model": [scores]})
    plain = evaluation.to_dict()
    assert "cold_targets" not in plain
    assert list(plain["figures"]["model"]) == ["item", "token", "seeds"]
    assert list(plain["figures"]["model"]["item"]) == ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(evaluation.to_table())
    text = console.export_text()
    assert "@50" not in text
    assert "cold" not in text
    warm = evaluate(Fixed(torch.arange(4), [2, 0]), replace(asking(0, 1), cold=torch.tensor([False, False])))
    found = Evaluation("made", {"model": [warm]}).to_dict()  # there may be no cold target
    assert found["cold_targets"] == 0
    assert list(found["figures"]["model"]) == ["item", "token", "seeds", "warm"]


def test_bootstrap_agrees_with_drawing_the_queries_themselves() -> None:
    generator = np.random.default_rng(1)
    differences = generator.choice([0.0, 0.5, -0.3, 1.0], 400, p=[0.7, 0.1, 0.15, 0.05])
    found = paired_bootstrap(torch.from_numpy(differences), seed=3)
    means = differences[generator.integers(0, 400, (10_000, 400))].mean(1)
    assert found.mean == pytest.approx(differences.mean())
    spread = differences.std() / 20
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.1 * spread)
    assert found.p == pytest.approx(2 * (means <= 0).mean(), abs=0.02)
    assert paired_bootstrap(torch.from_numpy(differences), seed=3) == found
    turned = paired_bootstrap(torch.from_numpy(-differences), seed=3)
    assert [turned.mean, turned.p] == pytest.approx([-found.mean, found.p], abs=0.02)


def test_p_is_uniform_where_there_is_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    p = [paired_bootstrap(torch.randn(100, generator=generator).double(), 400, seed).p for seed in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.1
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    assert paired_bootstrap(torch.zeros(50, dtype=torch.float64)).p == 1
    assert paired_bootstrap(torch.ones(50, dtype=torch.float64)).p == 1e-4


def test_an_evaluation_tells_seeds_baselines_and_the_warning() -> None:
    queries, ids = asking(*range(8)), torch.arange(8) // 2
    runs = {
        "model": [evaluate(Fixed(torch.arange(8), list(range(n))), queries, ids) for n in (4, 6)],
        "none": [evaluate(Fixed(torch.arange(8), [0]), queries, ids)],
    }
    evaluation = Evaluation("[/made]", runs, ["none"])
    assert evaluation.figures("model", "recall", 10) == pytest.approx((5 / 8, math.sqrt(2) / 8))
    assert evaluation.figures("none", "recall", 10, "token") == (2 / 8, None)
    against = evaluation.against("model", "none", "recall")
    assert against.mean == pytest.approx(4 / 8)
    assert 0 < against.low < against.mean < against.high < 1
    plain = json.loads(json.dumps(evaluation.to_dict()))
    assert "inflate" in plain["warning"]
    assert plain["figures"]["model"]["token"]["recall@10"]["mean"] == pytest.approx(5 / 8)
    assert plain["against"]["model"]["none"]["recall@10"]["mean"] == pytest.approx(4 / 8)
    assert plain["against"]["none"] == {}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(evaluation.to_table())
    text = console.export_text()
    assert "inflate" in text
    assert "[/made]" in text  # no markup
    assert ".6250 ± .1768" in text
    assert text.index("model") < text.index("none")


def test_what_does_not_fit_is_refused(refuses) -> None:
    queries = asking(0, 1)
    with refuses("evaluate", "k"):
        evaluate(Fixed(torch.arange(2), [0]), queries, k=0)
    with refuses("evaluate", "ids"):
        evaluate(Fixed(torch.zeros(2, dtype=torch.int64), [0]), queries, torch.arange(2))
    scores = evaluate(Fixed(torch.arange(2), [0]), queries)
    for argument in ("metric", "level"):
        with refuses("values", argument):
            scores.values(**{argument: "hits"})
    with refuses("paired_bootstrap", "queries and resamples"):
        paired_bootstrap(torch.zeros(0))
    for runs in ({"a": [scores], "b": []}, {}, {"a": [scores, evaluate(Fixed(torch.arange(2), [0]), asking(0))]}):
        with refuses("Evaluation", "runs"):
            Evaluation("made", runs)
    with refuses("Evaluation", "runs"):
        Evaluation("made", {"a": [scores], "b": [evaluate(Fixed(torch.arange(2), [0]), queries, exclude_seen=False)]})
    for cold in ([True, False], [False, False]):
        others = replace(queries, cold=torch.tensor(cold))
        with refuses("Evaluation", "runs"):
            Evaluation("made", {"a": [scores], "b": [evaluate(Fixed(torch.arange(2), [0]), others)]})
    with refuses("Evaluation", "baselines"):
        Evaluation("made", {"a": [scores]}, ["b"])


def test_odd_types_are_refused(refuses: Callable[..., Any]) -> None:
    fixed, queries = Fixed(torch.arange(4), [2, 0]), asking(0, 1)
    calls: list[tuple[str, str, Any, Callable[[], object]]] = [
        ("evaluate", "recommender", TypeError, lambda: evaluate([2, 0], queries)),  # type: ignore[arg-type]
        ("evaluate", "queries", TypeError, lambda: evaluate(fixed, [[0, 1]])),  # type: ignore[arg-type]
        ("evaluate", "k", TypeError, lambda: evaluate(fixed, queries, k="5")),  # type: ignore[arg-type]
        ("evaluate", "exclude_seen", TypeError, lambda: evaluate(fixed, queries, exclude_seen=1)),  # type: ignore[arg-type]
        ("evaluate", "ids", TypeError, lambda: evaluate(fixed, queries, [0, 1, 2, 3])),  # type: ignore[arg-type]
        ("evaluate", "ids", ValueError, lambda: evaluate(fixed, queries, torch.arange(3))),
        ("evaluate", "queries.targets", ValueError, lambda: evaluate(fixed, asking(0, 4))),
        ("values", "k", TypeError, lambda: evaluate(fixed, queries).values(k=2.5)),  # type: ignore[arg-type]
        ("Scores.from_dict", "lists", ValueError, lambda: Scores.from_dict({"credit": [1.0]})),
        ("Scores.from_dict", "lists", ValueError, lambda: Scores.from_dict([1.0])),  # type: ignore[arg-type]
        (
            "Scores.from_dict",
            "lists",
            ValueError,
            lambda: Scores.from_dict(evaluate(fixed, queries).to_dict() | {"seen_targets": "2"}),
        ),
        (
            "Scores.from_dict",
            "lists",
            ValueError,
            lambda: Scores.from_dict(evaluate(fixed, queries).to_dict() | {"cold": [0, 1]}),
        ),
        ("paired_bootstrap", "differences", TypeError, lambda: paired_bootstrap([0.5])),  # type: ignore[arg-type]
        ("paired_bootstrap", "seed", TypeError, lambda: paired_bootstrap(torch.ones(2), seed="0")),  # type: ignore[arg-type]
    ]
    evaluation = Evaluation("made", {"model": [evaluate(fixed, queries)]})
    calls.append(("figures", "name", ValueError, lambda: evaluation.figures("other")))
    calls.append(("figures", "targets", ValueError, lambda: evaluation.figures("model", targets="cold")))
    calls.append(("against", "baseline", ValueError, lambda: evaluation.against("model", "other")))
    for what, argument, error, call in calls:
        with refuses(what, argument, error):
            call()
