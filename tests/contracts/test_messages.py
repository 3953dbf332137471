"""A message names the call that the user made, whatever helper found the fault: each is reached by several doors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unitok.serving
from unitok import SemanticIds, Tokenizer, UniTokConfig, UniTokModel, metrics
from unitok.ids.table import IdTable
from unitok.model.saved import DomainInfo
from unitok.recommender import Evaluation, Popularity, Queries, Scores, TokenTable, evaluate
from unitok.recommender.evaluation.ranking import ndcg, recall

SIZES: dict[str, Any] = {"num_levels": 2, "codebook_size": 4, "num_experts": 2}
WIDE = torch.tensor([[0, 9, 0]])  # a code that is too large
CONFIG = UniTokConfig(encoder_widths=(8,), codebook_dim=4, codebook_size=4, num_levels=2)


def ids() -> SemanticIds:
    return SemanticIds(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0], [1]]), 4, 2)


def unencoded() -> SemanticIds:
    return SemanticIds(torch.tensor([[-1, 1]]), torch.tensor([[0]]), 4, 2)


def flat() -> torch.Tensor:
    return torch.zeros(3, dtype=torch.int64)


def scores(queries: int = 2) -> Scores:
    return Scores(*(torch.ones(queries, dtype=torch.float64) for _ in range(3)))


def evaluation(queries: int = 2) -> Evaluation:
    return Evaluation("made", {"model": [scores(queries)], "base": [scores(queries)]}, ["base"])


def asking(history: int) -> Queries:
    return Queries(torch.tensor([[history]]), torch.tensor([0]), torch.tensor([0]))


def popularity() -> Popularity:
    from unitok.recommender import Histories

    return Popularity(Histories(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([0])), 2)


CALLS: dict[str, list[tuple[str, str, Callable[[], object]]]] = {
    "a code out of range": [
        ("SemanticIds", "codes", lambda: SemanticIds(torch.tensor([[9]]), torch.tensor([[0]]), 4, 2)),
        ("from_tokens", "codes", lambda: SemanticIds.from_tokens(WIDE, **SIZES)),
        ("from_text", "codes", lambda: SemanticIds.from_text(["<a_0><b_9><c_0>"], **SIZES)),
        ("unpack", "codes", lambda: SemanticIds.unpack(WIDE.numpy().astype(np.uint8), **SIZES)),
    ],
    "a layout that the IDs lack": [
        ("tokens", "layout", lambda: ids().tokens("top1_shared")),
        ("vocabulary_sizes", "layout", lambda: ids().vocabulary_sizes("top1_shared")),
        ("groups", "layout", lambda: ids().groups("top1_shared")),
        ("to_text", "layout", lambda: ids().to_text("top1_shared")),
        ("pack", "layout", lambda: ids().pack("top1_shared")),
        ("TokenTable.of", "layout", lambda: TokenTable.of(ids(), "top1_shared")),
    ],
    "an unknown layout": [
        ("tokens", "layout", lambda: ids().tokens("top2")),
        ("from_tokens", "layout", lambda: SemanticIds.from_tokens(WIDE, **SIZES, layout="top2")),
        ("from_text", "layout", lambda: SemanticIds.from_text([], **SIZES, layout="top2")),
    ],
    "a row that was not encoded": [
        ("to_text", "every row", lambda: unencoded().to_text()),
        ("pack", "every row", lambda: unencoded().pack()),
        ("assign", "every row", lambda: unencoded().assign([0])),
        ("TokenTable.of", "every row", lambda: TokenTable.of(unencoded())),
        ("IdTable.of", "every row", lambda: IdTable.of(["a"], [0], unencoded())),
    ],
    "no items": [
        ("TokenTable", "tokens", lambda: TokenTable(torch.zeros(0, 1, dtype=torch.int64), 2)),
        ("TokenTable.of", "ids", lambda: TokenTable.of(ids()[:0])),
        ("TokenTable.items", "num_items", lambda: TokenTable.items(0)),
    ],
    "codes that are no matrix": [
        ("token_entropy", "codes", lambda: metrics.token_entropy(flat())),
        ("perplexity", "codes", lambda: metrics.perplexity(flat())),
        ("dead_codes", "codes", lambda: metrics.dead_codes(flat(), 4)),
        ("utilisation", "codes", lambda: metrics.utilisation(flat(), 4)),
    ],
    "codes beyond the codebook": [
        ("dead_codes", "codes", lambda: metrics.dead_codes(torch.full((2, 2), 9), 4)),
        ("utilisation", "codes", lambda: metrics.utilisation(torch.full((2, 2), 9), 4)),
    ],
    "levels that are no matrix": [
        ("level_entropy_given_expert", "codes", lambda: metrics.level_entropy_given_expert(flat(), flat())),
        ("redundant_levels", "codes", lambda: metrics.redundant_levels(flat(), flat())),
    ],
    "k below 1": [
        ("recall", "k", lambda: recall(torch.zeros(1, 1, dtype=torch.int64), flat()[:1], flat(), 0)),
        ("ndcg", "k", lambda: ndcg(torch.zeros(1, 1, dtype=torch.int64), flat()[:1], flat(), 0)),
        ("values", "k", lambda: scores().values(k=0)),
        ("figures", "k", lambda: evaluation().figures("model", k=0)),
        ("against", "k", lambda: evaluation().against("model", "base", k=0)),
        ("evaluate", "k", lambda: evaluate(popularity(), asking(0), k=0)),
    ],
    "an unknown metric": [
        ("values", "metric", lambda: scores().values("hits")),
        ("figures", "metric", lambda: evaluation().figures("model", "hits")),
        ("against", "metric", lambda: evaluation().against("model", "base", "hits")),
    ],
    "scores of no queries": [
        ("against", "queries and resamples", lambda: evaluation(0).against("model", "base")),
        ("to_dict", "queries and resamples", lambda: evaluation(0).to_dict()),
    ],
    "more slots than experts": [
        ("fit", "config.top_k", lambda: Tokenizer.fit({"a": torch.rand(9, 8)}, UniTokConfig(top_k=2))),
        ("UniTokModel", "top_k", lambda: UniTokModel(8, 1, UniTokConfig(top_k=2))),
    ],
}
DOORS = [pytest.param(*door, id=f"{fault}: {door[0]}") for fault, doors in CALLS.items() for door in doors]


@pytest.mark.parametrize(("what", "argument", "call"), DOORS)
def test_the_call_is_named(what: str, argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(
        ValueError, match=rf"^{re.escape(what)}: {re.escape(argument)}\S* must [^\n]*, got [^\n]+\. [A-Z]"
    ):
        call()


def test_items_whose_latents_overflow_are_named_by_every_call(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(UniTokModel(8, 2, CONFIG), [DomainInfo("a", 3)])
    tokenizer.save_pretrained(tmp_path)
    x = torch.rand(40, 8)
    x[7] = 3e38 * torch.rand(8).sub(0.5).sign()
    calls: dict[str, Callable[[], object]] = {
        "tokenize": lambda: tokenizer.tokenize(x),
        "report": lambda: tokenizer.report(x),
        "add_domain": lambda: tokenizer.add_domain("b", x),
    }
    for what, call in calls.items():
        with refuses(what, "x") as caught:
            call()
        assert "for row 7" in str(caught.value)
    with refuses("tokenize", "x") as caught:
        unitok.serving.load(tmp_path).tokenize(x.numpy())
    assert "for row 7" in str(caught.value)


def test_a_history_that_does_not_fit_is_named_by_every_call(refuses: Callable[..., Any]) -> None:
    from unitok.recommender import CausalRecommender, gpt2_config

    recommender = CausalRecommender.create(TokenTable.items(3), gpt2_config(16, 1, 1), history=4)
    with refuses("rank", "histories"):
        recommender.rank(torch.tensor([[3]]), 2)
    with refuses("evaluate", "queries.histories"):
        evaluate(recommender, asking(3))
