"""Numbers by which items keep their prefixes: mixed ones are put right, and the matching is the best there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from unitok.ids.semantic_ids import SemanticIds
from unitok.ids.versions.alignment import align_ids

EXPERTS, ADDED, LEVELS, SIZE = 4, 2, 3, 6


def made(rows: int, seed: int, experts: int = EXPERTS + ADDED) -> SemanticIds:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(SIZE, (rows, LEVELS), generator=g)
    return SemanticIds(codes, torch.randint(experts, (rows, 1), generator=g), SIZE, experts)


def mixed(ids: SemanticIds, seed: int) -> SemanticIds:
    """The same clusters under other numbers; added experts among themselves."""
    g = torch.Generator().manual_seed(seed)
    experts = torch.cat([torch.randperm(EXPERTS, generator=g), EXPERTS + torch.randperm(ADDED, generator=g)])
    of_each = torch.stack([torch.randperm(SIZE, generator=g) for _ in range((EXPERTS + ADDED) * LEVELS)])
    codes = of_each.view(-1, LEVELS, SIZE)[ids.experts, torch.arange(LEVELS), ids.codes]
    return replace(ids, codes=codes, experts=experts[ids.experts])


def test_mixed_numbers_are_put_right() -> None:
    earlier = made(3000, 1)
    ids = mixed(earlier, 2)
    found = align_ids(ids, earlier, EXPERTS + ADDED, EXPERTS)
    assert found.before[-1] < 0.1
    assert found.after == (1.0,) * (LEVELS + 1)
    assert torch.equal(found.experts[ids.experts], earlier.experts)
    assert torch.equal(found.codes[ids.experts, torch.arange(LEVELS), ids.codes], earlier.codes)
    assert torch.equal(found.codes.sort(2).values, torch.arange(SIZE).expand_as(found.codes))
    assert sorted(found.experts[:EXPERTS].tolist()) == list(range(EXPERTS))


def test_each_level_is_matched_as_well_as_can_be_and_first_for_items_whose_prefix_is_right() -> None:
    ids, earlier = made(300, 3, experts=1), made(300, 4, experts=1)
    found = align_ids(ids, earlier, 1, 0)
    right = np.ones(300, bool)
    for level in range(LEVELS):
        own, wanted = ids.codes[:, level].numpy(), earlier.codes[:, level].numpy()
        reached = [np.array(order)[own] == wanted for order in permutations(range(SIZE))]
        best = max((int(equal[right].sum()), int(equal.sum())) for equal in reached)
        equal = found.codes[0, level].numpy()[own] == wanted
        assert (int(equal[right].sum()), int(equal.sum())) == best
        right &= equal
        assert found.after[level + 1] == right.mean()


def test_an_expert_more_or_fewer_than_before_takes_a_number_that_is_left() -> None:
    earlier = made(2000, 5, experts=3)
    ids = mixed(replace(earlier, num_experts=EXPERTS + ADDED), 6)
    ids = replace(ids, experts=ids.experts.clone())
    found = align_ids(ids, earlier, EXPERTS + ADDED, EXPERTS)
    assert found.after == (1.0,) * (LEVELS + 1)
    assert sorted(found.experts.tolist()) == list(range(EXPERTS + ADDED))
    back = align_ids(earlier, ids, 3, 3)  # of the earlier experts with numbers up to 2 alone
    assert sorted(back.experts.tolist()) == [0, 1, 2]


def test_numbers_that_nothing_speaks_against_stay() -> None:
    ids, earlier = made(60, 8), made(60, 9)
    once = align_ids(ids, earlier, EXPERTS + ADDED, EXPERTS)
    codes = once.codes[ids.experts, torch.arange(LEVELS), ids.codes]
    aligned = replace(ids, codes=codes, experts=once.experts[ids.experts])
    again = align_ids(aligned, earlier, EXPERTS + ADDED, EXPERTS)
    assert again.before == again.after == once.after
    assert torch.equal(again.experts, torch.arange(EXPERTS + ADDED))
    assert torch.equal(again.codes, torch.arange(SIZE).expand_as(again.codes))


def test_other_items_are_refused(refuses: Callable[..., object]) -> None:
    ids = made(20, 7)
    with refuses("align", "earlier", TypeError):
        align_ids(ids, ids.codes, 6, 4)  # type: ignore[arg-type]
    with refuses("align", "earlier"):
        align_ids(ids, ids[:19], 6, 4)
    with refuses("align", "ids"):
        align_ids(ids[:0], ids[:0], 6, 4)
    codes = ids.codes.clone()
    codes[3] = -1
    with refuses("align", "ids"):
        align_ids(replace(ids, codes=codes), ids, 6, 4)
    with pytest.raises(ValueError, match="levels and codewords"):
        align_ids(ids, replace(ids, codebook_size=7), 6, 4)
