"""Judge IDs by how well they rank: train one recommender on each set of IDs, and compare with baselines.

python -m benchmarks.studies.ranking.recommendation CATALOGUE_FOLDER

Tokenizers are those of `item_ids`; missing ones are fitted, on all domains. Settings are those that `settings` chose on
validation; the recommender is the same for all IDs. A run is a recommender on a domain with a seed. It is kept under
--work: checkpoints while it trains, JSON when it ends, so that an interrupted study continues where it stopped. The
tables and the plot of docs/results/recommendation.md are made from the runs that are there; the text around them is
written by hand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.studies.experiments import RUNS, origin, seeded, stem
from benchmarks.studies.ranking.item_ids import EPOCHS, PUBLISHED, SINGLE, UNITOK, Places, Users, experiment, prepare
from benchmarks.studies.ranking.item_ids import semantic_ids as ids_of
from benchmarks.studies.ranking.page import (
    ABLATIONS,
    CHAIN,
    COLD,
    COLD_CHAIN,
    COLD_CONTENT,
    COLD_HYBRID,
    CONTENT,
    IDS,
    KNN,
    NO_CONTENT,
    NO_IDS,
    NO_MEMORY,
    NO_START,
    NO_TRIE,
    OLD,
    POPULARITY,
    SASREC,
    TIGER,
    Catalogue,
    Figures,
    write_page,
)
from benchmarks.studies.ranking.settings import RESULTS, HybridSetting, SasrecSetting, Setting, chosen
from unitok.data import find_domains
from unitok.recommender import (
    Histories,
    HybridRecommender,
    ItemKNN,
    MarkovChain,
    MarkovContent,
    Popularity,
    Queries,
    Recommender,
    RQRecommender,
    Scores,
    SequenceRecommender,
    Split,
    T5Recommender,
    TokenTable,
    TrainingConfig,
    evaluate,
    fit_markov_content,
    rq_config,
)
from unitok.recommender import fit as train
from unitok.storage.whole import whole_file

DOMAINS = (
    "office_products",
    "grocery_and_gourmet_food",
    "beauty",
    "toys_and_games",
    "sports_and_outdoors_keyphrase",
    "yelp",
    "video_games",
)
FIXED = (POPULARITY, CHAIN, KNN, CONTENT, COLD_CHAIN, COLD_CONTENT)  # deterministic: one seed is enough
ROWS = (POPULARITY, CHAIN, KNN, CONTENT, SASREC, TIGER, *IDS, *ABLATIONS, *COLD)
BEFORE: dict[str, Any] = {"epochs": 40, "batch_size": 512, "learning_rate": 1e-3, "weight_decay": 0.05, "patience": 8}
AS_TIGER: dict[str, Any] = {"epochs": 40, "batch_size": 256, "learning_rate": 5e-4, "weight_decay": 0.01}
AS_TIGER |= {"warmup": 0.01, "patience": 8}
GRIDS: dict[str, list[dict[str, Any]]] = {
    CHAIN: [
        {"reach": reach, "learn": learn, "query": query}
        for (reach, learn), query in product([(1, 1.0), (5, 0.8), (20, 0.8)], [0.3, 0.5, 0.7])
    ],
    KNN: [
        {"neighbours": neighbours, "shrinkage": shrinkage, "query": query}
        for (neighbours, shrinkage), query in product([(20, 0.0), (100, 10.0), (500, 10.0)], [0.5, 0.8, 1.0])
    ],
}
ASKED = 5000  # queries at most, by which a setting of a grid is chosen, and the beam is judged
PROTOCOLS = {"excluded": True, "included": False}  # items of the history


@dataclass(frozen=True)
class Run:
    """A recommender that is trained and judged.

    Attributes:
        domain: the domain of its users.
        name: of the recommender.
        seed: of its weights and batches, and of the tokenizer.
        epochs: the most to train; None keeps the settings.
    """

    domain: str
    name: str
    seed: int
    epochs: int | None

    def setting(self, places: Places) -> Setting | None:
        """Return what was chosen for it on validation; None where nothing was."""
        if self.name in (*FIXED, TIGER, OLD):
            return None
        return chosen("sasrec" if self.name == SASREC else "hybrid", self.domain, places.settings)[0]

    def training(self, places: Places) -> TrainingConfig:
        """Return the settings of its training."""
        if (setting := self.setting(places)) is not None:
            return setting.training(self.seed, self.epochs)
        settings = dict(AS_TIGER if self.name == TIGER else BEFORE, seed=self.seed)
        return TrainingConfig(**settings | ({} if self.epochs is None else {"epochs": self.epochs}))

    def settings(self, places: Places) -> dict[str, Any]:
        """Return everything that its figures depend on."""
        how: dict[str, Any] = {"grid": GRIDS.get(self.name)}
        if self.name not in FIXED:
            setting = self.setting(places)
            how = {"setting": setting and asdict(setting), "training": asdict(self.training(places))}
        return json.loads(json.dumps({"domain": self.domain, "name": self.name, "seed": self.seed, **how}))

    def path(self, work: Path) -> Path:
        """Return the file of its figures."""
        words = re.sub("[^a-zA-Z0-9]+", "_", self.name)
        return work / self.domain / f"{words}-{'' if self.epochs is None else f'{self.epochs}-'}{self.seed}.json"

    @property
    def ids(self) -> str | None:
        """Which IDs it reads; None if it has none."""
        if self.name in (NO_IDS, SASREC, *FIXED):
            return None
        return {TIGER: SINGLE}.get(self.name, UNITOK if self.name in (*ABLATIONS, COLD_HYBRID) else self.name)


def study_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a study: the catalogue, and where what is finished is kept."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--work", type=Path, default=Path("runs/recommendation"), help="where finished runs are kept")
    parser.add_argument("--tokenizers", type=Path, default=Path("runs/experiments"), help="where tokenizers are kept")
    parser.add_argument("--settings", type=Path, default=RESULTS, help="what `settings` wrote")
    return parser


def main() -> None:
    """Run what is missing, then write the page."""
    parser = study_parser(__doc__)
    parser.add_argument("--domains", nargs="*", default=DOMAINS, help="run only these; the page shows all")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="run only these; the page shows 0, 1, 2"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--epochs", type=int, help="the most epochs of every model, for a trial")
    parser.add_argument("--only", nargs="*", help="run only these recommenders; without names, only write the page")
    parser.add_argument("--also", nargs="*", default=[], help="further runs of experiments.py to compare, by name")
    parser.add_argument("--page", type=Path, default=Path("docs/results/recommendation.md"))
    options = parser.parse_args()
    places = Places(options.data, options.work, options.tokenizers, options.settings)
    folders, names = find_domains(places.data), (*ROWS, *options.also)
    for option, allowed in (("also", RUNS), ("domains", folders), ("only", names)):
        if unknown := set(getattr(options, option) or ()) - set(allowed):
            raise SystemExit(f"--{option} must be among {', '.join(allowed)}, got {', '.join(sorted(unknown))}.")
    os.nice(10)
    wanted = [
        run
        for domain in options.domains
        for run in planned(domain, names, options.seeds, options.epochs, places)
        if options.only is None or run.name in options.only
    ]
    failed = work(wanted, places, options.jobs, options.threads)
    shown = [domain for domain in dict.fromkeys((*DOMAINS, *options.domains)) if domain in folders]
    every = sorted({0, 1, 2, *options.seeds})
    write_page(options.page, (catalogue(each, names, every, options.epochs, places) for each in shown), places.settings)
    raise SystemExit(1 if failed else 0)


def planned(
    domain: str, names: Sequence[str], seeds: Sequence[int], epochs: int | None, places: Places
) -> Iterator[Run]:
    """Yield a domain's runs, those of one seed after the other."""
    folder = find_domains(places.data)[domain]
    for seed in seeds:
        for name in names:
            if name in PUBLISHED and not (folder / f"{PUBLISHED[name]}.parquet").exists():
                continue
            if name in FIXED:
                if seed == seeds[0]:
                    yield Run(domain, name, 0, epochs)
            else:
                yield Run(domain, name, seed, epochs)


