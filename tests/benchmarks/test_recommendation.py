"""The recommenders' benchmark: runs are kept and resumed, published IDs are read, and wrong lists are no race."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.beam import check, generated
from benchmarks.harness import WrongResultError
from benchmarks.studies import recommendation
from benchmarks.studies.recommendation import CHAIN, POPULARITY, SASREC, Places, Run, figures, finish
from benchmarks.studies.recommendation_page import write_page
from unitok.data import generate_catalogue, read_interactions
from unitok.recommender import CausalRecommender, Histories, TokenTable, gpt2_config

ITEMS = 120


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("recommendation")
    generate_catalogue(folder / "data", domains=["beauty"], items_per_domain=ITEMS, width=16)
    columns = {f"t{level}": [item // 4 % (level + 2) for item in range(ITEMS)] for level in range(4)}
    pq.write_table(
        pa.table({**columns, "expert": [-1] * ITEMS}), folder / "data" / "beauty" / "published_tokens.parquet"
    )
    return Places(folder / "data", folder / "work", folder / "tokenizers")


def test_runs_are_kept_and_the_page_shows_them(places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recommendation, "SASREC_MODEL", {"width": 16, "layers": 1, "heads": 1})
    names = (POPULARITY, CHAIN, SASREC, "published UniTok IDs")
    monkeypatch.setattr(recommendation, "MODEL", recommendation.SASREC_MODEL)
    runs = [Run("beauty", name, 0, None if name in (POPULARITY, CHAIN) else 1) for name in names]
    said = [finish(run, places) for run in runs]
    written = {run: run.path(places.work).stat().st_mtime_ns for run in runs}
    assert [finish(run, places) for run in runs] == said
    assert {run: run.path(places.work).stat().st_mtime_ns for run in runs} == written
    kept = [figures(run, places) for run in runs]
    assert kept[3]["names"] == 30 < ITEMS == kept[2]["names"]

    monkeypatch.setattr(recommendation, "SASREC_MODEL", {"width": 32})
    with pytest.raises(SystemExit, match="is of other settings"):
        finish(runs[2], places)

    page = tmp_path / "page.md"
    write_page(page, kept, [SASREC, CHAIN])
    text = page.read_text()
    for run in runs:
        assert text.count(f"\n| {run.name} | ") == 2  # figures, and differences
    plain = json.loads(page.with_suffix(".json").read_text())[0]["figures"]["published UniTok IDs"]
    assert plain["token"]["recall@10"]["mean"] > plain["item"]["recall@10"]["mean"]
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_the_beam_is_raced_on_equal_lists_alone(places: Places) -> None:
    histories = Histories.of(read_interactions(places.data / "beauty"), ITEMS)
    asked = histories.queries("test").histories[:12]
    item = torch.arange(ITEMS)
    tokens = torch.stack([2 + item // 20, 8 + item // 4 % 5, 13 + item % 4], 1)
    config = gpt2_config(width=16, layers=1, heads=1)
    recommender = CausalRecommender.create(TokenTable(tokens, vocab_size=17), config, beam=8)
    ours = recommender.rank(asked, 8, exclude_seen=False)
    theirs = generated(recommender, asked, beam=8, batch=5).clone()
    assert check(recommender, asked, ours, theirs) > 0.99
    theirs[3] = theirs[4].flip(0)
    with pytest.raises(WrongResultError, match="query 3"):
        check(recommender, asked, ours, theirs)
