"""Colliding items are told apart, whatever the order they come in, and no ID that exists ever changes."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unitok.ids.made import after_a_domain, by_key, make_ids
from unitok.ids.semantic_ids import AssignedIds, SemanticIds


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
    monkeypatch.setattr("unitok.ids.collisions.DISTANCES_AT_ONCE", 12)  # three movers a block
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


def cost(ids: SemanticIds, assigned: SemanticIds) -> Tensor:
    """The squared distance of each row's last residual to the last codeword that it was given."""
    chosen = ids.last_codebooks[ids.experts[:, 0], assigned.codes[:, -1]]
    return (ids.last_residual.double() - chosen.double()).square().sum(1)


@pytest.mark.parametrize("seed", range(4))
def test_least_cost_is_the_least_of_all_ways(seed: int) -> None:
    ids, keys = make_ids(45, seed), torch.randperm(45, generator=torch.Generator().manual_seed(seed)).tolist()
    known = 15
    first = ids[:known].assign(keys[:known], "least_cost")
    whole = ids.assign(keys, "least_cost", AssignedIds(keys[:known], first))
    assert whole[:known].equals(first)
    spent, family = cost(ids, whole), ids.tokens()[:, [0, 2]]
    crowded = 0
    for each in family.unique(dim=0):
        rows = (family == each).all(1).nonzero()[:, 0]
        old, new = rows[rows < known], rows[rows >= known]
        taken = set(first.codes[old, 1].tolist())
        if not len(new) or len({*taken, *ids.codes[new, 1].tolist()}) == len(taken) + len(new):  # no collision
            assert torch.equal(whole.codes[new], ids.codes[new])
            continue
        crowded += 1
        free = [code for code in range(4) if code not in taken]
        every = (ids.last_residual[new, None].double() - ids.last_codebooks[each[1], free].double()).square().sum(2)
        placed = min(len(new), len(free))
        ways = [
            float(every[list(which), list(chosen)].sum())
            for which in combinations(range(len(new)), placed)
            for chosen in permutations(range(len(free)), placed)
        ]
        moved = torch.tensor([code in free for code in whole.codes[new, 1].tolist()]) & (whole.suffix[new] == 0)
        if placed == len(new):
            assert moved.all()
            assert float(spent[new].sum()) == pytest.approx(min(ways))
        else:  # the rest share a code and have a suffix
            assert (whole.suffix[new] > 0).any()
            assert float(spent[new].sum()) <= float(cost(ids, ids)[new].sum()) + min(ways) + 1e-9
    assert crowded > 3


def test_least_cost_spends_no_more_than_one_item_after_the_other() -> None:
    ids = make_ids(50, 3, codebook_size=16)
    exact, greedy = (cost(ids, ids.assign(range(50), how)).sum() for how in ("least_cost", "reassign"))
    assert exact < greedy
    assert ids.assign(range(50), "least_cost").suffix.sum() == 0


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


@pytest.mark.parametrize("resolver", ["reassign", "least_cost"])
def test_finite_residuals_of_what_is_moved_are_needed(resolver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = make_ids(60, 0)
    with pytest.raises(ValueError, match="last_residual and last_codebooks must be kept"):
        replace(ids, last_residual=None).assign(range(60), resolver)
    with pytest.raises(ValueError, match="last_residual must be finite"):
        replace(ids, last_residual=torch.full_like(ids.last_residual, torch.nan)).assign(range(60), resolver)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"needs scipy, which isn't installed: pip install 'unitok-kernels\[align\]'"):
        ids.assign(range(60), "least_cost")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 60),
    seed=st.integers(0, 2**16),
    resolver=st.sampled_from(["suffix", "reassign", "least_cost"]),
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
    resolver=st.sampled_from(["suffix", "reassign", "least_cost"]),
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
    for resolver in ("suffix", "reassign", "least_cost"):
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


