"""Where new rows start: at the mean of the old ones, or where the vectors of the items say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.unitok.recommender.language.test_vocabulary import MADE, language_model, tokenizer
from unitok.recommender import extend_vocabulary

OLD = 7


def started(kind: str, start: Any) -> tuple[Any, Any, list[torch.Tensor]]:
    """A model and a tokenizer that were extended, and the rows of embeddings and head before."""
    words, model = tokenizer(bos_token="<s>"), language_model(kind, OLD)
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    before = [head.weight.detach().clone() for head in heads]
    extend_vocabulary(words, model, MADE, start=start)
    return words, model, before


def heads(model: Any) -> list[torch.Tensor]:
    return [head.weight.detach() for head in (model.get_input_embeddings(), model.get_output_embeddings())]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])  # a head of the embeddings' weights, and one of its own
def test_new_rows_start_at_the_mean(kind: str) -> None:
    _, model, before = started(kind, "mean")
    for rows, old in zip(heads(model), before, strict=True):
        assert torch.equal(rows[:OLD], old)
        torch.testing.assert_close(rows[OLD:], old.mean(0).expand(len(rows) - OLD, -1))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("width", [5, 11])  # the model's is 8
def test_new_rows_start_where_the_vectors_say(kind: str, width: int) -> None:
    vectors = torch.randn(len(MADE), width, generator=torch.Generator().manual_seed(0))
    words, model, before = started(kind, vectors)
    means = torch.stack([vectors[0], vectors[1], vectors[2:].mean(0)])  # of <a_0>, <a_1> and <a_2>
    there = words.convert_tokens_to_ids(["<a_0>", "<a_1>", "<a_2>"])
    for rows, old in zip(heads(model), before, strict=True):
        found, mean = rows[there], old.mean(0)
        torch.testing.assert_close(rows[words.convert_tokens_to_ids("<a_3>")], mean)  # of no item
        torch.testing.assert_close(found.mean(0), mean)
        torch.testing.assert_close((found - mean).square().sum(1).mean(), (old - mean).square().sum(1).mean())
        if width < 8:  # nothing is lost: distances stay, but for their scale
            far, wanted = torch.pdist(found), torch.pdist(means)
            torch.testing.assert_close(far / far[0], wanted / wanted[0])
    again = {name: value.clone() for name, value in model.state_dict().items()}
    extend_vocabulary(words, model, MADE, start=torch.ones_like(vectors))
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("start", "error"),
    [
        ("zeros", ValueError),
        (None, TypeError),
        (torch.zeros(4, 3, dtype=torch.int64), TypeError),
        (torch.zeros(3, 3), ValueError),
        (torch.full((4, 3), torch.nan), ValueError),
    ],
)
def test_a_start_that_is_none_is_refused(start: Any, error: Any, refuses: Callable[..., Any]) -> None:
    words, model = tokenizer(bos_token="<s>"), language_model("gpt2", OLD)
    with refuses("extend_vocabulary", "start", error):
        extend_vocabulary(words, model, MADE, start=start)
    assert len(words) == OLD
