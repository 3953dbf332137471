"""IDs judged without a recommender: every figure as counted by hand, pair by pair."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from tests.unitok.ids.made import make_ids
from unitok.evaluation.id_probes import THIRDS, probe
from unitok.recommender import Histories

ITEMS, LEVELS = 24, 3


def users(seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(ITEMS, (int(length),), generator=draw).tolist() for length in torch.arange(3, 12)]


def test_every_figure_is_what_counting_gives() -> None:
    ids, lists = make_ids(ITEMS, 5, levels=LEVELS, codebook_size=3), users()
    x = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(1))
    found = probe(ids, x, Histories.from_lists(lists))
    pairs = [(a, b) for own in lists for at, a in enumerate(own[:-2]) for b in own[:-2][at + 1 : at + 6] if a != b]
    assert (found.items, found.transitions, len(found.levels)) == (ITEMS, len(pairs), LEVELS)
    centred = torch.nn.functional.normalize(x.double() - x.double().mean(0), dim=1)
    before = 0.0
    for level, each in enumerate(found.levels):
        names = [
            (int(expert), *codes) for expert, codes in zip(ids.experts, ids.codes[:, : level + 1].tolist(), strict=True)
        ]
        assert each.prefixes == len(set(names))
        shares = [names.count(name) / ITEMS for name in set(names)]
        entropy = -sum(share * math.log2(share) for share in shares)
        assert each.bits == pytest.approx(entropy - before, abs=1e-9)
        before = entropy
        alike = [float(centred[a] @ centred[b]) for a, b in permutations(range(ITEMS), 2) if names[a] == names[b]]
        assert each.cosine == pytest.approx(sum(alike) / len(alike))
        assert each.together == sum(names[a] == names[b] for a, b in pairs) / len(pairs)
        free = [(a, b) for a, _ in pairs for _, b in pairs if a != b]
        assert each.chance == pytest.approx(sum(names[a] == names[b] for a, b in free) / len(free))
        assert each.lift == each.together / each.chance
    met = [sum(own[:-2].count(item) for own in lists) for item in range(ITEMS)]
    order = sorted(range(ITEMS), key=lambda item: -met[item])
    shared = [sum(names.count(names[item]) > 1 for item in order[at : at + 8]) / 8 for at in (0, 8, 16)]
    assert found.shared == dict(zip(THIRDS, shared, strict=True))


def test_without_interactions_content_alone_is_judged() -> None:
    ids = make_ids(ITEMS, 5, levels=LEVELS)
    found = probe(ids, torch.randn(ITEMS, 4))
    assert (found.transitions, found.shared) == (0, None)
    plain = found.to_dict()["levels"][0]
    assert (plain["together"], plain["chance"], plain["lift"]) == (None, None, None)
    assert found.to_table().row_count == LEVELS
    one = probe(ids[:1], torch.ones(1, 4), Histories.from_lists([[0, 0, 0, 0]]))
    assert (one.levels[0].bits, one.levels[0].prefixes, one.transitions) == (0.0, 1, 0)
    assert math.isnan(one.levels[0].cosine)


def test_the_last_two_items_of_a_user_count_for_nothing() -> None:
    ids, x = make_ids(ITEMS, 5), torch.randn(ITEMS, 4)
    found = [probe(ids, x, Histories.from_lists([[1, 2, 3, *targets]])).to_dict() for targets in ([4, 5], [6, 7])]
    assert found[0] == found[1]
    assert found[0]["transitions"] == 3


def test_wrong_input_is_refused() -> None:
    ids = make_ids(4, 5)
    with pytest.raises(ValueError, match=r"probe: embeddings must be \(4, D\) floating point"):
        probe(ids, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="probe: histories must be of 4 items, got item 7"):
        probe(ids, torch.zeros(4, 2), Histories.from_lists([[7, 7, 1, 2]]))
    with pytest.raises(ValueError, match="probe: embeddings must be finite, got NaN or infinity"):
        probe(ids, torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="probe"):
        probe(replace(ids, codes=ids.codes.fill_(-1), slot_codes=None), torch.zeros(4, 2))
    with pytest.raises(TypeError, match="probe: ids must be SemanticIds"):
        probe(ids.codes, torch.zeros(4, 2))  # type: ignore[arg-type]