@pytest.mark.parametrize("resolver", ["suffix", "reassign", "least_cost"])
def test_an_existing_item_whose_id_changed_is_refused(resolver: str) -> None:
    ids = make_ids(10, 9)
    existing = AssignedIds(range(10), ids.assign(range(10), resolver))
    changed = ids.codes.clone()
    changed[4, 0] = (changed[4, 0] + 1) % 4
    slots = torch.cat([changed[:, None], ids.slot_codes[:, 1:]], dim=1)
    with pytest.raises(
        ValueError, match=r"must be those of `existing`, got one that differs: item 4 had \(.*'renew'\."
    ):
        replace(ids, codes=changed, slot_codes=slots).assign(range(10), resolver, existing)


@pytest.mark.parametrize("resolver", ["suffix", "reassign", "least_cost"])
def test_existing_items_whose_codes_changed_keep_their_ids_or_get_new_ones(resolver: str) -> None:
    ids, keys, later = make_ids(60, 9), list(range(60)), make_ids(60, 10)
    old = ids[:40].assign(keys[:40], resolver)
    before, existing = by_key(keys[:40], old), AssignedIds(keys[:40], old)
    moved, known = later.changed_rows(keys, existing, resolver).unbind(1)
    assert torch.equal(moved, known)
    columns = [0, 1, 2] if resolver == "suffix" else [0, 2]  # a reassigned item's last code says nothing
    differs = (ids.tokens()[:40, columns] != later.tokens()[:40, columns]).any(dim=1)
    assert moved.tolist() == differs.nonzero()[:, 0].tolist()
    assert 0 < len(moved) < 40
    kept = by_key(keys, later.assign(keys, resolver, existing, "keep"))
    assert {key: kept[key] for key in before} == before
    renewed = by_key(keys, later.assign(keys, resolver, existing, "renew"))
    for key in keys[:40]:
        if key in moved:
            assert renewed[key] not in before.values()  # the old IDs stay taken
            assert resolver != "suffix" or renewed[key][:3] == tuple(later.tokens()[key].tolist())
        else:
            assert renewed[key] == before[key]
    for assigned in (kept, renewed):
        assert len(set(assigned.values())) == 60
    with pytest.raises(ValueError, match="assign: changed must be one of 'fail', 'keep', 'renew', got 'drop'"):
        later.assign(keys, resolver, existing, "drop")


def test_existing_ids_that_do_not_fit_are_refused() -> None:
    ids = make_ids(10, 9)
    with pytest.raises(ValueError, match="existing must hold distinct IDs"):
        make_ids(60, 0).assign(range(60), existing=AssignedIds(range(60), make_ids(60, 0)))
    with pytest.raises(ValueError, match=r"existing must have \(L, K\) = \(2, 4\), got \(3, 4\)"):
        ids.assign(range(10), existing=AssignedIds([], make_ids(0, 0, levels=3)))
    with pytest.raises(TypeError, match="of the kind of the existing ones, got 0 beside 'a'"):
        ids.assign(range(10), existing=AssignedIds(["a"], ids[:1].assign(["a"])))
    with pytest.raises(ValueError, match=r"existing\.item_keys must be one for each of 1 rows, got 2"):
        ids.assign(range(10), existing=AssignedIds([1, 2], ids[:1].assign([1])))


@pytest.mark.parametrize("resolver", ["suffix", "reassign", "least_cost"])
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


def test_the_resolver_none_leaves_ids_as_they_are() -> None:
    ids = make_ids(10, 9)
    assert ids.assign(range(10), None) is ids
    assert ids.assign(range(10), "none").suffix is None


def test_ten_thousand_equal_items_are_told_apart_in_a_moment() -> None:
    zeros: Tensor = torch.zeros(10_000, 2, dtype=torch.int64)
    ids = SemanticIds(zeros, zeros[:, :1], 256, 1)
    assert ids.assign(range(10_000)).suffix.tolist() == list(range(10_000))
