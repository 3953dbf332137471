"""The pages beside the study of rankings: one recommender for several catalogues, behaviour in IDs, and IDs judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.studies.ranking import behaviour, item_ids, joint, probes, recommendation
from benchmarks.studies.ranking import settings as chosen_settings
from benchmarks.studies.ranking.item_ids import UNITOK, Places, Users
from benchmarks.studies.ranking.recommendation import Run
from benchmarks.studies.ranking.settings import HybridSetting
from unitok.data import generate_catalogue

ITEMS = 120
DOMAINS = ("beauty", "kitchen")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    generate_catalogue(folder, domains=list(DOMAINS), items_per_domain=ITEMS, width=16)
    return folder


@pytest.fixture
def places(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr(item_ids, "EPOCHS", 1)
    monkeypatch.setitem(chosen_settings.START, "hybrid", HybridSetting(width=16, epochs=1))
    return Places(data, tmp_path / "work", tmp_path / "tokenizers", tmp_path / "settings.json")


def test_users_of_several_catalogues_keep_their_items_and_their_queries(places: Places) -> None:
    users = [Users.of(name, places.data) for name in DOMAINS]
    both = joint.together([each.histories for each in users], [0, ITEMS])
    assert len(both) == sum(len(each.histories) for each in users)
    last = both.items.split(both.lengths.tolist())[-1]
    own = users[1].histories.items.split(users[1].histories.lengths.tolist())[-1]
    assert last.equal(own + ITEMS)
    asked, moved = users[1].histories.queries("test"), joint.moved(users[1].histories.queries("test"), ITEMS)
    together = both.queries("test")
    mine = together.targets >= ITEMS
    assert moved.targets.equal(asked.targets + ITEMS)
    assert together.targets[mine].equal(moved.targets)
    assert together.histories[mine][:, -moved.histories.shape[1] :].equal(moved.histories)


def test_the_command_compares_it_with_each_catalogues_own(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in DOMAINS:
        recommendation.finish(Run(name, UNITOK, 0, None), places)
    page = tmp_path / "one-recommender.md"
    given = ["joint", str(places.data), "--work", str(places.work), "--tokenizers", str(places.tokenizers)]
    given += ["--settings", str(places.settings), "--domains", *DOMAINS, "--seeds", "0", "--page", str(page)]
    monkeypatch.setattr(sys, "argv", given)
    for module, name in ((joint.os, "nice"), (torch, "set_num_threads")):  # of the tests' own process
        monkeypatch.setattr(module, name, lambda _: None)
    joint.main()
    text = page.read_text()
    assert f"One for all: {2 * ITEMS} items" in text
    kept = json.loads((places.work / f"{'+'.join(DOMAINS)}-0.json").read_text())
    for name in DOMAINS:
        assert len(kept["scores"][name]["item_rank"]) == len(Users.of(name, places.data).histories.queries("test"))
        assert f"| {name} | 1 | ." in text
    monkeypatch.setattr(joint, "train", None)  # nothing is trained anew
    joint.main()
    assert page.read_text() == text
    monkeypatch.setattr(sys, "argv", [*given, "--domains", "nowhere"])
    with pytest.raises(SystemExit, match="--domains must be among"):
        joint.main()


def test_the_page_of_behaviour_says_what_it_costs_items_without(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "behaviour.md"
    given = ["behaviour", str(places.data), "--tokenizers", str(places.tokenizers), "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", [*given, "--left-out", "kitchen", "--page", str(page)])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    behaviour.main()
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 + 1 + 3
    assert all("| 2 of 2 |" in row for row in rows[4:])  # a domain that isn't named gets the IDs of its text
    x = Users.of("beauty", places.data).content
    ids = [item_ids.tokenizer(UNITOK, seed, places).tokenize(x, "beauty") for seed in (0, 1)]
    groups = [each.groups().tolist() for each in ids]
    shared = [sum(own.count(one) > 1 for one in own) / ITEMS for own in groups]
    assert [behaviour.shared(each) for each in ids] == shared
    assert f"% | {sum(shared) / 2:.2%} ({min(shared):.2%} to {max(shared):.2%}) |" in rows[1]


def test_ids_are_judged_beside_how_they_ranked(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_ids, "CODEWORDS", 8)
    recommendation.finish(Run("beauty", UNITOK, 0, None), places)
    page = tmp_path / "id-probes.md"
    given = ["probes", str(places.data), "--work", str(places.work), "--tokenizers", str(places.tokenizers)]
    monkeypatch.setattr(sys, "argv", [*given, "--settings", str(places.settings), "--page", str(page)])
    probes.main()
    rows = {line.split(" | ")[0]: line for line in page.read_text().splitlines() if line.startswith("| ")}
    assert set(rows) == {"| IDs", *(f"| {name}" for name in item_ids.FITTED), f"| {item_ids.BEHAVIOUR}"} | {
        f"| {name}" for name in (item_ids.KMEANS, item_ids.RANDOM)
    }
    assert rows[f"| {item_ids.RANDOM}"].endswith(" |  |")
    assert float(rows[f"| {UNITOK}"].split(" | ")[-1].removesuffix(" |")) > 0
    monkeypatch.setattr(sys, "argv", [*given, "--domains", "nowhere"])
    with pytest.raises(SystemExit, match="--domains must be among"):
        probes.main()