def work(wanted: Sequence[Run], places: Places, jobs: int, threads: int) -> bool:
    """Finish runs, several at a time; say whether one failed: the others continue."""
    waiting = [run for run in wanted if figures(run, places) is None]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,)) as pool:
        sets = dict.fromkeys((run.ids, run.seed) for run in waiting if run.ids is not None)
        ready = {pool.submit(prepare, *which, places): which for which in sets}
        lost = [ready[done] for done in as_completed(ready) if _error(done, f"{ready[done]}") is not None]
        runs = [run for run in waiting if (run.ids, run.seed) not in lost]
        found = {pool.submit(finish, run, places): run for run in runs}
        failed = 0
        for number, done in enumerate(as_completed(found), 1):
            if _error(done, f"{found[done].path(places.work)}") is None:
                print(f"{number}/{len(runs)} {done.result()}", flush=True)
            else:
                failed += 1
    return bool(lost or failed)


def _error(done: Future[Any], what: str) -> BaseException | None:
    """Say what went wrong, if something did."""
    if (error := done.exception()) is not None:
        print(f"{what}: {type(error).__name__}: {error}", flush=True)
    return error


def figures(run: Run, places: Places) -> Figures | None:
    """Read a finished run; None if there is none."""
    path = run.path(places.work)
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    if kept["run"] != run.settings(places):
        raise SystemExit(f"{path} is of other settings. Delete it, or pass another --work.")
    return kept


