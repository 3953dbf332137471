"""What the commit e010821 saved is read as before: equal IDs, equal text, equal rankings, runs resumed to equal ends.

`make_saved_before.py` made `saved_before/` with the code of that commit (torch 2.13.0 and transformers 5.23.0 on a CPU,
two threads): tokenizer/, ids.parquet, recommenders of every kind, runs that were interrupted after the second of three
epochs, and expected.npz, which holds their inputs and what that code answered. Weights were drawn so that noise of a
millionth changes no answer, be it on the weights or on those that a run goes on from; so equality hangs on no last bit.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from unitok import EmbeddingInfo, Tokenizer
from unitok.cli.app import app
from unitok.data import Interactions, write_domain
from unitok.recommender import Histories, SequenceRecommender, TrainingConfig, fit
from unitok.storage.parquet import read_parquet

SAVED = Path(__file__).parent / "saved_before"
ITEMS = {"books": 68, "games": 60, "toys": 64, "music": 62}
FITTED_ON = ("books", "games", "toys")  # music was added
INFO = EmbeddingInfo("encoder-of-before", "{title} . Category: {category}")
KINDS = {"rq": "RQRecommender", "causal": "CausalRecommender", "t5": "T5Recommender", "items": "CausalRecommender"}


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained(SAVED / "tokenizer")


def load_recommender(name):
    return SequenceRecommender.from_pretrained(SAVED / name)


def assert_ranks(recommender, expected, whole, within):
    histories, rows = torch.from_numpy(expected["histories"]), torch.from_numpy(expected["rows"])
    assert np.array_equal(recommender.rank(histories, 10, exclude_seen=False), expected[whole])
    assert np.array_equal(recommender.within(rows).rank(histories, 10, exclude_seen=False), expected[within])


def test_a_tokenizer_of_the_commit_before_says_what_it_was_fitted_on(tokenizer):
    assert {name: domain.num_items for name, domain in tokenizer.domains.items()} == ITEMS
    assert [domain.expert for domain in tokenizer.domains.values()] == [None, None, None, 3]
    assert tokenizer.embedding == INFO
    assert (tokenizer.config.epochs, len(tokenizer.history), list(tokenizer.familiar)) == (2, 2, list(FITTED_ON))


@pytest.mark.parametrize("name", ITEMS)
def test_a_tokenizer_of_the_commit_before_gives_equal_ids(name, tokenizer, expected):
    ids = tokenizer.tokenize(expected[f"x_{name}"], name, embedding=INFO).assign(range(ITEMS[name]))
    for field in ("codes", "experts", "shared_codes", "suffix"):
        assert np.array_equal(getattr(ids, field), expected[f"{field}_{name}"]), field
    assert ids.to_text()[:5] == expected[f"text_{name}"].tolist()


@pytest.mark.parametrize("name", ITEMS)
def test_a_tokenizer_of_the_commit_before_decodes_ids_as_before(name, tokenizer, expected):
    ids = tokenizer.tokenize(expected[f"x_{name}"], name)[:5]
    np.testing.assert_allclose(tokenizer.decode(ids), expected[f"decoded_{name}"], rtol=1e-4, atol=1e-5)


def test_a_table_of_the_commit_before_holds_the_ids_that_were_written(expected):
    table = pq.read_table(SAVED / "ids.parquet")
    names = ["domain", "item_id", "semantic_id", "c0", "c1", "c2", "expert", "suffix"]
    assert table.column_names == names
    for name in ("domain", "item_id", "semantic_id", "expert", "suffix"):
        assert table[name].to_pylist() == expected[f"table_{name}"].tolist(), name
    assert np.array_equal(np.stack([table[f"c{level}"] for level in range(3)], 1), expected["table_codes"])
    assert json.loads(table.schema.metadata[b"unitok"])["resolver"] == "suffix"


def test_a_table_of_the_commit_before_is_written_anew_to_the_letter_and_kept_by_a_newer_one(expected, tmp_path):
    for name in ITEMS:
        write_domain(tmp_path / "catalogue" / name, expected[f"x_{name}"], embedding=INFO)
    before, anew = pq.read_table(SAVED / "ids.parquet").sort_by([("domain", "ascending"), ("item_id", "ascending")]), []
    for existing in ([], ["--existing", str(SAVED / "ids.parquet")]):
        out = tmp_path / f"{len(existing)}.parquet"
        args = ["tokenize", str(SAVED / "tokenizer"), str(tmp_path / "catalogue"), "--out", str(out), *existing]
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 0, result.output
        anew.append(read_parquet(out).sort_by([("domain", "ascending"), ("item_id", "ascending")]))
    assert anew[0].equals(before, check_metadata=True)
    assert anew[1].equals(before, check_metadata=True)


@pytest.mark.parametrize("name", KINDS)
def test_a_recommender_of_the_commit_before_ranks_as_before(name, expected):
    recommender = load_recommender(name)
    assert (type(recommender).__name__, recommender.history, recommender.beam) == (KINDS[name], 5, 10)
    assert recommender.about == ({"model": "rq", "domains": ITEMS} if name == "rq" else {})
    assert_ranks(recommender, expected, f"rank_{name}", f"rank_within_{name}")


def test_a_tokenizer_run_of_the_commit_before_is_resumed_to_equal_ids(tokenizer, expected, tmp_path):
    run, epochs = shutil.copytree(SAVED / "checkpoint", tmp_path / "run"), []
    items = {name: expected[f"x_{name}"] for name in FITTED_ON}
    resumed = Tokenizer.fit(items, replace(tokenizer.config, epochs=3), directory=run, on_epoch=epochs.append)
    assert [record["epoch"] for record in epochs] == [2]
    assert [record["epoch"] for record in resumed.history] == [0, 1, 2]
    for name, x in items.items():
        assert np.array_equal(resumed.tokenize(x, name).codes, expected[f"resumed_codes_{name}"]), name


def test_a_recommender_run_of_the_commit_before_is_resumed_to_equal_rankings(expected, tmp_path):
    run, epochs = shutil.copytree(SAVED / "recommender-run", tmp_path / "run"), []
    events = Interactions(*(expected[f"interactions_{name}"] for name in ("user_ids", "item_ids", "positions")))
    config = TrainingConfig(epochs=3, batch_size=32, learning_rate=2e-2, patience=0, validation_users=80, seed=0)
    recommender = load_recommender("rq")  # where the run began
    histories = Histories.of(events, sum(ITEMS.values()))
    records = fit(recommender, histories, config, directory=run, on_epoch=epochs.append)
    assert [record["epoch"] for record in epochs] == [2]
    np.testing.assert_allclose([record["loss"] for record in records], expected["resumed_loss"], rtol=1e-3)
    np.testing.assert_allclose([record["ndcg"] for record in records], expected["resumed_ndcg"], rtol=1e-3)
    assert_ranks(recommender, expected, "resumed_rank", "resumed_rank_within")
