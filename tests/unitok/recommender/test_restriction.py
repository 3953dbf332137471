"""A recommender within some items stays there: moved, copied, pickled or saved, it ranks those items and no other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unitok.recommender.test_sequence_models import HISTORY, ITEMS, histories, ids, make
from unitok.recommender import CausalRecommender, Histories, SequenceRecommender, TokenTable, TrainingConfig, fit
from unitok.recommender.base import KINDS as CLASSES
from unitok.recommender.base import Step

ROWS = torch.tensor([71, 3, *range(20, 50), 88])
KINDS = ["gpt2", "llama", "t5", "rq", "sasrec", "hybrid"]


def within(kind: str, rows: torch.Tensor = ROWS) -> SequenceRecommender:
    """A recommender of a kind, in whose model nothing is in one mode with all the rest."""
    table = TokenTable.items(ITEMS) if kind == "sasrec" else TokenTable.of(ids())
    whole = make("gpt2" if kind == "sasrec" else kind, table, beam=40)
    whole.about, whole.beam = {"domains": {"books": ITEMS}}, 30
    return whole.within(rows)


def saved(recommender: SequenceRecommender, tmp_path: Path) -> SequenceRecommender:
    recommender.save_pretrained(tmp_path / "saved")
    return SequenceRecommender.from_pretrained(tmp_path / "saved")


WAYS: dict[str, Callable[[SequenceRecommender, Path], SequenceRecommender]] = {
    "to": lambda found, _: found.to("cpu"),
    "copy": lambda found, _: copy.copy(found),
    "deepcopy": lambda found, _: copy.deepcopy(found),
    "pickle": lambda found, _: pickle.loads(pickle.dumps(found)),
    "saved": saved,
    "within itself": lambda found, _: found.within(ROWS.flip(0)),
    "all of these": lambda found, path: copy.deepcopy(saved(pickle.loads(pickle.dumps(found.to("cpu"))), path)).to(
        "cpu"
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_ranks_the_same_items_alike_afterwards(kind: str, way: str, tmp_path: Path) -> None:
    found, asked = within(kind), histories(0, 4, HISTORY)
    expected = found.rank(asked, len(ROWS) + 3, exclude_seen=False)
    assert set(expected[:, : len(ROWS)].flatten().tolist()) == set(ROWS.tolist())
    assert (expected[:, len(ROWS) :] == -1).all()
    other = WAYS[way](found, tmp_path)
    assert type(other) is type(found)
    assert torch.equal(other.rank(asked, len(ROWS) + 3, exclude_seen=False), expected)
    assert (other.beam, other.history, other.about) == (30, HISTORY, {"domains": {"books": ITEMS}})
    assert other.rows is not None
    assert sorted(other.rows.tolist()) == sorted(ROWS.tolist())
    assert torch.equal(other.names, found.names)


def test_all_items_are_ranked_where_nothing_was_said(tmp_path: Path) -> None:
    whole = make("rq", TokenTable.of(ids()), beam=ITEMS)
    whole.within(ROWS).to("cpu")
    for found in (whole, whole.to("cpu"), saved(whole, tmp_path)):
        assert found.rows is None
        assert sorted(found.rank(histories(3), ITEMS, exclude_seen=False)[0].tolist()) == list(range(ITEMS))
    assert "rows" not in load_file(tmp_path / "saved" / "items.safetensors")
    whole.within(ROWS).save_pretrained(tmp_path / "saved", force=True)
    assert torch.equal(load_file(tmp_path / "saved" / "items.safetensors")["rows"], ROWS)


def test_the_rows_are_its_own() -> None:
    rows = ROWS.clone()
    found = within("gpt2", rows)
    rows[0] = 0
    assert torch.equal(found.rows, ROWS)
    inner = found.within(ROWS[:2])
    assert sorted(inner.rank(histories(4), 3, exclude_seen=False)[0].tolist()) == [-1, 3, 71]
    assert found.rows is not None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.zeros(0, dtype=torch.int64), r"torch\.int64 of shape \(0,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \(2, 2\)"),
        (torch.arange(5.0), r"torch\.float32"),
        (torch.arange(ITEMS) < 5, r"torch\.bool"),
        (torch.arange(5, dtype=torch.int32), r"torch\.int32"),
        (torch.tensor([1, ITEMS]), rf"got {ITEMS}\."),
        (torch.tensor([-1, 3]), r"got -1\."),
        (torch.tensor([4, 2, 4]), r"got 4 twice"),
    ],
)
def test_rows_that_are_none_are_refused(rows: torch.Tensor, said: str, refuses: Callable[..., Any]) -> None:
    whole = make("gpt2", TokenTable.of(ids()))
    with refuses("within", "rows") as caught:
        whole.within(rows)
    assert caught.match(said)
    with refuses("CausalRecommender", "rows"):
        CausalRecommender(whole.model, whole.table, history=HISTORY, rows=rows)


def test_another_domain_is_not_within(refuses: Callable[..., Any]) -> None:
    with refuses("within", "rows"):
        within("gpt2").within(torch.tensor([20, 0]))


@pytest.mark.parametrize("kind", ["gpt2", "t5", "rq"])
def test_nothing_is_learnt_within(kind: str, refuses: Callable[..., Any]) -> None:
    found = within(kind)
    with refuses("loss", "recommender"):
        found.loss(torch.tensor([[3, 4, 5]]))
    users = Histories(torch.tensor([0, 4]), torch.tensor([1, 2, 3, 4]), torch.tensor([0]))
    with refuses("fit", "recommender"):
        fit(found, users, TrainingConfig(epochs=1))


def test_ranking_leaves_every_module_in_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make("gpt2", TokenTable.of(ids()))
    found.model.train()
    found.model.transformer.h[0].eval()  # frozen, as in fine-tuning
    modes = [module.training for module in found.model.modules()]
    assert len(set(modes)) == 2
    found.rank(histories(4), 3, exclude_seen=False)
    assert [module.training for module in found.model.modules()] == modes

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(found.model.transformer, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        found.rank(histories(4), 3, exclude_seen=False)
    assert [module.training for module in found.model.modules()] == modes


def test_a_model_that_was_moved_is_followed() -> None:
    found = within("gpt2")
    expected = found.rank(histories(4), 5, exclude_seen=False)
    found.to("meta")  # what it returned is not kept; the model is elsewhere all the same
    assert found._trie.tokens.device.type == "meta"
    assert found._tokens.device.type == "meta"
    again = within("gpt2")
    again.model.load_state_dict(make("gpt2", again.table).model.state_dict())
    assert torch.equal(again.rank(histories(4), 5, exclude_seen=False), expected)


# ---- classes of one's own


class Mine(CausalRecommender):
    """Without a kind."""


class Named(CausalRecommender, kind="of the tests"):
    """With one."""

    def _begin(self, items: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Step]:
        return super()._begin(items, lengths)


def test_a_class_of_ones_own_is_saved_by_its_kind(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    base = make("gpt2", TokenTable.of(ids()))
    named = Named(base.model, base.table, history=HISTORY).within(ROWS)
    assert type(named) is type(saved(named, tmp_path)) is Named
    mine = Mine(base.model, base.table, history=HISTORY)
    assert type(mine.within(ROWS).to("cpu")) is Mine
    assert torch.equal(
        mine.rank(histories(4), 5, exclude_seen=False),
        Named(base.model, base.table, history=HISTORY).rank(histories(4), 5, exclude_seen=False),
    )
    with refuses("save_pretrained", "class") as caught:
        mine.save_pretrained(tmp_path / "mine")
    assert "kind='a name'" in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_a_kind_belongs_to_one_class(refuses: Callable[..., Any]) -> None:
    with refuses("Second", "kind"):
        type("Second", (CausalRecommender,), {}, kind="rq")
    assert CLASSES["rq"].__name__ == "RQRecommender"
    body = {"__module__": Named.__module__, "__qualname__": "Named"}  # a cell of a notebook that is run again
    again = type("Named", (CausalRecommender,), body, kind="of the tests")
    assert CLASSES["of the tests"] is again
    CLASSES["of the tests"] = Named
