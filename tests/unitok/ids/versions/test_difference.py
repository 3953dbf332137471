"""What became of IDs: every item is kept, changed, new or vanished, whatever its row, and the shares add up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.unitok.ids.made import make_ids
from unitok.ids.semantic_ids import SemanticIds
from unitok.ids.table import IdTable
from unitok.ids.versions.difference import compare

LEVELS = 3


def table(ids: SemanticIds, domains: list[str], numbers: list[int], names: list[str | None] | None = None) -> IdTable:
    return IdTable.of(domains, numbers, ids, names)


def made(rows: int, seed: int) -> SemanticIds:
    return make_ids(rows, seed, levels=LEVELS).assign(range(rows))


def test_each_item_is_kept_changed_new_or_vanished() -> None:
    ids = made(40, 1)
    domains = ["a" if row % 2 else "b" for row in range(40)]
    before = table(ids[:30], domains[:30], list(range(30)))
    codes, experts = ids.codes.clone(), ids.experts.clone()
    codes[12, 0] = (codes[12, 0] + 1) % 4
    codes[13, 2] = (codes[13, 2] + 1) % 4
    experts[14, 0] = (experts[14, 0] + 1) % 3
    suffix = ids.suffix.clone()
    suffix[15] += 100
    slot_codes = codes[:, None]
    changed = replace(ids, codes=codes, experts=experts, suffix=suffix, slot_codes=slot_codes)
    mixed = torch.randperm(30, generator=torch.Generator().manual_seed(0)) + 10
    after = table(changed[mixed], [domains[row] for row in mixed.tolist()], mixed.tolist())
    found = compare(before, after)
    assert (found.overall.kept, found.overall.changed, found.overall.added, found.overall.vanished) == (16, 4, 10, 10)
    assert found.overall.churn == 4 / 20
    assert found.overall.expert == 19 / 20
    assert found.overall.prefixes == (18 / 20, 18 / 20, 17 / 20)  # the suffix alone is in none of them
    assert list(found.domains) == ["b", "a"]
    assert found.domains["b"].kept == 8
    assert [sum(getattr(each, name) for each in found.domains.values()) for name in ("kept", "added")] == [16, 10]
    rows = {row["item_id"]: (row["before"], row["after"]) for row in found.items.to_pylist()}
    assert set(rows) == {*range(10), 12, 13, 14, 15, *range(30, 40)}
    text, new = ids.to_text(), changed.to_text()
    assert rows[3] == (text[3], None)
    assert rows[12] == (text[12], new[12])
    assert rows[35] == (None, new[35])


def test_items_are_known_by_their_names_where_both_have_them() -> None:
    ids = made(4, 2)
    before = table(ids, ["a", "a", "b", "b"], [0, 1, 0, 1], ["x", "y", "u", None])
    after = table(ids[[1, 0, 3, 2]], ["a", "a", "b", "b"], [0, 1, 1, 0], ["y", "x", "p", "q"])
    found = compare(before, after)
    assert (found.domains["a"].kept, found.domains["b"].kept) == (2, 2)  # b by numbers: one of its items has no name
    assert len(found.items) == 0
    assert found.items.column_names == ["domain", "item_id", "source_id", "before", "after"]


def test_tables_without_an_item_in_common_have_no_shares() -> None:
    ids = made(2, 3)
    found = compare(table(ids[:1], ["a"], [0]), table(ids[1:], ["c"], [0]))
    assert (found.overall.added, found.overall.vanished) == (1, 1)
    assert math.isnan(found.overall.churn)
    plain = found.to_dict()
    assert plain["overall"]["churn"] is None
    assert plain["domains"]["a"]["prefixes"] == [None] * LEVELS
    empty = compare(table(ids[:0], [], []), table(ids[:0], [], []))
    assert (empty.domains, len(empty.items)) == ({}, 0)


def test_what_cannot_be_compared_is_refused() -> None:
    ids = made(2, 4)
    whole = table(ids, ["a", "a"], [0, 1])
    with pytest.raises(ValueError, match="compare: later must be of 3 levels, as earlier, got 2"):
        compare(whole, table(make_ids(2, 4).assign(range(2)), ["a", "a"], [0, 1]))
    twice = IdTable(whole.table.take([0, 1, 1]), 4, 3)
    with pytest.raises(ValueError, match="compare: earlier must be of distinct items, got a:1 more than once"):
        compare(twice, whole)
    with pytest.raises(TypeError, match="compare: later must be an IdTable"):
        compare(whole, ids)  # type: ignore[arg-type]
