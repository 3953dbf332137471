"""Semantic IDs: their fields and layouts, rows taken and put together again, and experts that come later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unitok.ids.made import SIZES, after_a_domain, make_ids
from unitok.ids.rows import row_groups
from unitok.ids.semantic_ids import SemanticIds


def test_layouts_begin_with_top1_and_name_their_vocabularies() -> None:
    ids = make_ids(6, 0, slots=2)
    top1 = torch.cat([ids.codes, ids.experts[:, :1]], dim=1)
    assert torch.equal(ids.tokens(), top1)
    assert torch.equal(ids.tokens("top1_shared"), torch.cat([top1, ids.shared_codes], dim=1))
    second = torch.cat([ids.slot_codes[:, 1], ids.experts[:, 1:]], dim=1)
    assert torch.equal(ids.tokens("all_slots"), torch.cat([top1, second], dim=1))
    assert ids.vocabulary_sizes() == [4, 4, 3]
    assert ids.vocabulary_sizes("top1_shared") == [4, 4, 3, 4, 4]
    assert ids.vocabulary_sizes("all_slots") == [4, 4, 3, 4, 4, 3]
    suffixed = replace(ids, suffix=torch.arange(6))
    for layout in ("top1", "top1_shared", "all_slots"):
        assert torch.equal(suffixed.tokens(layout)[:, :-1], ids.tokens(layout))
        assert torch.equal(suffixed.tokens(layout)[:, -1], suffixed.suffix)
        assert suffixed.vocabulary_sizes(layout)[-1] == 6
        assert torch.equal(suffixed.groups(layout), ids.groups(layout))


def test_single_codebook_has_all_slots_without_slot_codes() -> None:
    ids = SemanticIds(torch.tensor([[1, 2]]), torch.zeros(1, 1, dtype=torch.int64), 4, 1)
    assert torch.equal(ids.tokens("all_slots"), torch.tensor([[1, 2, 0]]))


@pytest.mark.parametrize("high", [2, 2**31, 2**62])
def test_row_groups_number_rows_as_unique_does(high: int) -> None:
    g = torch.Generator().manual_seed(1)
    rows = torch.randint(-high, high, (50, 4), generator=g)[torch.randint(50, (200,), generator=g)]
    _, inverse = np.unique(rows.numpy(), axis=0, return_inverse=True)
    assert row_groups(rows).tolist() == inverse.ravel().tolist()


def test_row_groups_compact_before_they_overflow() -> None:
    g = torch.Generator().manual_seed(2)
    rows = torch.randint(2**20, (40, 9), generator=g)[torch.randint(40, (300,), generator=g)]
    _, inverse = np.unique(rows.numpy(), axis=0, return_inverse=True)
    assert row_groups(rows).tolist() == inverse.ravel().tolist()


def test_rows_are_taken_and_put_together_again() -> None:
    ids = make_ids(10, 3, slots=2)
    assert SemanticIds.concatenate([ids[:4], ids[[4, 5, 6]], ids[torch.arange(10) > 6], ids[[]]]).equals(ids)
    assert torch.equal(ids[torch.tensor([7, 2])].last_residual, ids.last_residual[[7, 2]])
    assert ids[:2].last_codebooks is ids.last_codebooks
    assert len(ids[:0]) == 0
    assert not ids.equals(ids[:9])
    assert not ids.equals(replace(ids, suffix=torch.zeros(10, dtype=torch.int64)))
    with pytest.raises(TypeError, match="slice, indices or a mask, got 3"):
        ids[3]
    with pytest.raises(ValueError, match="got part 1"):
        SemanticIds.concatenate([ids, replace(ids, shared_codes=None)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"codes": torch.zeros(3, 2)},
            TypeError,
            r"codes must be a CPU tensor of torch.int64, got torch.float32",
        ),
        ({"codes": [[1, 2]]}, TypeError, r"codes .* got list"),
        ({"codes": torch.zeros(3, dtype=torch.int64)}, ValueError, r"codes must be \(N, L\), got \(3,\)"),
        ({"codes": torch.zeros(3, 0, dtype=torch.int64)}, ValueError, r"L must be at least 1, got 0"),
        (
            {"codes": torch.tensor([[0, 0], [0, 4], [0, 9]])},
            ValueError,
            r"codes .* \[-1, 4\), got \[0, 4\] in row 1",
        ),
        ({"experts": torch.tensor([[0], [0], [3]])}, ValueError, r"experts .* \[-1, 3\), got \[3\] in row 2"),
        (
            {"experts": torch.zeros(2, 1, dtype=torch.int64)},
            ValueError,
            r"experts must be \(N, S\) with N = 3",
        ),
        ({"suffix": torch.tensor([0, -1, 0])}, ValueError, r"suffix .* got -1 in row 1"),
        ({"num_experts": 0}, ValueError, r"E must be at least 1, got 0"),
        ({"codebook_size": 0}, ValueError, r"K must be at least 1, got 0"),
        (
            {"shared_codes": torch.zeros(3, 3, dtype=torch.int64)},
            ValueError,
            r"shared_codes .* L = 2, got \(3, 3\)",
        ),
        (
            {"slot_codes": torch.ones(3, 1, 2, dtype=torch.int64)},
            ValueError,
            r"slot_codes\[:, 0\] .* in row 0",
        ),
        (
            {"last_residual": torch.zeros(3, 5).double()},
            TypeError,
            r"last_residual must .*float32, got torch.float64",
        ),
        (
            {"last_residual": torch.zeros(3, 5), "last_codebooks": torch.zeros(3, 4, 6)},
            ValueError,
            r"last_codebooks must be \(E, K, D\) with E = 3, K = 4, D = 5, got \(3, 4, 6\)",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(change: dict, error: type[Exception], message: str) -> None:
    zeros = {"codes": torch.zeros(3, 2, dtype=torch.int64), "experts": torch.zeros(3, 1, dtype=torch.int64)}
    with pytest.raises(error, match=message):
        SemanticIds(**{**zeros, **SIZES, **change})


@pytest.mark.parametrize("use", [SemanticIds.to_text, SemanticIds.pack, lambda ids: ids.assign("abc")])
def test_rows_that_could_not_be_encoded_are_named(use) -> None:
    ids = SemanticIds(torch.tensor([[1], [-1], [-1]]), torch.tensor([[0], [0], [-1]]), 4, 1)
    with pytest.raises(ValueError, match="got a code of -1 in row 1"):
        use(ids)


def test_unknown_names_list_the_options() -> None:
    ids = make_ids(2, 0)
    with pytest.raises(ValueError, match="resolver must be one of suffix, reassign, least_cost, none, got 'best'"):
        ids.assign([1, 2], "best")
    with pytest.raises(ValueError, match="layout must be one of top1, top1_shared, all_slots, got 'top2'"):
        ids.tokens("top2")
    with pytest.raises(ValueError, match="for IDs without shared_codes, got 'top1_shared'"):
        replace(ids, shared_codes=None).tokens("top1_shared")
    with pytest.raises(ValueError, match="for IDs without slot_codes, got 'all_slots'"):
        replace(make_ids(2, 0, slots=2), slot_codes=None).tokens("all_slots")


def test_ids_stay_themselves_when_experts_are_added() -> None:
    ids = make_ids(10, 3, slots=2)
    grown = after_a_domain(ids)
    assert ids.equals(grown)
    assert grown.equals(ids)
    for parts in ([ids[:4], grown[4:]], [grown[:4], ids[4:]], [ids[:0], grown, ids[:0]]):
        whole = SemanticIds.concatenate(parts)
        assert whole.equals(ids)
        assert whole.num_experts == 4
        assert whole.last_codebooks is grown.last_codebooks
    other = replace(ids, last_codebooks=ids.last_codebooks + 1)
    for part in (other, after_a_domain(other), replace(ids, last_codebooks=None)):
        with pytest.raises(ValueError, match="must agree in sizes, fields and codebooks, got part 1"):
            SemanticIds.concatenate([grown, part])
