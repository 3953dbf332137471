"""`unitok fit --behaviour`: IDs that know what users did, which stay the same whatever users do later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unitok.cli.runs import TINY, refused, unitok
from unitok import Tokenizer
from unitok.data import behaviour, read_domain, read_interactions
from unitok.recommender import Histories


@pytest.fixture(scope="module")
def users(home: Path, catalogue: Path) -> Path:
    unitok("fit", catalogue, "--out", home / "users", "--epochs", 3, "--behaviour", *TINY)
    return home / "users"


@pytest.fixture
def own(tmp_path: Path, catalogue: Path) -> Path:
    """A catalogue of one's own to change."""
    shutil.copytree(catalogue, tmp_path / "catalogue")
    return tmp_path / "catalogue"


def ids_of(fitted: Path, data: Path, out: Path, *more: object) -> list[str]:
    unitok("tokenize", fitted, data, "--out", out, *more)
    return pq.read_table(out)["semantic_id"].to_pylist()


def test_the_ids_are_those_of_each_domain_s_training_interactions(users: Path, catalogue: Path, tmp_path: Path) -> None:
    found = ids_of(users, catalogue, tmp_path / "ids.parquet", "--resolver", "none")
    tokenizer, expected, alone = Tokenizer.from_pretrained(users), [], []
    for name in ("beauty", "kitchen"):
        part = read_domain(catalogue / name)
        vectors = behaviour(Histories.of(read_interactions(catalogue / name), len(part.keys)), len(part.keys))
        expected += tokenizer.tokenize(part.embeddings, name, views={"behaviour": vectors}).to_text()
        alone += tokenizer.tokenize(part.embeddings, name).to_text()
    assert found == expected
    assert found != alone


def test_the_ids_stay_when_users_go_on_and_when_interactions_are_gone(
    users: Path, catalogue: Path, own: Path, tmp_path: Path
) -> None:
    before = ids_of(users, catalogue, tmp_path / "before.parquet")
    for name in ("beauty", "kitchen"):
        (own / name / "interactions.parquet").unlink()
    assert ids_of(users, own, tmp_path / "after.parquet") == before


def test_a_new_item_gets_the_id_of_its_embedding_and_the_others_keep_theirs(
    users: Path, catalogue: Path, own: Path, tmp_path: Path
) -> None:
    before = ids_of(users, catalogue, tmp_path / "before.parquet", "--resolver", "none")
    rows = np.load(own / "beauty" / "embeddings.npy")
    new = (0.5 * (rows[3] + rows[4])).astype(rows.dtype)
    np.save(own / "beauty" / "embeddings.npy", np.concatenate([rows, new[None]]))
    (own / "beauty" / "embeddings.json").unlink(missing_ok=True)
    items = pq.read_table(own / "beauty" / "items.parquet")
    row = {name: [len(rows)] if name == "item_id" else ["new"] for name in items.column_names}
    pq.write_table(pa.concat_tables([items, pa.table(row, schema=items.schema)]), own / "beauty" / "items.parquet")
    after = ids_of(users, own, tmp_path / "after.parquet", "--resolver", "none")
    assert after[: len(rows)] + after[len(rows) + 1 :] == before
    [alone] = Tokenizer.from_pretrained(users).tokenize(new[None], "beauty").to_text()
    assert after[len(rows)] == alone


def test_it_says_how_many_items_users_met(users: Path, catalogue: Path, tmp_path: Path) -> None:
    result = unitok("tokenize", users, catalogue, "--out", tmp_path / "ids.parquet", "--json")
    counts = json.loads(result.stdout)["views"]["behaviour"]
    assert set(counts) == {"beauty", "kitchen"}
    assert all(0 < count <= 60 for count in counts.values())
    assert f"behaviour counts for {counts['beauty']} of 60 items of beauty" in result.stderr


def test_the_report_is_of_the_ids_with_behaviour(users: Path, catalogue: Path) -> None:
    tokenizer, rows, views = Tokenizer.from_pretrained(users), {}, {}
    for name in ("beauty", "kitchen"):
        part = read_domain(catalogue / name)
        rows[name], views[name] = part.embeddings, tokenizer.recall(part)["behaviour"]
    expected = tokenizer.report(rows, views={"behaviour": views}).to_dict()
    assert json.loads((users / "report.json").read_text()) == json.loads(json.dumps(expected))


def test_a_domain_without_interactions_goes_by_its_embeddings(own: Path, tmp_path: Path) -> None:
    (own / "kitchen" / "interactions.parquet").unlink()
    result = unitok("fit", own, "--out", tmp_path / "fitted", "--epochs", 2, "--behaviour", *TINY)
    assert "0 of 60 items of kitchen" in result.stderr
    assert list(Tokenizer.from_pretrained(tmp_path / "fitted").recall(read_domain(own / "kitchen"))) == []


def test_no_interactions_at_all_are_refused_before_anything_is_written(own: Path, tmp_path: Path) -> None:
    for name in ("beauty", "kitchen"):
        (own / name / "interactions.parquet").unlink()
    line = refused("fit", own, "--out", tmp_path / "fitted", "--behaviour", *TINY)
    assert "--behaviour" in line
    assert not (tmp_path / "fitted").exists()


def test_a_domain_where_nobody_met_two_items_goes_by_its_embeddings(own: Path, tmp_path: Path) -> None:
    events = own / "kitchen" / "interactions.parquet"
    table = pq.read_table(events)
    first = np.unique(table["user_id"].to_numpy(), return_index=True)[1]
    pq.write_table(table.take(pa.array(first)), events)
    result = unitok("fit", own, "--out", tmp_path / "out", "--epochs", 1, "--behaviour", *TINY)
    assert "0 of 60 items of kitchen" in " ".join(result.stderr.split())
    assert "kitchen" not in Tokenizer.from_pretrained(tmp_path / "out").model.viewed


def test_settings_without_a_chain_for_each_expert_are_refused_before_anything_is_deleted(
    users: Path, catalogue: Path, tmp_path: Path
) -> None:
    shutil.copytree(users, kept := tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    options = ("--behaviour", "--force", "--num-experts", 0, *TINY)
    assert "--behaviour: every expert must have a chain" in refused("fit", catalogue, "--out", kept, *options)
    assert {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()} == before


def test_ids_that_know_what_a_split_keeps_back_are_refused(users: Path, catalogue: Path, tmp_path: Path) -> None:
    train = ("recommend", "train", catalogue, users, "--epochs", 1, "--out", tmp_path / "out")
    assert "must know nothing of what the split cold keeps back" in refused(*train, "--split", "cold")


def test_ids_are_judged_with_interactions_and_without(users: Path, own: Path) -> None:
    (own / "kitchen" / "interactions.parquet").unlink()
    found = json.loads(unitok("ids", "inspect", users, own, "--json").stdout)
    assert found["beauty"]["transitions"] > 0
    assert found["kitchen"]["transitions"] == 0
    assert found["beauty"]["levels"][0]["lift"] > 1  # fitted on what these users did
    assert [level["prefixes"] for level in found["beauty"]["levels"]] == sorted(
        level["prefixes"] for level in found["beauty"]["levels"]
    )
    shown = unitok("ids", "inspect", users, own, "--domains", "kitchen").stdout
    assert "kitchen" in shown
    assert "beauty" not in shown
    assert "first 1" in shown
