"""The hybrid recommender: its scores by hand, its search, what it learns, and items and events that come later."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unitok.recommender.hybrid.test_memory import by_hand as recalled_by_hand
from tests.unitok.recommender.test_sequence_models import HISTORY, ITEMS, histories, ids, make
from unitok import SemanticIds
from unitok.recommender import (
    Histories,
    HybridRecommender,
    RQRecommender,
    SequenceRecommender,
    TokenTable,
    gpt2_config,
)

KNOWN = Histories.from_lists(histories(*[HISTORY] * 20).tolist())  # as `make` gives it


def hybrid(*, suffix: bool = True, beam: int = 8) -> HybridRecommender:
    found = make("hybrid", TokenTable.of(ids(suffix=suffix)), beam)
    assert isinstance(found, HybridRecommender)
    return found


@torch.no_grad()
def trusting(found: HybridRecommender) -> HybridRecommender:
    """Have its memory alone decide."""
    found.model.trust.weight.zero_()
    found.model.trust.bias.fill_(50.0)
    found.model.content.zero_()
    return found


@torch.no_grad()
def by_hand(found: HybridRecommender, history: list[int]) -> list[float]:
    """The score of every item, of the formula, one item at a time."""
    model, items = found.model, torch.tensor([history])
    state = model(found.table.start, items, found.table.tokens[items])[0, -1]
    training = KNOWN.training()
    lists = [own.tolist() for own in training.items.split(training.lengths.tolist())]
    recalled = recalled_by_hand(lists, history, ITEMS)
    content = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(2))
    content = F.normalize(content - content.mean(0), dim=1)
    profile = F.normalize(sum(0.5**back * content[item] for back, item in enumerate(reversed(history))), dim=0)  # type: ignore[arg-type]
    trust = F.softplus(model.trust(state)).tolist()
    embeddings, scores, balance = model.trunk.get_input_embeddings().weight, [], model.balance.tolist()
    for item in range(ITEMS):
        vector = model.items.weight[item] + sum(embeddings[token] for token in found.table.tokens[item])
        score = balance[0] * math.exp(model.sharpness) * float(state @ vector)
        score += trust[0] * math.log1p(recalled[item] / 0.01)
        likeness = balance[1] * float(profile @ content[item])
        scores.append(score + trust[1] * likeness + float(model.repeat) * (item in history))
    return scores


@pytest.mark.parametrize("suffix", [True, False])
def test_it_ranks_by_the_formula_also_items_of_equal_tokens(suffix: bool) -> None:
    found = hybrid(suffix=suffix)
    found.model.balance.copy_(torch.tensor([0.25, 3.0]))
    for history in ([3, 80, 3, 41], histories(HISTORY)[0].tolist(), [7]):
        expected = torch.tensor(by_hand(found, history)).argsort(descending=True).tolist()
        assert found.rank([history], ITEMS, exclude_seen=False)[0].tolist() == expected
        unseen = [item for item in expected if item not in history]
        assert found.rank([history], ITEMS)[0].tolist() == unseen + [-1] * (ITEMS - len(unseen))


@torch.no_grad()
def test_the_loss_is_that_of_the_scores_and_of_the_tokens() -> None:
    found, row = hybrid(), [3, 80, 3, 41]
    found.model.memory = type(found.model.memory)(ITEMS)  # what it recalls in training is tested with the memory
    tokens = make("rq", found.table)
    tokens.model.load_state_dict({n: v for n, v in found.model.state_dict().items() if n in tokens.model.state_dict()})
    expected = float(tokens.loss(torch.tensor([row])))
    for place, item in enumerate(row):
        assert found.rank([row[:place]], 1).shape == (1, 1)
        before = torch.tensor([row[:place]], dtype=torch.int64)
        states = found.model(found.table.start, before, found.table.tokens[before])[:, -1]
        profile = found.model.profiles(torch.tensor([row[:place]]))[:, -1] if place else torch.zeros(1, 5)
        met = torch.zeros(1, ITEMS)
        met[0, row[:place]] = 1.0
        vectors = found.model.vectors(torch.arange(ITEMS), found.table.tokens)
        scores = found.model.score(states, profile @ found.model.content.T, torch.zeros(1, ITEMS), met, vectors)[0]
        unmet = set(range(ITEMS)) - {*KNOWN.training().items.tolist(), *row}
        scores[list(unmet)] = -torch.inf
        expected -= float(scores.log_softmax(0)[item]) / len(row)
    padded = torch.tensor([[*row, -1]])
    assert math.isclose(float(found.loss(padded)), expected, rel_tol=1e-5)


@torch.no_grad()
def test_items_that_are_drawn_stand_for_all_that_were_met() -> None:
    found, row = hybrid(), torch.tensor([[3, 80, 3, 41]])
    found.trie_weight = 0.0
    whole = float(found.loss(row))
    found.sampled_items = ITEMS
    assert float(found.loss(row)) == whole
    found.sampled_items = 10
    assert float(found.loss(row)) != whole
    for part in (found.model.trust.weight, found.model.items.weight, found.model.trunk.get_input_embeddings().weight):
        part.zero_()
    found.model.trust.bias.fill_(-50.0)
    found.model.repeat.zero_()  # so all scores are 0, and a probability is 1 / the number of items
    torch.manual_seed(0)
    known = len({*KNOWN.training().items.tolist(), *row[0].tolist()})
    numbers = torch.tensor([float(found.loss(row).exp()) for _ in range(400)])
    assert numbers.std() > 1
    assert abs(float(numbers.mean()) - known) < 4 * float(numbers.std()) / 20


@pytest.mark.parametrize("options", [{}, {"exclude_seen": False}, {"deny": [2, 3, 5]}, {"allow": list(range(40))}])
@pytest.mark.parametrize("suffix", [True, False])
def test_what_the_search_finds_is_ranked_as_if_all_were_scored(suffix: bool, options: dict[str, Any]) -> None:
    found, missed = hybrid(suffix=suffix, beam=6), 0
    for one in (found, found.within(torch.arange(2, ITEMS))):
        for history in histories(0, 3, HISTORY):
            one.exact_items = ITEMS
            every = one.rank(history[None], ITEMS, **options)[0].tolist()
            one.exact_items = 0
            ranked = one.rank(history[None], 6, **options)[0].tolist()
            assert min(ranked) >= 0
            assert ranked == [item for item in every if item in ranked]
            missed += ranked != every[:6]
    assert missed  # so it did search: these weights write other items than they score best


def test_a_narrow_search_finds_what_came_after_the_history() -> None:
    found = hybrid(beam=1)
    found.exact_items = 0
    trusting(found).observe(Histories.from_lists([[70, 71]] * 50), new=None)
    assert found.rank([[70]], 1).tolist() == [[71]]


def test_a_search_never_names_an_item_twice_and_fills_the_list() -> None:
    found = hybrid(beam=4)
    found.exact_items = 0
    ranked = found.rank(histories(2, HISTORY), 20)
    assert all(len(set(row)) == 20 and min(row) >= 0 for row in ranked.tolist())


def test_it_starts_from_what_the_items_are_like() -> None:
    content = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(4))
    found = HybridRecommender.create(TokenTable.items(ITEMS), gpt2_config(16, 1, 2), content=content)
    vectors = found.model.vectors(torch.arange(ITEMS), found.table.tokens).detach()
    centred = F.normalize(content, dim=1) - F.normalize(content, dim=1).mean(0)
    expected = F.normalize(centred, dim=1) @ F.normalize(centred, dim=1).T
    alike = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
    torch.testing.assert_close(alike, expected, atol=1e-4, rtol=0)  # one token an item tells all of it
    array = HybridRecommender.create(found.table, gpt2_config(16, 1, 2), content=content.numpy())
    assert array.model.content.equal(found.model.content)
    plain = RQRecommender.create(found.table, gpt2_config(16, 1, 2))
    without = HybridRecommender.create(found.table, gpt2_config(16, 1, 2))
    weights = [each.model.trunk.get_input_embeddings().weight for each in (plain, without)]
    assert weights[0].equal(weights[1])


def test_the_last_two_items_of_a_user_are_in_no_memory() -> None:
    lists = [[1, 2, 3, 4], [5, 6, 7, 8]]
    planted = [[1, 2, 30, 40], [5, 6, 70, 80]]
    states = [
        HybridRecommender.create(TokenTable.items(ITEMS), gpt2_config(16, 1, 2), histories=Histories.from_lists(given))
        .model.state_dict()
        .values()
        for given in (lists, planted)
    ]
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


def test_repeats_start_as_often_as_users_come_back() -> None:
    def begun(lists: list[list[int]]) -> float:
        known = Histories.from_lists([[*own, 0, 0] for own in lists])  # the last two are left out
        made = HybridRecommender.create(TokenTable.items(ITEMS), gpt2_config(16, 1, 2), histories=known)
        return float(made.model.repeat.detach())

    # 12 items and so 12 places to come back to (0 + 1 + 2 in each list), of 90 items: chance would have .13 repeats.
    assert math.isclose(begun([[1, 2, 3]] * 4), math.log(0.5 / (12 / ITEMS + 0.5)), rel_tol=1e-5)
    assert math.isclose(begun([[1, 2, 1]] * 4), math.log(4.5 / (12 / ITEMS + 0.5)), rel_tol=1e-5)


def test_what_is_observed_is_recalled_at_once() -> None:
    found, history = trusting(hybrid()), [5, 9]
    assert found.rank([history], 1).tolist() != [[33]]
    before = found.model.memory
    found.observe(Histories.from_lists([[5, 9, 33]] * 40))
    assert found.rank([history], 1).tolist() == [[33]]
    assert before is not found.model.memory  # what ranks in another thread goes on with the old one
    assert not before.after(torch.tensor([history]))[0, 33]


def test_it_ranks_as_well_with_weights_that_were_made_for_inference(tmp_path: Path) -> None:
    found = hybrid()
    found.save_pretrained(tmp_path / "saved")
    with torch.inference_mode():
        loaded = SequenceRecommender.from_pretrained(tmp_path / "saved")
        assert loaded.rank(histories(2), 9).equal(found.rank(histories(2), 9))


def later(seed: int = 6, new: int = 12) -> tuple[SemanticIds, Tensor]:
    """The IDs of `ids()` and of new items, some of codes that no item had; and what the new items are like."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.cat([ids().codes, torch.randint(5, (new, 3), generator=draw)])
    experts = torch.cat([ids().experts, torch.randint(2, (new, 1), generator=draw)])
    codes[-5:], experts[-5:] = codes[0], experts[0]  # more of one ID than there were
    every = SemanticIds(codes, experts, codebook_size=5, num_experts=2).assign(range(ITEMS + new))
    return every, torch.randn(new, 5, generator=draw)


