"""Semantic IDs as text, tokens and bytes: each form comes back, and what is no ID is refused with its row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unitok.ids.made import SIZES, make_ids
from unitok.ids.semantic_ids import SemanticIds


@pytest.mark.parametrize("layout", ["top1", "top1_shared", "all_slots"])
@pytest.mark.parametrize("rows", [0, 7])
@pytest.mark.parametrize("suffixed", [False, True])
def test_text_and_bytes_come_back(layout: str, rows: int, suffixed: bool) -> None:
    ids = make_ids(rows, 4, slots=2 if rows else 1)
    if suffixed:
        ids = ids.assign(range(rows))
    sizes = {"num_levels": 2, "layout": layout, **SIZES}
    back = SemanticIds.from_text(ids.to_text(layout), **sizes)
    if rows:
        assert torch.equal(back.tokens(layout), ids.tokens(layout))
        assert (back.suffix is None) == (ids.suffix is None)
    assert len(back) == rows
    again = SemanticIds.unpack(ids.pack(layout), **sizes)
    assert torch.equal(again.tokens(layout), ids.tokens(layout))
    assert again.equals(SemanticIds.from_tokens(ids.tokens(layout), **sizes))


def test_text_has_a_letter_a_level_and_goes_on_after_z() -> None:
    ids = SemanticIds(torch.tensor([[12, 7, 3, 9]]), torch.tensor([[2]]), 256, 8)
    assert ids.to_text() == ["<a_12><b_7><c_3><d_9><e_2>"]
    assert replace(ids, suffix=torch.tensor([5])).to_text() == ["<a_12><b_7><c_3><d_9><e_2><f_5>"]
    long = SemanticIds(torch.arange(53)[None], torch.tensor([[0]]), 64, 1)
    assert "<z_25><aa_26><ab_27>" in long.to_text()[0]
    assert long.to_text()[0].endswith("<az_51><ba_52><bb_0>")
    assert SemanticIds.from_text(long.to_text(), num_levels=53, codebook_size=64, num_experts=1).equals(long)


@pytest.mark.parametrize(
    "bad",
    [
        "<a_1><b_2>",
        "<a_1><b_2><c_x>",
        "<a_1><b_2><c_01>",
        "<a_1><c_2><b_0>",
        "< a_1><b_2><c_0>",
        "<a_1>,<b_2>,<c_0>",
        "<a_1><b_2><c_-1>",
        "",
    ],
)
def test_text_that_is_not_an_id_is_reported_with_its_row(bad: str) -> None:
    good = "<a_1><b_2><c_0>"
    with pytest.raises(ValueError, match=r"from_text: .* in row 2\. Name"):
        SemanticIds.from_text([good, good, bad, good, bad], num_levels=2, **SIZES)
    with pytest.raises(ValueError, match=r"from_text: .* in row 0\. Name"):
        SemanticIds.from_text([bad, good], num_levels=2, **SIZES)


def test_spaces_around_tokens_are_as_good_as_none() -> None:
    ids = make_ids(6, 4).assign(range(6))
    spaced = [f" {text.replace('><', '> <')}\n" for text in ids.to_text()]
    assert SemanticIds.from_text(spaced, num_levels=2, **SIZES).to_text() == ids.to_text()


def test_values_out_of_range_are_refused_on_the_way_back() -> None:
    with pytest.raises(ValueError, match=r"codes must be in \[-1, 4\), got \[1, 9\] in row 1"):
        SemanticIds.from_text(["<a_1><b_2><c_0>", "<a_1><b_9><c_0>"], num_levels=2, **SIZES)
    with pytest.raises(ValueError, match=r"from_tokens: tokens must be \(N, 3\) or \(N, 4\), got shape \(1, 5\)"):
        SemanticIds.from_tokens(torch.zeros(1, 5, dtype=torch.int64), num_levels=2, **SIZES)
    with pytest.raises(TypeError, match="unpack: packed must be uint8 or uint16, got int64"):
        SemanticIds.unpack(np.zeros((1, 3), dtype=np.int64), num_levels=2, **SIZES)


@pytest.mark.parametrize(
    ("codebook_size", "suffix", "dtype"),
    [
        (256, None, np.uint8),
        (257, None, np.uint16),
        (256, 255, np.uint8),
        (256, 256, np.uint16),
        (65536, None, np.uint16),
    ],
)
def test_packed_form_takes_the_smallest_type(codebook_size: int, suffix: int | None, dtype: type) -> None:
    codes, experts = torch.tensor([[codebook_size - 1]]), torch.zeros(1, 1, dtype=torch.int64)
    ids = SemanticIds(codes, experts, codebook_size, 1, suffix=None if suffix is None else torch.tensor([suffix]))
    packed = ids.pack()
    assert packed.dtype == dtype
    assert packed.tolist() == ids.tokens().tolist()


def test_what_does_not_fit_is_not_packed() -> None:
    ids = SemanticIds(torch.tensor([[1]]), torch.tensor([[0]]), 4, 1, suffix=torch.tensor([65536]))
    with pytest.raises(ValueError, match="pack: vocabularies must be at most 65536, got 65537"):
        ids.pack()
