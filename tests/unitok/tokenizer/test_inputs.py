"""What goes into a tokenizer: every kind of array gives the same IDs, and what doesn't fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unitok.tokenizer.made import LEVELS, SIZE, WIDTH
from unitok import Tokenizer
from unitok.data import EmbeddingInfo

MADE_BY = EmbeddingInfo("a-model", "{title} . Category: {category}")


def test_inputs_of_every_kind_give_the_same_ids(tokenizer: Tokenizer, x: Tensor, tmp_path: Path) -> None:
    half = x.half()
    expected = tokenizer.tokenize(half.float())
    rows = half.numpy()
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert not mapped.flags.writeable
    wide = torch.zeros(len(x), 2 * WIDTH, dtype=torch.float16)
    wide[:, ::2] = half
    kinds = {
        "float16": half,
        "float32": half.float(),
        "float64": half.double(),
        "numpy float16": rows,
        "numpy float32": rows.astype(np.float32),
        "numpy float64": rows.astype(np.float64),
        "other byte order": rows.astype(">f4"),
        "memory-mapped": mapped,
        "memory-mapped slice": mapped[:],
        "every second column": wide[:, ::2],
        "transposed": half.T.contiguous().T,
        "numpy, every second column": wide.numpy()[:, ::2],
        "numpy, Fortran order": np.asfortranarray(rows),
        "numpy, backwards": rows[::-1][::-1],
        "with a gradient": half.float().requires_grad_(),
    }
    for kind, value in kinds.items():
        assert tokenizer.tokenize(value).equals(expected), kind
    assert np.array_equal(mapped, rows)
    bfloat = x.bfloat16()
    assert tokenizer.tokenize(bfloat).equals(tokenizer.tokenize(bfloat.float()))


def test_no_items_work(any_tokenizer: Tokenizer) -> None:
    ids = any_tokenizer.tokenize(torch.empty(0, WIDTH))
    assert ids.codes.shape == (0, LEVELS)
    assert ids.experts.shape == (0, any_tokenizer.config.top_k)
    assert any_tokenizer.decode(ids).shape == (0, WIDTH)
    assert len(ids.assign([])) == 0


def test_ids_have_the_fields_of_the_contract(any_tokenizer: Tokenizer, x: Tensor) -> None:
    ids, config = any_tokenizer.tokenize(x), any_tokenizer.config
    assert ids.codes.shape == (len(x), LEVELS)
    assert ids.experts.shape == (len(x), config.top_k)
    assert (ids.codebook_size, ids.num_experts) == (SIZE, 1 if config.num_experts == 0 else 3)
    if config.num_experts == 0:
        assert ids.shared_codes is None
        assert not ids.experts.any()
    else:
        assert ids.shared_codes.shape == (len(x), LEVELS)
        assert len(ids.experts[:, 0].unique()) == 3
    if config.top_k == 1:
        assert ids.slot_codes is None
    else:
        assert ids.slot_codes.shape == (len(x), 2, LEVELS)
        assert torch.equal(ids.slot_codes[:, 0], ids.codes)
        assert (ids.experts[:, 0] != ids.experts[:, 1]).all()


@pytest.mark.parametrize("resolver", ["suffix", "reassign"])
def test_ids_are_told_apart(any_tokenizer: Tokenizer, x: Tensor, resolver: str) -> None:
    ids = any_tokenizer.tokenize(x)
    nearest = (ids.last_residual[:, None] - ids.last_codebooks[ids.experts[:, 0]]).square().sum(2).argmin(1)
    assert (nearest == ids.codes[:, -1]).all()  # `reassign` starts from the right residual
    told = ids.assign(range(len(x)), resolver)
    assert len({tuple(row) for row in ids.tokens().tolist()}) < len(x)
    assert len({tuple(row) for row in told.tokens().tolist()}) == len(x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_named(bad: float, tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    broken = x.clone()
    broken[41, 3] = bad
    for call in (
        lambda: tokenizer.tokenize(broken),
        lambda: tokenizer.add_domain("new", broken),
        lambda: tokenizer.report(broken),
    ):
        with pytest.raises(ValueError, match=r"x must be finite, got -?(nan|inf) at row 41\. "):
            call()
    with refuses("tokenize", "x"):
        tokenizer.tokenize(torch.full((2, WIDTH), 1e300, dtype=torch.float64))
    assert set(tokenizer.domains) == {"books", "games", "toys"}


def test_what_is_no_matrix_of_items_is_refused(tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    for value in ([["a"] * WIDTH], None, x.long(), x.long().numpy(), np.array([["a"]]), np.array([[object()]])):
        with refuses("tokenize", "x", TypeError):
            tokenizer.tokenize(value)
    for value in (x[0], x[None], x[:, :-1], torch.zeros(3, WIDTH + 1)):
        with refuses("tokenize", "x"):
            tokenizer.tokenize(value)


def test_an_unknown_domain_is_refused(tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    with refuses("tokenize", "domain") as caught:
        tokenizer.tokenize(x, "boks")
    assert "books, games, toys" in str(caught.value)
    assert tokenizer.tokenize(x, "games").equals(tokenizer.tokenize(x))


def test_embeddings_of_another_model_are_refused(
    small_domains, make_config, x: Tensor, tmp_path: Path, refuses
) -> None:
    tokenizer = Tokenizer.fit(small_domains, make_config(epochs=1), embedding=MADE_BY)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.embedding == MADE_BY
    equal = EmbeddingInfo(MADE_BY.model, MADE_BY.template)
    assert tokenizer.tokenize(x, embedding=equal).equals(tokenizer.tokenize(x))
    for other in (EmbeddingInfo("b-model", MADE_BY.template), EmbeddingInfo(MADE_BY.model, "{title}")):
        with refuses("tokenize", "embedding"):
            tokenizer.tokenize(x, embedding=other)
        with refuses("add_domain", "embedding"):
            tokenizer.add_domain("new", x, embedding=other)
    tokenizer.add_domain("new", x, embedding=equal)


def test_a_fit_refuses_what_it_cannot_be_fitted_on(small_domains, make_config, refuses) -> None:
    config, books = make_config(epochs=1), small_domains["books"]
    with refuses("fit", "domains"):
        Tokenizer.fit({}, config)
    with refuses("fit", "domains['empty']'s rows"):
        Tokenizer.fit({"books": books, "empty": books[:0]}, config)
    with refuses("fit", "domains['narrow']"):
        Tokenizer.fit({"books": books, "narrow": books[:, :-1]}, config)
    with refuses("fit", "domains['list']", TypeError):
        Tokenizer.fit({"list": [["a"]]}, config)
    broken = books.clone()
    broken[7, 0] = torch.nan
    with refuses("fit", "domains['books']") as caught:
        Tokenizer.fit({"books": broken}, config)
    assert "row 7" in str(caught.value)
    with refuses("fit", "config.top_k"):
        Tokenizer.fit({"books": books}, make_config(epochs=1, top_k=2))