def test_new_items_are_ranked_by_their_tokens_and_content_and_old_ones_score_as_before() -> None:
    found, (every, content) = hybrid(), later()
    grown = found.add_items(every, content)
    assert len(grown.table) == len(grown.names) == ITEMS + 12
    assert grown.table.tokens[:ITEMS].equal(found.table.tokens)
    assert grown.table.vocab_size > found.table.vocab_size  # a suffix that no item had
    history, old = histories(HISTORY), list(range(ITEMS))
    assert grown.rank(history, ITEMS, allow=old).equal(found.rank(history, ITEMS))
    assert set(grown.rank(history, ITEMS + 12, exclude_seen=False)[0].tolist()) == set(range(ITEMS + 12))
    item, model = ITEMS + 3, grown.model
    expected = model.trunk.get_input_embeddings().weight[grown.table.tokens[item]].sum(0)
    torch.testing.assert_close(model.vectors(torch.arange(len(grown.table)), grown.table.tokens)[item], expected)
    torch.testing.assert_close(model.content[item], F.normalize(content[3] - found.model.centre, dim=0))
    assert grown.rank([[item, 3]], 5).shape == (1, 5)  # and may be in a history
    assert len(found.table) == ITEMS
    trusting(grown).observe(Histories.from_lists([[3, item]] * 9))
    assert grown.rank([[3]], 1).tolist() == [[item]]


