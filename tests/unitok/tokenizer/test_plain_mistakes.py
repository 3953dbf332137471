"""Plain mistakes get one line that names the remedy, and what can only mean one thing is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unitok import EmbeddingInfo, Tokenizer, UniTokConfig
from unitok.data import Domain


class Frame:
    """What a table of pandas or polars has in common."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def to_numpy(self) -> np.ndarray:
        return self.values


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(80, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer(x: Tensor) -> Tokenizer:
    sizes = {"codebook_size": 8, "codebook_dim": 4, "num_levels": 2, "encoder_widths": (8,)}
    return Tokenizer.fit({"shop": x}, UniTokConfig(epochs=1, **sizes))


@pytest.mark.parametrize("form", [np.asarray, Tensor.tolist, lambda x: list(x.numpy()), Frame, list])
def test_rows_are_taken_in_any_form(form: Callable[[Any], Any], tokenizer: Tokenizer, x: Tensor) -> None:
    given = form(x.numpy()) if form is Frame else form(x)
    assert tokenizer.tokenize(given).to_text() == tokenizer.tokenize(x).to_text()
    whole = tokenizer.tokenize([[1, 2, 3, 4, 5, 6]])
    assert whole.to_text() == tokenizer.tokenize(torch.arange(1.0, 7)[None]).to_text()


def test_a_domain_as_it_was_read_is_taken(tokenizer: Tokenizer, x: Tensor) -> None:
    domain = Domain("shop", x.numpy(), np.arange(80))
    assert tokenizer.tokenize(domain).to_text() == tokenizer.tokenize(x).to_text()
    sizes = {"codebook_size": 8, "codebook_dim": 4, "num_levels": 2, "encoder_widths": (8,)}
    assert list(Tokenizer.fit({"shop": domain}, UniTokConfig(epochs=1, **sizes)).domains) == ["shop"]
    ours, other = (replace(domain, embedding=EmbeddingInfo(name, "{text}")) for name in ("a", "b"))
    fitted = Tokenizer.fit({"shop": ours}, UniTokConfig(epochs=1, **sizes))
    assert fitted.embedding == ours.embedding
    for mixed, said in (({"shop": ours, "more": other}, None), ({"shop": ours}, other.embedding)):
        with pytest.raises(ValueError, match=r"^fit: domains\['(more|shop)'\] must be embedded by EmbeddingInfo"):
            Tokenizer.fit(mixed, UniTokConfig(epochs=1, **sizes), embedding=said)
    for call in (fitted.tokenize, fitted.report, fitted.check_domain, lambda x: fitted.add_domain("new", x)):
        with pytest.raises(ValueError, match=r"embedding must be .*model='a'"):
            call(other)


def test_ids_are_decoded_in_any_form(tokenizer: Tokenizer, x: Tensor) -> None:
    ids = tokenizer.tokenize(x)
    assigned = ids.assign(range(80))
    expected = tokenizer.decode(ids.from_text(ids.to_text(), num_levels=2, codebook_size=8, num_experts=1))
    for form in (ids.to_text(), assigned.to_text(), tuple(ids.to_text())):
        assert torch.equal(tokenizer.decode(form), expected)
    assert torch.equal(tokenizer.decode(assigned), tokenizer.decode(ids))
    assert tokenizer.decode([]).shape == (0, 6)


MISTAKES: dict[str, tuple[Callable[[Tokenizer, Tensor], object], type[Exception], str]] = {
    "fit(x)": (lambda t, x: Tokenizer.fit(x), TypeError, "fit: domains must be a mapping of names"),
    "fit([x])": (lambda t, x: Tokenizer.fit([x]), TypeError, "Tokenizer.fit({'items': x})"),
    "fit by number": (lambda t, x: Tokenizer.fit({1: x}), TypeError, "named by texts, got 1"),
    "fit with a dict": (lambda t, x: Tokenizer.fit({"a": x}, {"epochs": 1}), TypeError, "UniTokConfig.from_dict"),
    "fit of a model's name": (lambda t, x: Tokenizer.fit({"a": x}, embedding="m"), TypeError, "EmbeddingInfo(model"),
    "ragged rows": (lambda t, x: t.tokenize([[1.0], [1.0, 2.0]]), TypeError, "all of one length"),
    "texts": (lambda t, x: t.tokenize([["a", "b"]]), TypeError, "rows of numbers"),
    "a table of texts": (lambda t, x: t.tokenize(Frame(np.array([["a"]], object))), TypeError, "rows of numbers"),
    "one row": (lambda t, x: t.tokenize([1.0, 2.0]), ValueError, "shape (N, D_in)"),
    "a path": (lambda t, x: t.tokenize("items.npy"), TypeError, "x must be"),
    "embedding as text": (lambda t, x: t.tokenize(x, embedding="m"), TypeError, "EmbeddingInfo(model"),
    "one text": (lambda t, x: t.decode("<a_1>"), TypeError, "a list of texts"),
    "embeddings": (lambda t, x: t.decode(x), TypeError, "decode: ids must be SemanticIds"),
    "another's text": (lambda t, x: t.decode(["<a_1>"]), ValueError, "got '<a_1>' in row 0"),
    "swapped": (lambda t, x: t.add_domain(x, "new"), TypeError, "add_domain: name must be a text, got Tensor"),
    "a number as name": (lambda t, x: t.add_domain(7, x), TypeError, "must be a text, got int"),
    "a tensor as domain": (lambda t, x: t.tokenize(x, x), ValueError, "tokenize: domain must be one of shop"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plain_mistake_is_one_line(mistake: str, tokenizer: Tokenizer, x: Tensor) -> None:
    call, kind, says = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        call(tokenizer, x)
    assert says in str(caught.value)
    assert str(caught.value).partition(": ")[0] in ("fit", "tokenize", "decode", "add_domain", "from_text")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 420