def finish(run: Run, places: Places) -> str:
    """Train and evaluate a run, unless it was kept earlier; say how well it ranks."""
    path = run.path(places.work)
    if (kept := figures(run, places)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = path.with_suffix("").exists()
        users = Users.of(run.domain, places.data)
        split = Split.cold_items(users.histories, users.num_items) if run.name in COLD else None
        began = time.perf_counter()
        recommender, ids, about = made(run, users, split or users.histories, places)
        kept = {"run": run.settings(places), "seconds": time.perf_counter() - began, "resumed": resumed, **about}
        queries = users.histories.queries("test") if split is None else split.test

        def scores(asked: Queries) -> dict[str, Any]:
            return {
                name: evaluate(recommender, asked, ids, exclude_seen=exclude_seen).to_dict()
                for name, exclude_seen in PROTOCOLS.items()
            }

        kept |= {"scores": scores(queries), "origin": origin()}
        if (run.name, run.seed) == (UNITOK, 0):  # once: it takes longer than all the rest of the evaluation
            asked = some(queries)
            kept["exact"] = scores(asked)
            recommender.exact_items = 0  # the search of 200 prefixes, reranked
            kept["beam"] = scores(asked)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(kept))
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    found = Scores.from_dict(kept["scores"]["excluded"])
    shown = [f"{metric}@10 {float(found.values(metric).mean()):.4f}" for metric in ("recall", "ndcg")]
    return f"{path}: {', '.join(shown)}, {kept['seconds'] / 60:.1f} min"


def made(
    run: Run, users: Users, learnt: Histories | Split, places: Places
) -> tuple[Any, Tensor | None, dict[str, Any]]:
    """Make a run's recommender; return it, the IDs for the token level, and other facts to keep."""
    split = learnt if isinstance(learnt, Split) else Split.leave_one_out(learnt)
    if run.name in FIXED:
        found, about = baseline(run.name, users, split)
        return found, None, about
    ids = None if run.ids is None else ids_of(run.ids, users, run.seed, places)
    apart = run.name not in (TIGER, OLD)  # tokens of different experts
    table = TokenTable.items(users.num_items) if ids is None else TokenTable.of(ids, by_expert=apart)
    recommender = untrained(run, table, users, learnt, places)
    history = train(recommender, learnt, run.training(places), directory=run.path(places.work).with_suffix(""))
    about = {
        "parameters": sum(p.numel() for p in recommender.model.parameters()),
        "tokens": table.width,
        "distinct": len(table.names.unique()),
        "history": history,
        "validation": float(evaluate(recommender, split.validation).values().mean()),
    }
    if isinstance(recommender, HybridRecommender):
        memory = recommender.model.memory
        about["memory"] = sum(part.nbytes for part in (memory.offsets, memory.items, memory.value))
    return recommender, None if ids is None else ids.groups(), about