def test_a_grown_recommender_is_saved_and_trained_as_any_other(tmp_path: Path) -> None:
    every, content = later()
    grown = hybrid().add_items(every, content)
    grown.save_pretrained(tmp_path / "grown")
    loaded = SequenceRecommender.from_pretrained(tmp_path / "grown")
    asked = histories(2, HISTORY)
    assert loaded.rank(asked, 20).equal(grown.rank(asked, 20))
    assert bool(loaded.loss(torch.tensor([[1, ITEMS + 3, 5]])).isfinite())


def test_items_that_do_not_follow_those_that_are_there_are_refused(refuses: Callable[..., Any]) -> None:
    found, (every, content) = hybrid(), later()
    with refuses("extended", "ids"):
        found.add_items(ids(), content)
    with refuses("extended", "ids"):
        found.add_items(every[torch.arange(len(every)).flip(0)], content)
    for wrong in (content[:3], content[:, :2], content * torch.nan):
        with refuses("add_items", "content"):
            found.add_items(every, wrong)
    with refuses("add_items", "content"):
        found.add_items(every)
    with refuses("add_items", "recommender"):
        found.within(torch.arange(5)).add_items(every, content)


def test_items_that_nobody_met_are_not_pushed_down() -> None:
    content = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    known = Histories.from_lists([[0, 1, 2, 3, 4, 5, 6]])
    found = HybridRecommender.create(TokenTable.items(9), gpt2_config(16, 1, 2), histories=known, content=content)
    found.trie_weight = 0.0
    found.loss(torch.tensor([[0, 1, 2, 3]])).backward()
    own = found.model.items.weight.grad
    assert own[1:5].abs().sum(1).min() > 0  # told from each other
    assert not own[5:].any()  # the last two of the history, and what is in none


