"""The study of rankings: runs are kept and shown, each ablation lacks one thing, and wrong lists are no race."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.beam import check, generated
from benchmarks.harness import WrongResultError
from benchmarks.studies.ranking import item_ids, recommendation
from benchmarks.studies.ranking import settings as chosen_settings
from benchmarks.studies.ranking.item_ids import (
    BEHAVIOUR,
    KMEANS,
    PUBLISHED,
    RANDOM,
    UNITOK,
    Places,
    Users,
    semantic_ids,
)
from benchmarks.studies.ranking.page import (
    ABLATIONS,
    CHAIN,
    COLD,
    COLD_CONTENT,
    COLD_HYBRID,
    CONTENT,
    KNN,
    NO_CONTENT,
    NO_IDS,
    NO_MEMORY,
    NO_START,
    NO_TRIE,
    OLD,
    POPULARITY,
    SASREC,
    write_page,
)
from benchmarks.studies.ranking.public_figures import public_table
from benchmarks.studies.ranking.recommendation import Run, catalogue, figures, finish, planned
from benchmarks.studies.ranking.settings import HybridSetting, SasrecSetting
from unitok import SemanticIds
from unitok.data import generate_catalogue, read_interactions
from unitok.recommender import CausalRecommender, Histories, TokenTable, gpt2_config

ITEMS = 120
LETTERS = "published UniTok IDs"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommendation")
    generate_catalogue(folder, domains=["beauty", "kitchen"], items_per_domain=ITEMS, width=16)
    columns = {f"t{level}": [item // 4 % (level + 2) for item in range(ITEMS)] for level in range(4)}
    pq.write_table(pa.table({**columns, "expert": [-1] * ITEMS}), folder / "beauty" / f"{PUBLISHED[LETTERS]}.parquet")
    return folder


@pytest.fixture
def places(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Small models, and IDs that no tokenizer has to be fitted for."""
    monkeypatch.setitem(chosen_settings.START, "sasrec", SasrecSetting(width=16))
    monkeypatch.setitem(chosen_settings.START, "hybrid", HybridSetting(width=16))
    item = torch.arange(ITEMS)
    made = SemanticIds(torch.stack([item // 12, item // 4 % 3], 1), torch.zeros(ITEMS, 1, dtype=torch.int64), 10, 1)

    class Fitted:
        def tokenize(self, x: torch.Tensor, domain: str, views: object = None) -> SemanticIds:
            return made

    monkeypatch.setattr(item_ids, "tokenizer", lambda *_: Fitted())
    return Places(data, tmp_path / "work", tmp_path / "tokenizers", tmp_path / "settings.json")


def test_runs_are_kept_and_the_page_shows_them(places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recommendation, "GRIDS", {name: grid[:2] for name, grid in recommendation.GRIDS.items()})
    names = (POPULARITY, CHAIN, KNN, CONTENT, SASREC, LETTERS, UNITOK, NO_TRIE, NO_CONTENT, OLD, *COLD)
    runs = [Run("beauty", name, 0, 1) for name in names]
    said = [finish(run, places) for run in runs]
    written = {run: run.path(places.work).read_bytes() for run in runs}
    assert [finish(run, places) for run in runs] == said
    assert {run: run.path(places.work).read_bytes() for run in runs} == written
    assert {path.suffix for path in (places.work / "beauty").iterdir()} == {".json"}

    found = catalogue("beauty", recommendation.ROWS, [0, 1], 1, places)
    assert set(found.runs) == set(names)
    assert found.runs[LETTERS][0]["distinct"] == 30 < ITEMS == found.runs[UNITOK][0]["distinct"]
    assert found.ours == UNITOK
    reached = [float(found.runs[name][0]["scores"]["excluded"].values().mean()) for name in found.main]
    assert reached == sorted(reached, reverse=True)
    assert set(found.main) == set(names) - {NO_TRIE, NO_CONTENT, OLD, *COLD}
    page = tmp_path / "page.md"
    others = catalogue("kitchen", recommendation.ROWS, [0], 1, places)
    write_page(page, [found, others], places.settings)
    text = page.read_text()
    for name in (POPULARITY, CHAIN, KNN, CONTENT, SASREC, LETTERS, NO_TRIE, NO_CONTENT, OLD):
        assert text.count(f"\n| {name} | ") == 2, name  # figures, and differences
    assert text.count(f"\n| {UNITOK} | ") == 4  # and beside the ablations
    for name in COLD:
        assert text.count(f"| beauty | {name} | 1 | ") == 1
    beauty, kitchen = text.split("### beauty")[1].split("### kitchen")
    assert f"Not run: TIGER; {RANDOM}; " in beauty
    assert f"Not run: {POPULARITY}; " in kitchen
    queries = len(found.runs[UNITOK][0]["scores"]["excluded"])
    assert f"| beauty | excluded | {queries} |" in text.split("### Beam of 200")[1]

    plain = json.loads(page.with_suffix(".json").read_text())
    assert [each["exclude_seen"] for each in plain] == [True] * 3 + [False] * 3
    letters = plain[0]["figures"][LETTERS]
    assert letters["token"]["recall@10"]["mean"] > letters["item"]["recall@10"]["mean"]
    assert set(plain[0]["against"][UNITOK]) == {CONTENT, SASREC}
    assert 0 < plain[2]["cold_targets"] < plain[2]["queries"]
    assert page.with_suffix(".png").stat().st_size > 10_000

    monkeypatch.setitem(chosen_settings.START, "sasrec", SasrecSetting(width=32))
    with pytest.raises(SystemExit, match="is of other settings"):
        finish(runs[names.index(SASREC)], places)


def test_each_ablation_lacks_one_thing(places: Places) -> None:
    users = Users.of("beauty", places.data)
    ids = TokenTable.of(semantic_ids(UNITOK, users, 0, places))

    def made(name: str) -> recommendation.SequenceRecommender:
        run = Run("beauty", name, 0, 1)
        table = TokenTable.items(ITEMS) if run.ids is None else ids
        return recommendation.untrained(run, table, users, users.histories, places)

    whole = made(UNITOK)
    weights = whole.model.state_dict()
    lacks = {
        NO_TRIE: set(),
        NO_MEMORY: {"memory.offsets", "memory.items", "memory.value", "met", "repeat"},
        NO_START: {"trunk.wte.weight"},
        NO_CONTENT: {"content", "centre"},
    }
    for name, expected in lacks.items():
        model = made(name).model.state_dict()
        assert {key for key, value in weights.items() if not model[key].equal(value)} <= expected, name
        assert (model["trunk.wte.weight"].equal(weights["trunk.wte.weight"])) == (name != NO_START)
    assert (made(NO_TRIE).trie_weight, whole.trie_weight) == (0.0, 1.0)
    assert len(made(NO_MEMORY).model.memory.items) == 0 < len(whole.model.memory.items)
    assert made(NO_CONTENT).model.content.shape == (ITEMS, 0)
    assert made(NO_IDS).table.width == 1 < whole.table.width
    assert (made(OLD).kind, made(NO_IDS).kind) == ("rq", "hybrid")
    assert set(ABLATIONS) == {NO_IDS, OLD, *lacks}


def test_cold_targets_are_met_in_no_training(places: Places) -> None:
    for name in (COLD_HYBRID, COLD_CONTENT):
        finish(Run("beauty", name, 0, 1), places)
    kept = [figures(Run("beauty", name, 0, 1), places)["scores"]["excluded"] for name in (COLD_HYBRID, COLD_CONTENT)]
    split = recommendation.Split.cold_items(Users.of("beauty", places.data).histories, ITEMS)
    assert kept[0]["cold"] == kept[1]["cold"] == split.test.cold.tolist()
    assert max(rank for rank in kept[0]["item_rank"] if rank is not None) >= 10  # 50 names are looked through


def test_a_seed_more_plans_what_has_randomness_alone(places: Places) -> None:
    runs = list(planned("beauty", recommendation.ROWS, [0, 1], None, places))
    seeds = {name: [run.seed for run in runs if run.name == name] for name in recommendation.ROWS}
    assert (seeds[CONTENT], seeds[UNITOK], seeds[COLD_HYBRID]) == ([0], [0, 1], [0, 1])
    assert (seeds[LETTERS], seeds["published LETTER IDs"]) == ([0, 1], [])  # there is no file of those


def test_ids_with_behaviour_are_the_same_when_the_tokenizer_is_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_ids, "EPOCHS", 1)
    places, users = Places(data, tmp_path, tmp_path / "tokenizers", tmp_path / "none.json"), Users.of("kitchen", data)
    item_ids.prepare(BEHAVIOUR, 0, places)
    monkeypatch.setattr(item_ids.Tokenizer, "fit", None)  # nothing is fitted anew
    ids = semantic_ids(BEHAVIOUR, users, 0, places)
    assert len(TokenTable.of(ids).names.unique()) == ITEMS
    fitted = item_ids.tokenizer(BEHAVIOUR, 0, places)
    vectors = {"behaviour": item_ids.behaviour(users.histories, ITEMS)}
    assert ids.codes.equal(fitted.tokenize(users.content, "kitchen", views=vectors).codes)
    assert not ids.codes.equal(fitted.tokenize(users.content, "kitchen").codes)


def test_random_ids_are_those_of_unitok_at_other_items(places: Places) -> None:
    users = Users.of("beauty", places.data)
    own, mixed = (semantic_ids(name, users, 1, places).tokens().tolist() for name in (UNITOK, RANDOM))
    assert mixed != own
    assert sorted(mixed) == sorted(own)
    assert semantic_ids(RANDOM, users, 2, places).tokens().tolist() != mixed


def test_residual_kmeans_clusters_what_the_level_before_left(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_ids, "CODEWORDS", 8)
    users = Users.of("kitchen", places.data)
    ids = semantic_ids(KMEANS, users, 0, places)
    assert (ids.codes.shape, ids.suffix is not None) == ((ITEMS, 4), True)
    kept = item_ids.residual_kmeans(0, places)  # of both domains, from its file
    assert ids.codes.equal(kept[ITEMS:])
    every = torch.cat([Users.of(name, places.data).content for name in ("beauty", "kitchen")])
    errors = []
    for level in range(1, 5):  # rows of equal codes are nearer to each other with every level
        group = kept[:, :level].unique(dim=0, return_inverse=True)[1]
        centres = torch.zeros(int(group.max()) + 1, every.shape[1]).index_add_(0, group, every)
        centres /= group.bincount()[:, None]
        errors.append(float((every - centres[group]).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


def test_where_ours_is_lower_the_page_says_so() -> None:
    ours = {"excluded": {"beauty": (0.0925, 0.06)}, "included": {"beauty": (0.07, 0.04)}}
    lines = {line.split(" | ")[0]: line.rsplit(" | ", 1)[1] for line in public_table(ours)[4:]}
    assert lines["| eSASRec"] == "Beauty Recall@10 |"
    assert lines["| ActionPiece"] == "Beauty Recall@10, Beauty NDCG@10 |"  # against ours with the history included
    assert lines["| HSTU, run there"] == "none |"


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