def baseline(name: str, users: Users, split: Split) -> tuple[Recommender, dict[str, Any]]:
    """Make a recommender that isn't trained, with the best of its settings on validation, and say which that is."""
    known, num_items, asked = split.training, users.num_items, some(split.validation)

    def reached(recommender: Recommender) -> float:
        return float(evaluate(recommender, asked).values().mean())

    if name in GRIDS:
        kind: Callable[..., Recommender] = {CHAIN: MarkovChain, KNN: ItemKNN}[name]
        tried = [reached(kind(known, num_items, **settings)) for settings in GRIDS[name]]
        settings = GRIDS[name][tried.index(max(tried))]
        return kind(known, num_items, **settings), {"chosen": settings, "validation": max(tried)}
    if name == POPULARITY:
        found: Recommender = Popularity(known, num_items)
    elif name == COLD_CONTENT:  # a chain of no histories leads nowhere
        found = MarkovContent(Histories.from_lists([]), num_items, users.content, weight=1.0)
    else:
        found = fit_markov_content(split, num_items, users.content)
    weight = {"chosen": {"weight": found.weight}} if isinstance(found, MarkovContent) else {}
    return found, {**weight, "validation": reached(found)}


def some(queries: Queries) -> Queries:
    """Draw at most `ASKED` of the queries."""
    return queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:ASKED].sort().values]


def untrained(
    run: Run, table: TokenTable, users: Users, learnt: Histories | Split, places: Places
) -> SequenceRecommender:
    """Make a run's model; those of the ablations lack one thing."""
    setting = run.setting(places)
    if run.name == TIGER:
        return T5Recommender.create(table, seed=run.seed)
    if run.name == OLD:
        return RQRecommender.create(table, rq_config(), seed=run.seed)
    if isinstance(setting, SasrecSetting):
        return setting.recommender(users.num_items, run.seed)
    assert isinstance(setting, HybridSetting)
    found = setting.recommender(table, None if run.name == NO_MEMORY else learnt, users.content, run.seed)
    if run.name == NO_TRIE:
        found.trie_weight = 0.0
    elif run.name == NO_CONTENT:
        found.model.content, found.model.centre = found.model.content[:, :0], found.model.centre[:0]
    elif run.name == NO_START:
        blank = setting.recommender(table, None, None, run.seed).model
        found.model.trunk.load_state_dict(blank.trunk.state_dict())
    return found


def catalogue(domain: str, names: Sequence[str], seeds: Sequence[int], epochs: int | None, places: Places) -> Catalogue:
    """Read a domain's finished runs, and note for experiments.py how its tokenizers' IDs ranked."""
    runs: dict[str, list[Figures]] = {}
    for run in planned(domain, names, seeds, epochs, places):
        found = runs.setdefault(run.name, [])
        if (kept := figures(run, places)) is not None:
            kept["scores"] = {name: Scores.from_dict(scores) for name, scores in kept["scores"].items()}
            for part in ("exact", "beam"):
                kept[part] = {name: Scores.from_dict(scores) for name, scores in kept.get(part, {}).items()}
            found.append(kept)
            if domain == DOMAINS[0] and (key := experiment(run.name)) is not None:
                folder = places.tokenizers / stem(key, seeded(RUNS[key], run.seed, EPOCHS))
                if folder.exists():
                    reached = float(kept["scores"]["excluded"].values().mean())
                    (folder / "ranking.json").write_text(json.dumps({"ndcg@10": reached, "domain": domain}))
    missing = [name for name, found in runs.items() if not found]
    return Catalogue(domain, {name: found for name, found in runs.items() if found}, missing)


if __name__ == "__main__":
    main()
