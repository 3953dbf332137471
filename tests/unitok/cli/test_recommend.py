"""`unitok recommend`: train, evaluate and next on a small catalogue."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.unitok.cli.runs import DOMAINS, refused, unitok
from tests.unitok.recommender.test_saving import held
from unitok.cli.recommend.catalogue import join, make_split, of_domain, read_histories, read_ids, shifted
from unitok.data import read_catalogue, write_domain
from unitok.recommender import Histories, SequenceRecommender
from unitok.recommender.saving import SETTINGS
from unitok.recommender.training import BEST, CHECKPOINT
from unitok.storage.checkpoint import read_progress

QUICK = ("--epochs", 1, "--history", 8, "--beam", 12)


@pytest.fixture(scope="module")
def trained(home: Path, catalogue: Path, table: Path) -> Path:
    unitok("recommend", "train", catalogue, table, "--out", home / "recommender", *QUICK)
    return home / "recommender"


@pytest.mark.parametrize("command", ["train", "evaluate", "next"])
def test_help_teaches_by_an_example(command: str) -> None:
    shown = unitok("recommend", command, "--help").stdout
    assert "For example" in shown
    assert f"unitok recommend {command} " in shown


def test_train_leaves_a_recommender_and_says_where(tmp_path: Path, catalogue: Path, table: Path) -> None:
    out = tmp_path / "talkative"
    result = unitok("recommend", "train", catalogue, table, "--out", out, *QUICK)
    assert "epoch 1/1  loss" in result.stderr
    assert "NDCG@10" in result.stderr
    assert "120 items" in result.stdout
    assert f"unitok recommend evaluate {out}" in " ".join(result.stdout.split())
    assert not [name for name in (CHECKPOINT, BEST) if (out / name).exists()]
    recommender = SequenceRecommender.from_pretrained(out)
    assert (recommender.history, recommender.beam, len(recommender.table)) == (8, 12, 120)
    assert recommender.about["domains"] == dict.fromkeys(DOMAINS, 60)
    assert "must hold no recommender" in refused("recommend", "train", catalogue, table, "--out", out)
    unitok("recommend", "train", catalogue, table, "--out", out, *QUICK, "--force")


@pytest.mark.parametrize("model", ["rq", "causal", "t5", "sasrec"])
def test_other_models_train_on_one_domain(model: str, tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    ids = () if model == "sasrec" else (fitted,)
    options = (*QUICK, "--model", model, "--domains", "kitchen", "--json")
    result = unitok("recommend", "train", catalogue, *ids, "--out", tmp_path / model, *options)
    found = json.loads(result.stdout)
    assert found["best"] == found["epochs"][0]
    recommender = SequenceRecommender.from_pretrained(tmp_path / model)
    assert recommender.kind == {"sasrec": "causal"}.get(model, model)
    assert len(recommender.table) == 60
    assert (recommender.table.width == 1) == (model == "sasrec")


def test_a_checkpoint_of_a_language_model_is_trained_on(tmp_path: Path, catalogue: Path, table: Path) -> None:
    from transformers import AutoTokenizer

    from tests.unitok.recommender.language.test_vocabulary import language_model, tokenizer

    folder = tmp_path / "llama"
    language_model("llama", 7).save_pretrained(folder)
    train = ("recommend", "train", catalogue, table, "--model", folder, *QUICK, "--out")
    assert "must hold a causal language model" in refused(*train, tmp_path / "broken")
    tokenizer(bos_token="<s>").save_pretrained(folder)
    unitok(*train, tmp_path / "extended")
    table_of_ids = SequenceRecommender.from_pretrained(tmp_path / "extended").table
    assert table_of_ids.vocab_size > 7 + 3 * 16
    words = AutoTokenizer.from_pretrained(tmp_path / "extended")
    first = pq.read_table(table)["semantic_id"][0].as_py()
    read = words(first, add_special_tokens=False)["input_ids"]
    assert read == table_of_ids.tokens[0].tolist()
    tokenizer(eos_token="</s>").save_pretrained(tmp_path / "mine")
    before = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    assert "with the file tokenizer.json, which" in refused(*train, tmp_path / "mine")  # before it trains
    assert {name: (tmp_path / "mine" / name).read_bytes() for name in before} == before
    (folder / "model.safetensors").unlink()
    unitok(*train, tmp_path / "fresh")
    assert SequenceRecommender.from_pretrained(tmp_path / "fresh").table.start == 1


def test_evaluate_counts_by_item_and_by_token(trained: Path, catalogue: Path) -> None:
    result = unitok("recommend", "evaluate", trained, catalogue, env={"COLUMNS": "160"})
    for text in (*DOMAINS, "by item", "by token", "collisions inflate them", "hybrid", "popularity", "Markov chain"):
        assert text in result.stdout
    for text in ("item-kNN", "Markov + content", "history are left out"):
        assert text in result.stdout
    found = json.loads(unitok("recommend", "evaluate", trained, catalogue, "--users", 20, "--json").stdout)
    assert [each["domain"] for each in found["domains"]] == list(DOMAINS)
    for each in found["domains"]:
        assert each["queries"] == 20
        figures = each["figures"]["hybrid"]
        assert figures["token"]["recall@10"]["mean"] >= figures["item"]["recall@10"]["mean"]
    again = unitok("recommend", "evaluate", trained, catalogue, "--users", 20, "--json").stdout
    assert json.loads(again)["domains"] == found["domains"]
    seen = unitok("recommend", "evaluate", trained, catalogue, "--users", 20, "--include-seen", "--json").stdout
    for included, printed in ((False, found), (True, json.loads(seen))):
        assert {part["exclude_seen"] for part in (printed, *printed["domains"])} == {not included}
        assert all(part["seen_targets"] >= 0 for part in printed["domains"])
    part = unitok("recommend", "evaluate", trained, catalogue, "--part", "validation", "--json").stdout
    assert json.loads(part)["part"] == "validation"


@pytest.mark.parametrize("kind", ["cold", "time"])
def test_evaluate_follows_the_split_of_training(kind: str, tmp_path: Path, catalogue: Path, table: Path) -> None:
    out = tmp_path / kind
    unitok("recommend", "train", catalogue, table, "--out", out, *QUICK, "--split", kind)
    how = SequenceRecommender.from_pretrained(out).about["split"]
    assert how["kind"] == kind
    sizes = dict.fromkeys(DOMAINS, 60)
    split = make_split(how, catalogue, read_histories(catalogue, sizes), sizes, 8)
    found = json.loads(unitok("recommend", "evaluate", out, catalogue, "--json").stdout)
    assert found["split"] == how
    assert split.test.cold is not None
    assert sum(each["cold_targets"] for each in found["domains"]) == int(split.test.cold.sum())
    assert sum(each["queries"] for each in found["domains"]) == len(split.test)
    for each in found["domains"]:
        told = each["figures"]
        assert told["content"]["warm"]["item"]["recall@50"]["mean"] > 0
        assert ("cold" in told["hybrid"]) == (each["cold_targets"] > 0) == (kind == "cold")
        if kind == "cold":  # baselines that count rank them last of 60 items
            assert told["content"]["cold"]["item"]["recall@50"]["mean"] > 0
            assert all(told[name]["cold"]["item"]["recall@10"]["mean"] == 0 for name in ("popularity", "item-kNN"))
    shown = unitok("recommend", "evaluate", out, catalogue, "--users", 40, env={"COLUMNS": "200"}).stdout
    for text in (f"Split: {kind}.", "targets are cold", "Recall@50", "warm"):
        assert text in shown


def test_a_split_of_several_domains_is_parted_as_it_was_joined(catalogue: Path) -> None:
    sizes = dict.fromkeys(DOMAINS, 60)
    histories = read_histories(catalogue, sizes)
    for kind in ("leave-one-out", "cold", "time"):
        split = make_split({"kind": kind}, catalogue, histories, sizes, 8)
        first = len(histories["beauty"])
        parts = [of_domain(split, 0, first, 0), of_domain(split, first, len(histories["kitchen"]), 60)]
        assert torch.equal(torch.cat([parts[0].training.items, parts[1].training.items + 60]), split.training.items)
        again = [parts[0].test, shifted(parts[1].test, 60)]
        for name in ("histories", "targets"):
            assert torch.equal(torch.cat([getattr(part, name) for part in again]), getattr(split.test, name))
        assert torch.equal(torch.cat([again[0].users, again[1].users + first]), split.test.users)
        assert int(parts[1].training.items.max()) < 60


def test_a_split_that_can_not_be_made_is_refused(tmp_path: Path, trained: Path, catalogue: Path, table: Path) -> None:
    shutil.copytree(catalogue, tmp_path / "timeless")
    file = tmp_path / "timeless" / "kitchen" / "interactions.parquet"
    pq.write_table(pq.read_table(file).drop_columns("timestamp"), file)
    train = ("recommend", "train", tmp_path / "timeless", table, *QUICK, "--out", tmp_path / "out")
    said = refused(*train, "--split", "time")
    assert "kitchen: the interactions must have timestamps" in said
    assert not unitok(*train, "--split", "random", code=2).stdout
    assert not (tmp_path / "out").exists()
    recommender = SequenceRecommender.from_pretrained(trained)
    for number, how in enumerate(
        (None, {"kind": "random"}, {"kind": "cold", "part": 0.1}, {"kind": "cold", "share": 2})
    ):
        recommender.about["split"] = how
        recommender.save_pretrained(tmp_path / str(number))
        assert " must be " in refused("recommend", "evaluate", tmp_path / str(number), catalogue)


def test_a_domain_without_targets_is_said_and_the_others_are_evaluated(
    tmp_path: Path, catalogue: Path, table: Path
) -> None:
    shutil.copytree(catalogue, mine := tmp_path / "catalogue")
    events = mine / "kitchen" / "interactions.parquet"
    known = pq.read_table(events)
    at = known.column_names.index("timestamp")
    pq.write_table(known.set_column(at, "timestamp", known["position"].cast(pa.int64())), events)  # all in 1970
    unitok("recommend", "train", mine, table, "--model", "rq", "--split", "time", "--out", tmp_path / "out", *QUICK)
    result = unitok("recommend", "evaluate", tmp_path / "out", mine, "--json")
    assert "kitchen: no user has a target in this split" in result.stderr
    assert [each["domain"] for each in json.loads(result.stdout)["domains"]] == [n for n in DOMAINS if n != "kitchen"]


def test_next_names_items(trained: Path, catalogue: Path) -> None:
    command = ("recommend", "next", trained, catalogue, "--domain", "kitchen")
    found = json.loads(unitok(*command, "--users", "3,5", "--top", 4, "--json").stdout)
    assert [each["user"] for each in found] == [3, 5]
    titles = pq.read_table(catalogue / "kitchen" / "items.parquet")["title"].to_pylist()
    for each in found:
        assert [row["rank"] for row in each["next"]] == [1, 2, 3, 4]
        assert all(titles[row["item_id"]] == row["title"] for row in each["next"])
    met = pq.read_table(catalogue / "kitchen" / "interactions.parquet").to_pylist()
    own = [row["item_id"] for row in sorted(met, key=lambda row: row["position"]) if row["user_id"] == 3]
    assert found[0]["exclude_seen"] is True
    assert not {row["item_id"] for row in found[0]["next"]} & set(own)
    everything = ("--users", 3, "--top", 60)
    others = json.loads(unitok(*command, *everything, "--json").stdout)[0]["next"]
    assert len(others) == 60 - len(set(own))
    included = json.loads(unitok(*command, *everything, "--include-seen", "--json").stdout)[0]
    assert (included["exclude_seen"], len(included["next"])) == (False, 60)
    listed = ("--items", ",".join(map(str, own)), "--top", 4)
    assert json.loads(unitok(*command, *listed, "--json").stdout)[0]["next"] == found[0]["next"]
    shown = unitok(*command, *listed).stdout
    assert titles[found[0]["next"][0]["item_id"]] in shown
    assert "without items of the history" in shown
    assert "ranked too" in unitok(*command, *listed, "--include-seen").stdout


def test_a_catalogue_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, trained: Path, catalogue: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(catalogue, mine := tmp_path / "catalogue")
    events = mine / DOMAINS[0] / "interactions.parquet"
    read = Histories.of

    def replaced(*args: Any) -> Histories:
        pq.write_table(pq.read_table(events), tmp_path / "new")  # of equal content: only that it is another counts
        (tmp_path / "new").replace(events)
        return read(*args)

    monkeypatch.setattr(Histories, "of", replaced)
    for command in (
        ("next", trained, mine, "--domain", DOMAINS[0], "--users", 0),
        ("evaluate", trained, mine, "--users", 2),
        ("train", mine, table, "--out", tmp_path / "out", *QUICK),
    ):
        assert "stay as it is while it is read" in refused("recommend", *command)
    assert not (tmp_path / "out").exists()


def test_users_are_known_by_what_the_catalogue_calls_them(tmp_path: Path, trained: Path, catalogue: Path) -> None:
    shutil.copytree(catalogue, tmp_path / "named")
    file = tmp_path / "named" / "kitchen" / "interactions.parquet"
    events = pq.read_table(file)
    odd = {3: "items", 4: "Doe, Jane ", 5: "-5"}
    names = pa.array([odd.get(user, str(user)) for user in events["user_id"].to_pylist()])
    pq.write_table(events.set_column(events.column_names.index("user_id"), "user_id", names), file)
    options = ("--domain", "kitchen", "--top", 4)

    def of(data: Path, users: str) -> list[Any]:
        return json.loads(unitok("recommend", "next", trained, data, *options, "--users", users, "--json").stdout)

    found = of(catalogue, "2,10,3,4,5")
    named = [
        *of(tmp_path / "named", "2, 10,items"),
        *of(tmp_path / "named", "Doe, Jane "),
        *of(tmp_path / "named", "-5"),
    ]
    assert [each["user"] for each in named] == ["2", "10", "items", "Doe, Jane ", "-5"]
    assert [each["next"] for each in named] == [each["next"] for each in found]
    shown = unitok("recommend", "next", trained, tmp_path / "named", *options, "--users", "items").stdout
    assert "user items" in shown
    said = refused("recommend", "next", trained, tmp_path / "named", *options, "--users", "2,3")
    assert "--users: must be users of the catalogue, got '3'" in said
    parts = [read_histories(data, dict.fromkeys(DOMAINS, 60)) for data in (catalogue, tmp_path / "named")]
    assert [len(join(part)) for part in parts] == [sum(map(len, part.values())) for part in parts]


def test_ids_are_read_from_every_kind_of_file(tmp_path: Path, catalogue: Path, table: Path, fitted: Path) -> None:
    parts = read_catalogue(catalogue)
    wanted = read_ids(table, catalogue, parts)
    shown = " ".join(unitok("recommend", "train", "--help", env={"COLUMNS": "200"}).stdout.split())
    for kind in ("parquet", "csv", "jsonl"):
        file = tmp_path / f"ids.{kind}"
        unitok("tokenize", fitted, catalogue, "--out", file)
        assert torch.equal(read_ids(file, catalogue, parts).codes, wanted.codes)
        assert kind in shown


def test_ids_are_found_by_the_items_names_after_an_import_anew(tmp_path: Path, fitted: Path, catalogue: Path) -> None:
    rows = np.array(read_catalogue(catalogue)["beauty"].embeddings[:])
    order = np.random.default_rng(0).permutation(len(rows))
    names = np.array([f"B{row:03}" for row in range(len(rows))])
    for folder, places in (("before", np.arange(len(rows))), ("after", order)):
        items = {"source_id": names[places].tolist(), "title": names[places].tolist()}
        write_domain(tmp_path / folder / "beauty", rows[places], items=items)
    unitok("tokenize", fitted, tmp_path / "before", "--out", tmp_path / "ids.parquet")
    before, after = (
        read_ids(tmp_path / "ids.parquet", tmp_path / folder, read_catalogue(tmp_path / folder))
        for folder in ("before", "after")
    )
    assert torch.equal(after.codes, before.codes[torch.from_numpy(order)])


def test_what_does_not_fit_is_refused(
    tmp_path: Path, trained: Path, catalogue: Path, table: Path, fitted: Path
) -> None:
    new = ("--out", tmp_path / "new")
    assert "must hold recommender.json" in refused("recommend", "evaluate", tmp_path, catalogue)
    assert "--device" in refused("recommend", "evaluate", trained, catalogue, "--device", "nowhere")
    assert "must hold the domain" in refused("recommend", "evaluate", trained, catalogue / "beauty")
    next_of = ("recommend", "next", trained, catalogue)
    assert "--domain" in refused(*next_of, "--items", 1)
    assert "--domain" in refused(*next_of, "--items", 1, "--domain", "garden")
    assert "--items" in refused(*next_of, "--items", "60", "--domain", "beauty")
    assert "--users" in refused(*next_of, "--users", "100000", "--domain", "beauty")
    assert "--users" in refused(*next_of, "--users", "me", "--domain", "beauty")
    rows = pq.read_table(table)
    pq.write_table(rows.slice(0, 100), tmp_path / "few.parquet")
    assert "must have an ID for every item" in refused("recommend", "train", catalogue, tmp_path / "few.parquet", *new)
    pq.write_table(rows.drop_columns("c0"), tmp_path / "less.parquet")
    assert "c0" in refused("recommend", "train", catalogue, tmp_path / "less.parquet", *new)
    (tmp_path / "file").touch()
    assert "must be a folder" in refused("recommend", "train", catalogue, table, "--out", tmp_path / "file")
    for args in (
        ("train", catalogue, *new),
        ("train", catalogue, table),
        ("train", catalogue, table, *new, "--model", tmp_path),
        ("train", catalogue, table, *new, "--learning-rate", 0),
        ("next", trained, catalogue),
        ("next", trained, catalogue, "--users", 1, "--items", 1),
        ("evaluate", trained, catalogue, "--part", "all"),
    ):
        assert not unitok("recommend", *args, code=2).stdout
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_trained_in_is_left_alone(tmp_path: Path, catalogue: Path, table: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (CHECKPOINT, BEST):
        (out / name).write_bytes(b"of another run")
    with held(out):  # with --force, a second run would begin by removing what the first has left
        said = refused("recommend", "train", catalogue, table, "--out", out, *QUICK, "--force")
    assert f"{out} must be free to write to, got process " in said
    assert all((out / name).read_bytes() == b"of another run" for name in (CHECKPOINT, BEST))
    assert not (out / SETTINGS).exists()


def test_domains_that_do_not_fit_the_items_are_refused(tmp_path: Path, trained: Path, catalogue: Path) -> None:
    recommender = SequenceRecommender.from_pretrained(trained)
    for number, domains in enumerate((None, 5, {"beauty": 60}, {"beauty": 60, "kitchen": "60"})):
        recommender.about = {"domains": domains}
        recommender.save_pretrained(tmp_path / str(number))
        for command in ("next", "evaluate"):
            options = ("--items", 1) if command == "next" else ()
            said = refused("recommend", command, tmp_path / str(number), catalogue, *options)
            assert "must name the domains of its 120 items" in said
    recommender.about = {"domains": dict.fromkeys(DOMAINS, 60)}  # of no command, and so of no named model
    recommender.save_pretrained(tmp_path / "made")
    assert "hybrid" in unitok("recommend", "evaluate", tmp_path / "made", catalogue, "--users", 5).stdout


def test_an_interrupted_training_ends_where_it_would_have(tmp_path: Path, catalogue: Path, table: Path) -> None:
    long: tuple[Any, ...] = ("--epochs", 6, "--history", 8, "--beam", 12, "--threads", 1, "--patience", 0)
    train = ("recommend", "train", catalogue, table, *long, "--out")
    whole = json.loads(unitok(*train, tmp_path / "whole", "--json").stdout)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "unitok", *map(str, (*train, out))], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / CHECKPOINT).exists() and read_progress(out / CHECKPOINT)["epoch"] > 0:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130, stderr
    assert "resumes from the checkpoint" in stderr.splitlines()[-1]
    assert (out / CHECKPOINT).exists()
    assert not (out / SETTINGS).exists()
    assert "same settings" in refused(*train, out, "--seed", 1)
    result = unitok(*train, out, "--json")
    assert "resuming from step" in result.stderr.splitlines()[0]
    again = json.loads(result.stdout)
    assert [each["loss"] for each in again["epochs"]] == [each["loss"] for each in whole["epochs"]]
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
