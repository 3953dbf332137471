"""Semantic IDs: layouts, text and bytes, and colliding items told apart whatever the order they come in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unitok.collisions import row_groups
from unitok.semantic_id import AssignedIds, SemanticIds

SIZES = {"codebook_size": 4, "num_experts": 3}


def make_ids(rows: int, seed: int, *, levels: int = 2, slots: int = 1, codebook_size: int = 4) -> SemanticIds:
    """Made IDs in a space so small that many collide, with all that any layout or resolver needs."""
    g = torch.Generator().manual_seed(seed)
    slot_codes = torch.randint(codebook_size, (rows, slots, levels), generator=g)
    return SemanticIds(
        codes=slot_codes[:, 0],
        experts=torch.randint(3, (rows, slots), generator=g),
        codebook_size=codebook_size,
        num_experts=3,
        shared_codes=torch.randint(codebook_size, (rows, levels), generator=g),
        slot_codes=slot_codes,
        last_residual=torch.randn(rows, 5, generator=g),
        last_codebooks=torch.randn(3, codebook_size, 5, generator=g),
    )


def by_key(keys: list[int], ids: SemanticIds) -> dict[int, tuple[int, ...]]:
    return {key: tuple(row) for key, row in zip(keys, ids.tokens().tolist(), strict=True)}


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


def test_text_form() -> None:
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
        " <a_1><b_2><c_0>",
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


@pytest.mark.parametrize("use", [SemanticIds.to_text, SemanticIds.pack, lambda ids: ids.assign("abc")])
def test_rows_that_could_not_be_encoded_are_named(use) -> None:
    ids = SemanticIds(torch.tensor([[1], [-1], [-1]]), torch.tensor([[0], [0], [-1]]), 4, 1)
    with pytest.raises(ValueError, match="got a code of -1 in row 1"):
        use(ids)


def test_unknown_names_list_the_options() -> None:
    ids = make_ids(2, 0)
    with pytest.raises(ValueError, match="resolver must be one of suffix, reassign, none, got 'best'"):
        ids.assign([1, 2], "best")
    with pytest.raises(ValueError, match="layout must be one of top1, top1_shared, all_slots, got 'top2'"):
        ids.tokens("top2")
    with pytest.raises(ValueError, match="for IDs without shared_codes, got 'top1_shared'"):
        replace(ids, shared_codes=None).tokens("top1_shared")
    with pytest.raises(ValueError, match="for IDs without slot_codes, got 'all_slots'"):
        replace(make_ids(2, 0, slots=2), slot_codes=None).tokens("all_slots")


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ([1, 2], ValueError, "one for each of 3 rows, got 2"),
        ([1, 2, 1], ValueError, "distinct, got 1 more than once"),
        ([1, 2, "3"], TypeError, "all integers or all strings, got int, str"),
        ([1, 2, 3.0], TypeError, "all integers or all strings, got float, int"),
        ([True, False, 1], TypeError, "all integers or all strings, got bool, int"),
    ],
)
def test_keys_are_checked(keys: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_ids(3, 0).assign(keys)


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor, tuple, lambda keys: [np.int32(k) for k in keys]])
def test_keys_come_in_any_sequence(convert) -> None:
    ids, keys = make_ids(20, 5), [(7 * i) % 20 for i in range(20)]
    assert ids.assign(convert(keys)).equals(ids.assign(keys))


def test_suffix_ranks_the_keys_of_equal_ids() -> None:
    ids, keys = make_ids(200, 6), torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    assigned = ids.assign(keys)
    rows = [tuple(row) for row in ids.tokens().tolist()]
    for i, (row, key) in enumerate(zip(rows, keys, strict=True)):
        smaller = sum(other == row and other_key < key for other, other_key in zip(rows, keys, strict=True))
        assert assigned.suffix[i] == smaller
    assert torch.equal(assigned.codes, ids.codes)
    assert ids.suffix is None


def brute_reassign(ids: SemanticIds, keys: list[int], known: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Literally the rule, item by item: (ID without the suffix) by key, for the newcomers."""
    own = {key: tuple(row) for key, row in by_key(keys, replace(ids, suffix=None)).items() if key not in known}
    row_of = {key: row for row, key in enumerate(keys)}
    used = {row[:-1] for row in known.values()} | set(own.values())
    holder = {row[:-1] for row in known.values()}
    result = {}
    for token, key in sorted((token, key) for key, token in own.items()):
        result[key] = token
        if token in holder:
            row = row_of[key]
            distance = (ids.last_residual[row].double() - ids.last_codebooks[token[-1]].double()).square().sum(dim=1)
            for code in np.argsort(distance.numpy(), kind="stable"):
                choice = (*token[:-2], int(code), token[-1])
                if choice not in used:
                    result[key] = choice
                    used.add(choice)
                    break
        holder.add(token)
    return result


