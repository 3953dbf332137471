"""The search for settings: every step keeps the best so far, tries are kept, and what is chosen is found again."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.ranking import settings
from benchmarks.studies.ranking.item_ids import Places
from benchmarks.studies.ranking.settings import (
    START,
    HybridSetting,
    SasrecSetting,
    best,
    chosen,
    finish,
    keep,
    search,
    tried,
)
from unitok.data import generate_catalogue
from unitok.recommender import TokenTable

BEGUN = {"date": "2026-01-01", "commit": "abc", "machine": "a machine"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings")
    generate_catalogue(path, domains=["beauty"], items_per_domain=60, width=16)
    return path


@pytest.fixture
def places(data: Path, tmp_path: Path) -> Places:
    return Places(data, tmp_path / "work", tmp_path / "tokenizers", tmp_path / "settings.json")


def done(setting: SasrecSetting | HybridSetting, ndcg: float) -> dict[str, Any]:
    reached = {"recall@10": 2 * ndcg, "ndcg@10": ndcg}
    return {"setting": asdict(setting), "excluded": reached, "epochs": [{}, {}], "seconds": 90.0, "origin": BEGUN}


def test_each_step_changes_the_best_so_far(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    first = HybridSetting()
    reached = {
        first: 0.2,
        replace(first, width=64): 0.1,
        replace(first, dropout=0.3): 0.3,
        replace(first, dropout=0.5): 0.25,
        replace(first, dropout=0.3, start=1.0): 0.35,
    }
    monkeypatch.setattr(settings, "finish", lambda setting, *_: done(setting, reached[setting]))
    steps = [[{"width": 64}], [{"dropout": 0.3}, {"dropout": 0.5}], [{"start": 1.0}]]
    monkeypatch.setitem(settings.STEPS, "hybrid", steps)
    tries = search("hybrid", "beauty", places)
    assert [HybridSetting(**one["setting"]) for one in tries] == list(reached)
    assert best("hybrid", tries) == replace(first, dropout=0.3, start=1.0)


def test_a_search_can_train_less_and_take_what_is_finished(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    monkeypatch.setattr(settings, "finish", lambda setting, *_: done(setting, setting.epochs + setting.trust))

    def searched(only: list[str]) -> list[tuple[int, float]]:
        tries = search("hybrid", "beauty", places, only=only)
        return [(one["setting"]["epochs"], one["setting"]["trust"]) for one in tries]

    first = START["hybrid"].trust
    assert searched(["trust"]) == [(6, first), (6, 4.0)]
    with pytest.raises(SystemExit, match="No try for beauty is finished"):
        searched([])
    file = settings.path(HybridSetting(epochs=12), "beauty", places)
    file.parent.mkdir(parents=True)
    file.touch()
    assert searched([]) == [(12, first)]
    assert searched(["trust"]) == [(6, first), (12, first), (12, 4.0)]


def test_a_try_is_kept_and_trains_what_it_says(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SasrecSetting(width=16, dropout=0.2, crop=0.5)
    found = finish(setting, "beauty", places, epochs=2)
    assert (found["training"]["crop"], found["training"]["epochs"], len(found["epochs"])) == (0.5, 2, 2)
    # Of all queries; 300 users are fewer than those that an epoch is judged by, so the best epoch's is the same.
    assert found["excluded"]["ndcg@10"] == pytest.approx(max(epoch["ndcg"] for epoch in found["epochs"]))
    monkeypatch.setattr(settings, "train", None)  # nothing is trained anew
    assert finish(setting, "beauty", places, epochs=2) == json.loads(json.dumps(found))
    name = "validation,width=16,dropout=0.2,learning_rate=0.001,weight_decay=0.05,crop=0.5,shuffle=0,seed=0.json"
    assert [path.name for path in (places.work / "beauty").iterdir()] == [name]
    with pytest.raises(SystemExit, match="is of other settings"):
        finish(setting, "beauty", places, epochs=3)


def test_a_hybrid_starts_as_long_as_its_setting_says() -> None:
    content = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    table = TokenTable.items(60)
    begun = [
        HybridSetting(width=16, start=start).recommender(table, None, content, 0).model.trunk.wte.weight[table.tokens]
        for start in (0.5, 1.0)
    ]
    torch.testing.assert_close(begun[1], 2 * begun[0])
    assert begun[0].norm(dim=-1).mean() > 0.4
    model = HybridSetting(width=16, trust=3.0).recommender(table, None, content, 0).model
    torch.testing.assert_close(torch.nn.functional.softplus(model.trust.bias), torch.tensor([math.log(2), 3.0]))


def test_what_was_searched_is_found_again_and_other_catalogues_take_that_of_one_of_their_size(places: Places) -> None:
    file, other = places.settings, SasrecSetting(width=128)
    assert chosen("sasrec", "beauty", file) == (START["sasrec"], None)
    keep("sasrec", "office_products", [done(SasrecSetting(), 0.1), done(other, 0.2)], file)
    keep("hybrid", "beauty", [done(HybridSetting(), 0.3)], file)  # beside the other
    assert chosen("sasrec", "office_products", file) == (other, "office_products")
    assert chosen("sasrec", "beauty", file) == (other, "office_products")
    assert chosen("hybrid", "beauty", file) == (HybridSetting(), "beauty")
    keep("sasrec", "beauty", [done(SasrecSetting(), 0.1)], file)
    assert chosen("sasrec", "beauty", file) == (SasrecSetting(), "beauty")
    assert chosen("sasrec", "toys_and_games", file) == (SasrecSetting(), "beauty")
    assert chosen("sasrec", "grocery_and_gourmet_food", file) == (other, "office_products")
    rows = [line for line in tried("sasrec", file) if "width=" in line]
    assert [row.count("**") for row in rows] == [2, 0, 2]  # beauty's, then two of office products
    assert "| .4000 | .2000 | 2 | 1.5 |" in rows[2]


def test_the_command_writes_every_try(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((settings.os, "nice"), (torch, "set_num_threads")):  # of the tests' own process
        monkeypatch.setattr(module, name, lambda _: None)
    monkeypatch.setitem(settings.START, "sasrec", SasrecSetting(width=16))
    monkeypatch.setitem(settings.STEPS, "sasrec", [[{"dropout": 0.2}]])
    args = [str(places.data), "--kind", "sasrec", "--domains", "beauty", "--work", str(places.work), "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["settings", *args, "--results", str(places.settings)])
    settings.main()
    kept = json.loads(places.settings.read_text())["sasrec"]["beauty"]
    assert [one["setting"]["dropout"] for one in kept["tries"]] == [0.5, 0.2]
    most = max(kept["tries"], key=lambda one: one["validation ndcg@10"])
    assert kept["chosen"] == most["setting"]
    assert capsys.readouterr().out.count("| beauty | ") == 2
    monkeypatch.setattr(sys, "argv", ["settings", str(places.data), "--kind", "sasrec", "--domains", "toys"])
    with pytest.raises(SystemExit, match="--domains must be among beauty, got toys"):
        settings.main()


def test_sasrec_in_a_large_catalogue_learns_as_in_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SasrecSetting(width=16).recommender(60, 0)
    monkeypatch.setattr(settings, "LARGE", 59)
    sampled = SasrecSetting(width=16).recommender(60, 0)
    spans = torch.tensor([[3, 50, 3, -1], [7, -1, -1, -1], [1, 2, 4, 59]])
    assert type(sampled) is not type(whole)
    with torch.no_grad():
        torch.testing.assert_close(sampled.loss(spans), whole.loss(spans))  # 60 items are fewer than are drawn