def test_what_was_set_of_one_holds_for_those_made_of_it() -> None:
    found, (every, content) = hybrid(), later()
    found.exact_items, found.trie_weight = 7, 0.25
    for other in (found.within(torch.arange(9)), found.to("cpu"), found.add_items(every, content)):
        assert (other.exact_items, other.trie_weight) == (7, 0.25)


def test_weights_that_are_changed_behind_torch_s_back_are_scored_anew() -> None:
    found, asked = hybrid(), histories(2, HISTORY)
    found.rank(asked, 5)
    found.model.items.weight.data.add_(torch.randn(ITEMS, 16, generator=torch.Generator().manual_seed(1)))
    assert found.rank(asked, 5).equal(pickle.loads(pickle.dumps(found)).rank(asked, 5))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory.value", torch.nan),
        ("content", torch.nan),
        ("centre", torch.inf),
        ("met", torch.ones(ITEMS, dtype=torch.int64)),
    ],
)
def test_values_that_cannot_be_are_refused_when_loading(name: str, value: Any, tmp_path: Path) -> None:
    found, last = hybrid(), name.split(".")[-1]
    module = found.model.memory if "." in name else found.model
    own = getattr(module, last)
    setattr(module, last, value if isinstance(value, Tensor) else own.index_fill(0, torch.tensor([0]), value))
    found.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="from_pretrained"):
        SequenceRecommender.from_pretrained(tmp_path / "saved")


def test_wrong_arguments_are_refused(refuses: Callable[..., Any]) -> None:
    table = TokenTable.items(5)
    for content in (
        torch.zeros(4, 2),
        torch.zeros(5),
        torch.zeros(5, 2, dtype=torch.int64),
        torch.full((5, 1), torch.nan),
        torch.full((5, 1), 1e300, dtype=torch.float64),
    ):
        with refuses("create", "content"):
            HybridRecommender.create(table, content=content)
    with refuses("create", "content", TypeError):
        HybridRecommender.create(table, content=[[1.0]] * 5)  # type: ignore[arg-type]
    with refuses("create", "histories", TypeError):
        HybridRecommender.create(table, histories=[[1, 2]])  # type: ignore[arg-type]
    with refuses("create", "histories"):
        HybridRecommender.create(table, histories=Histories.from_lists([[1, 2, 7, 1, 1]]))
    found = HybridRecommender.create(table, gpt2_config(16, 1, 2))
    with refuses("observe", "histories"):
        found.observe(Histories.from_lists([[1, 9]]))
    with refuses("observe", "new"):
        found.observe(Histories.from_lists([[1, 2]]), new=0)
    with refuses("observe", "histories", TypeError):
        found.observe([[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="HybridRecommender: model must be a HybridModel"):
        HybridRecommender(RQRecommender.create(table, gpt2_config(16, 1, 2)).model, table)