@pytest.mark.parametrize("rows", [0, 1, 25, 40, 120])
@pytest.mark.parametrize("seed", range(3))
def test_reassign_is_the_rule_item_by_item(rows: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitok.collisions._DISTANCES_AT_ONCE", 12)  # three movers a block
    ids, keys = make_ids(rows, seed), torch.randperm(rows).tolist()
    first = ids[: rows // 3].assign(keys[: rows // 3], "reassign")
    known = by_key(keys[: rows // 3], first)
    assert {key: row[:-1] for key, row in known.items()} == brute_reassign(ids[: rows // 3], keys[: rows // 3], {})
    whole = ids.assign(keys, "reassign", AssignedIds(keys[: rows // 3], first))
    got = by_key(keys, whole)
    assert {key: got[key] for key in known} == known
    expected = brute_reassign(ids, keys, known)
    assert {key: got[key][:-1] for key in expected} == expected
    assert len(set(got.values())) == rows
    assert torch.equal(whole.slot_codes[:, 0], whole.codes)
    crowd = Counter((*row[:-3], row[-2]) for row in got.values())  # by family: as many as K need no suffix
    assert all(row[-1] == 0 for row in got.values() if crowd[(*row[:-3], row[-2])] <= 4)


def test_reassign_falls_back_to_a_suffix_when_the_family_is_full() -> None:
    codes, experts = torch.zeros(6, 1, dtype=torch.int64), torch.zeros(6, 1, dtype=torch.int64)
    books = torch.tensor([[[0.0], [1.0], [1.0], [5.0]]])
    ids = SemanticIds(codes, experts, 4, 1, last_residual=torch.full((6, 1), 0.9), last_codebooks=books)
    assigned = ids.assign(["f", "e", "d", "c", "b", "a"], "reassign")
    assert assigned.codes[:, 0].tolist() == [
        0,
        0,
        3,
        2,
        1,
        0,
    ]  # ties between 1 and 2 take 1; then all are taken
    assert assigned.suffix.tolist() == [2, 1, 0, 0, 0, 0]
    roomy = ids[2:].assign(["d", "c", "b", "a"], "reassign")
    assert roomy.suffix.tolist() == [0, 0, 0, 0]
    assert roomy.codes[:, 0].tolist() == [3, 2, 1, 0]
    # Once the family has filled up, what was written before still holds to the byte.
    later = ids.assign(["f", "e", "d", "c", "b", "a"], "reassign", AssignedIds(["d", "c", "b", "a"], roomy))
    assert later[2:].equals(roomy)
    assert later.suffix.tolist() == [2, 1, 0, 0, 0, 0]
    assert later.to_text()[2:] == roomy.to_text()
    assert np.array_equal(later.pack()[2:], roomy.pack())


def test_reassign_needs_finite_residuals_of_what_it_moves() -> None:
    ids = make_ids(60, 0)
    with pytest.raises(ValueError, match="last_residual and last_codebooks must be kept"):
        replace(ids, last_residual=None).assign(range(60), "reassign")
    with pytest.raises(ValueError, match="last_residual must be finite"):
        replace(ids, last_residual=torch.full_like(ids.last_residual, torch.nan)).assign(range(60), "reassign")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 60),
    seed=st.integers(0, 2**16),
    resolver=st.sampled_from(["suffix", "reassign"]),
    words=st.booleans(),
)
def test_ids_do_not_depend_on_the_order_of_rows(rows: int, seed: int, resolver: str, words: bool) -> None:
    ids, g = make_ids(rows, seed), torch.Generator().manual_seed(seed)
    keys = [f"item {k}" if words else k for k in torch.randperm(rows, generator=g).tolist()]
    order = torch.randperm(rows, generator=g)
    straight = ids.assign(keys, resolver)
    shuffled = ids[order].assign([keys[i] for i in order.tolist()], resolver)
    assert shuffled.equals(straight[order])
    assert len(set(by_key(keys, straight).values())) == rows


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 60),
    seed=st.integers(0, 2**16),
    cuts=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    resolver=st.sampled_from(["suffix", "reassign"]),
)
def test_adding_items_changes_no_old_id(rows: int, seed: int, cuts: tuple[int, int], resolver: str) -> None:
    ids, g = make_ids(rows, seed), torch.Generator().manual_seed(seed)
    keys = torch.randperm(rows, generator=g).tolist()
    existing, old = None, {}
    for end in (*sorted(cuts), rows):  # items arrive in three lots; each time all so far are assigned again
        part = ids[:end]
        order = torch.randperm(len(part), generator=g)
        part_keys = [keys[i] for i in order.tolist()]
        assigned = part[order].assign(part_keys, resolver, existing)
        new = by_key(part_keys, assigned)
        assert {key: new[key] for key in old} == old
        assert len(set(new.values())) == len(part)
        existing, old = AssignedIds(part_keys, assigned), new


def test_newcomers_alone_respect_items_that_are_not_among_the_rows() -> None:
    ids, keys = make_ids(80, 8), list(range(80))
    for resolver in ("suffix", "reassign"):
        old = ids[:50].assign(keys[:50], resolver)
        alone = ids[50:].assign(keys[50:], resolver, AssignedIds(keys[:50], old))
        together = ids.assign(keys, resolver, AssignedIds(keys[:50], old))
        assert by_key(keys[50:], alone) == {k: v for k, v in by_key(keys, together).items() if k >= 50}


def test_removed_items_leave_their_number_unused() -> None:
    codes, experts = torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64)
    ids = SemanticIds(codes, experts, 4, 1)
    old = ids[:3].assign([10, 11, 12])
    kept = AssignedIds([10, 12], old[[0, 2]])
    assert ids[[0, 2, 3]].assign([10, 12, 1], existing=kept).suffix.tolist() == [0, 2, 3]


def test_a_reassigned_item_keeps_its_id_when_the_holder_of_its_first_choice_is_gone() -> None:
    ids = make_ids(80, 8)
    old = ids.assign(range(80), "reassign")
    moved = (old.codes != ids.codes).any(dim=1)
    assert moved.any()
    keys = moved.nonzero()[:, 0].tolist()
    again = ids[moved].assign(keys, "reassign", AssignedIds(keys, old[moved]))
    assert again.equals(old[moved])


@pytest.mark.parametrize("resolver", ["suffix", "reassign"])
def test_an_existing_item_whose_id_changed_is_refused(resolver: str) -> None:
    ids = make_ids(10, 9)
    existing = AssignedIds(range(10), ids.assign(range(10), resolver))
    changed = ids.codes.clone()
    changed[4, 0] = (changed[4, 0] + 1) % 4
    slots = torch.cat([changed[:, None], ids.slot_codes[:, 1:]], dim=1)
    with pytest.raises(ValueError, match="the ID of the existing item 4 must be"):
        replace(ids, codes=changed, slot_codes=slots).assign(range(10), resolver, existing)


def test_existing_must_fit() -> None:
    ids = make_ids(10, 9)
    with pytest.raises(ValueError, match="existing must hold distinct IDs"):
        make_ids(60, 0).assign(range(60), existing=AssignedIds(range(60), make_ids(60, 0)))
    with pytest.raises(ValueError, match=r"existing must have \(L, K\) = \(2, 4\), got \(3, 4\)"):
        ids.assign(range(10), existing=AssignedIds([], make_ids(0, 0, levels=3)))
    with pytest.raises(TypeError, match="of the kind of the existing ones, got 0 beside 'a'"):
        ids.assign(range(10), existing=AssignedIds(["a"], ids[:1].assign(["a"])))
    with pytest.raises(ValueError, match=r"existing\.item_keys must be one for each of 1 rows, got 2"):
        ids.assign(range(10), existing=AssignedIds([1, 2], ids[:1].assign([1])))


def after_a_domain(ids: SemanticIds) -> SemanticIds:
    """The same IDs, as the tokenizer gives them once a domain brought it an expert."""
    return replace(ids, num_experts=4, last_codebooks=torch.cat([ids.last_codebooks, torch.ones(1, 4, 5)]))


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


@pytest.mark.parametrize("resolver", ["suffix", "reassign"])
def test_ids_of_fewer_experts_still_count_as_existing(resolver: str) -> None:
    ids, keys = make_ids(90, 9), list(range(90))
    before = ids[:50].assign(keys[:50], resolver)
    newcomers = torch.arange(90) >= 70
    grown = after_a_domain(ids)
    grown = replace(grown, experts=torch.where(newcomers[:, None], 3, grown.experts))
    for rows in (slice(90), slice(50, 90)):  # with the old items among them, and without
        after = grown[rows].assign(keys[rows], resolver, AssignedIds(keys[:50], before))
        both = {**by_key(keys[:50], before), **by_key(keys[rows], after)}
        assert {key: both[key] for key in keys[:50]} == by_key(keys[:50], before)
        assert len(set(both.values())) == 90


def test_none_leaves_ids_as_they_are() -> None:
    ids = make_ids(10, 9)
    assert ids.assign(range(10), None) is ids
    assert ids.assign(range(10), "none").suffix is None


def test_ten_thousand_equal_items_are_told_apart_in_a_moment() -> None:
    zeros: Tensor = torch.zeros(10_000, 2, dtype=torch.int64)
    ids = SemanticIds(zeros, zeros[:, :1], 256, 1)
    assert ids.assign(range(10_000)).suffix.tolist() == list(range(10_000))
