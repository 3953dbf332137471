"""Judge IDs by how well they rank: train a recommender on each set of IDs, and compare with SASRec and baselines.

python -m benchmarks.studies.recommendation CATALOGUE_FOLDER

Tokenizers are those of `benchmarks.studies.experiments`; missing ones are fitted, on all domains. The recommender is
the same for all IDs. A run is a recommender on a domain with a seed. It is kept under --work: checkpoints while it
trains, JSON when it ends, so that an interrupted study continues where it stopped. The tables and the plot of
docs/results/recommendation.md are made from the runs that are there; the text around them is written by hand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.studies.experiments import DEFAULT, RUNS, fit, origin, seeded, stem, tensor
from benchmarks.studies.recommendation_page import write_page
from unitok import SemanticIds
from unitok.data import find_domains, read_catalogue, read_interactions
from unitok.recommender import (
    CausalRecommender,
    Histories,
    MarkovChain,
    Popularity,
    Recommender,
    RQRecommender,
    Scores,
    SequenceRecommender,
    TokenTable,
    TrainingConfig,
    evaluate,
    gpt2_config,
)
from unitok.recommender import fit as train
from unitok.recommender.evaluation.ranking import ndcg

DOMAINS = ("office_products", "grocery_and_gourmet_food", "beauty")
IDS = {"UniTok IDs": DEFAULT, "single-codebook IDs": "single codebook"}  # and their runs in experiments.py
PUBLISHED = {"published UniTok IDs": "published_tokens", "published LETTER IDs": "published_tokens_letter"}
SASREC, CHAIN, TUNED, POPULARITY = "SASRec", "Markov chain", "Markov chain, tuned", "popularity"
FIXED = (POPULARITY, CHAIN, TUNED)  # deterministic: one seed is enough
BASELINES = (SASREC, TUNED, CHAIN, POPULARITY)

# Arguments of gpt2_config for the decoder of RQRecommender, the same for all IDs.
MODEL: dict[str, Any] = {"width": 128, "layers": 2, "heads": 2, "dropout": 0.4, "attention_dropout": 0.2}
TRAINING: dict[str, Any] = {"epochs": 40, "batch_size": 512, "learning_rate": 1e-3, "weight_decay": 0.05, "patience": 8}
SASREC_MODEL: dict[str, Any] = {"width": 64, "layers": 2, "heads": 2, "dropout": 0.5, "attention_dropout": 0.5}
SASREC_TRAINING: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "patience": 10,
}
CHAIN_SETTINGS: dict[str, Any] = {"reach": 2, "learn": 0.5, "query": 0.7, "normalised": False}
GRID = [
    {"reach": reach, "learn": learn, "query": query}
    for (reach, learn), query in product([(1, 1.0), (5, 0.8), (20, 0.8)], [0.3, 0.5, 0.7])
]


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

    @property
    def training(self) -> TrainingConfig:
        """Return the settings of its training."""
        settings = dict(SASREC_TRAINING if self.name == SASREC else TRAINING, seed=self.seed)
        return TrainingConfig(**settings | ({} if self.epochs is None else {"epochs": self.epochs}))

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that its figures depend on."""
        if self.name in FIXED:
            how: dict[str, Any] = {CHAIN: CHAIN_SETTINGS, TUNED: {"grid": GRID}}.get(self.name, {})
        else:
            how = {"model": SASREC_MODEL if self.name == SASREC else {"kind": "rq", **MODEL}}
            how["training"] = asdict(self.training)
        return json.loads(json.dumps({"domain": self.domain, "name": self.name, "seed": self.seed, **how}))

    def path(self, work: Path) -> Path:
        """Return the file of its figures."""
        words = re.sub("[^a-zA-Z0-9]+", "_", self.name)
        return work / self.domain / f"{words}-{'' if self.epochs is None else f'{self.epochs}-'}{self.seed}.json"


@dataclass(frozen=True)
class Places:
    """Where things are: the catalogue, the finished runs, and the tokenizers."""

    data: Path
    work: Path
    tokenizers: Path


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--work", type=Path, default=Path("runs/recommendation"), help="where finished runs are kept")
    parser.add_argument("--tokenizers", type=Path, default=Path("runs/experiments"), help="where tokenizers are kept")
    parser.add_argument("--domains", nargs="*", default=DOMAINS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--epochs", type=int, help="the most epochs of every model, for a trial")
    parser.add_argument("--only", nargs="*", help="run only these recommenders; without names, only write the page")
    parser.add_argument("--also", nargs="*", default=[], help="further runs of experiments.py to compare, by name")
    parser.add_argument("--page", type=Path, default=Path("docs/results/recommendation.md"))
    options = parser.parse_args()
    if unknown := set(options.also) - set(RUNS):
        raise SystemExit(f"--also must be among {', '.join(RUNS)}, got {', '.join(sorted(unknown))}.")
    os.nice(10)
    places = Places(options.data, options.work, options.tokenizers)
    folders = find_domains(places.data)
    if unknown := set(options.domains) - set(folders):
        raise SystemExit(f"--domains must be among {', '.join(folders)}, got {', '.join(sorted(unknown))}.")
    runs = [
        Run(domain, name, seed, options.epochs)
        for domain in options.domains
        for seed in options.seeds
        for name in (*FIXED, SASREC, *IDS, *options.also, *PUBLISHED)
        if seed == options.seeds[0] or name not in FIXED
        if name not in PUBLISHED or (folders[domain] / f"{PUBLISHED[name]}.parquet").exists()
    ]
    wanted = [run for run in runs if options.only is None or run.name in options.only]
    failed = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), _one_thread) as pool:
        sets = dict.fromkeys((name, run.seed) for run in wanted if (name := experiment(run.name)))
        for done in as_completed([pool.submit(tokenizer, *which, places) for which in sets]):
            done.result()
        found = {pool.submit(finish, run, places): run for run in wanted}
        for done in as_completed(found):
            if (error := done.exception()) is not None:  # the other runs continue
                failed.append(found[done])
                print(f"{found[done].path(places.work)}: {type(error).__name__}: {error}", flush=True)
            else:
                print(done.result(), flush=True)
    if kept := [read for run in runs if (read := figures(run, places)) is not None]:
        note_ranking(kept, places)
        write_page(options.page, kept, BASELINES)
    raise SystemExit(1 if failed else 0)


def _one_thread() -> None:
    torch.set_num_threads(1)


def figures(run: Run, places: Places) -> dict[str, Any] | None:
    """Read a finished run; None if there is none."""
    path = run.path(places.work)
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    if kept["run"] != run.settings:
        raise SystemExit(f"{path} is of other settings. Delete it, or pass another --work.")
    return kept


def finish(run: Run, places: Places) -> str:
    """Train and evaluate a run, unless it was kept earlier; say how well it ranks."""
    path = run.path(places.work)
    if (kept := figures(run, places)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = path.with_suffix("").exists()
        began = time.perf_counter()
        recommender, ids, about = made(run, places, path.with_suffix(""))
        seconds = time.perf_counter() - began
        histories, _ = read(run.domain, places.data)
        scores = evaluate(recommender, histories.queries("test"), ids, exclude_seen=False)  # as the page says
        kept = {"run": run.settings, "seconds": seconds, "resumed": resumed, **about, "origin": origin()}
        kept["scores"] = scores.to_dict()
        path.write_text(json.dumps(kept))
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    scores = Scores.from_dict(kept["scores"])
    shown = [f"{metric}@10 {float(scores.values(metric).mean()):.4f}" for metric in ("recall", "ndcg")]
    return f"{path}: {', '.join(shown)} by item, {kept['seconds'] / 60:.1f} min"


def made(run: Run, places: Places, folder: Path) -> tuple[Recommender, Tensor | None, dict[str, Any]]:
    """Make a run's recommender; return it, the IDs for the token level, and other facts to keep."""
    histories, num_items = read(run.domain, places.data)
    training, validation = histories.training(), histories.queries("validation")
    # Recommenders that rank items directly have no IDs: by token they are judged with the published ones.
    others = find_domains(places.data)[run.domain] / f"{PUBLISHED['published UniTok IDs']}.parquet"
    ids = published(others).groups() if others.exists() else None
    if run.name == POPULARITY:
        return Popularity(training, num_items), ids, {}
    if run.name in (CHAIN, TUNED):
        tried = [CHAIN_SETTINGS] if run.name == CHAIN else GRID
        chains = [MarkovChain(training, num_items, **settings) for settings in tried]
        groups = torch.arange(num_items)
        ranked = [chain.rank(validation.histories, 10, exclude_seen=False) for chain in chains]
        reached = [ndcg(names, validation.targets, groups, 10) for names in ranked]
        best = int(np.argmax(reached))
        return chains[best], ids, {"settings": tried[best], "validation": reached[best]}
    recommender: SequenceRecommender
    if run.name == SASREC:
        table = TokenTable.items(num_items)
        recommender = CausalRecommender.create(table, gpt2_config(**SASREC_MODEL), seed=run.seed)
    else:
        items = semantic_ids(run, places)
        ids, table = items.groups(), TokenTable.of(items)
        recommender = RQRecommender.create(table, gpt2_config(**MODEL), seed=run.seed)
    history = train(recommender, histories, run.training, directory=folder)
    parameters = sum(p.numel() for p in recommender.model.parameters())
    about = {"parameters": parameters, "tokens": table.width, "names": len(table.names.unique()), "history": history}
    return recommender, ids, about


def read(domain: str, data: Path) -> tuple[Histories, int]:
    """Read a domain's histories; return them and its number of items."""
    folder = find_domains(data)[domain]
    num_items = len(read_catalogue(folder)[domain].keys)
    return Histories.of(read_interactions(folder), num_items), num_items


def experiment(name: str) -> str | None:
    """Return the run of experiments.py whose tokenizer makes the IDs, or None."""
    return IDS.get(name, name if name in RUNS else None)


def tokenizer(name: str, seed: int, places: Places) -> Any:
    """Load a tokenizer of all domains; if it is missing, fit it where `benchmarks.studies.experiments` would."""
    run = seeded(RUNS[name], seed, 20)
    items = {key: tensor(domain.embeddings) for key, domain in read_catalogue(places.data).items()}
    return fit(run, items, places.tokenizers / stem(name, run))


def semantic_ids(run: Run, places: Places) -> SemanticIds:
    """Return the IDs of the domain's items: ours with a suffix if some collide, published ones as they are."""
    if run.name in PUBLISHED:
        return published(find_domains(places.data)[run.domain] / f"{PUBLISHED[run.name]}.parquet")
    domain = read_catalogue(places.data, [run.domain])[run.domain]
    fitted = tokenizer(experiment(run.name) or run.name, run.seed, places)[run.domain]
    return fitted.tokenize(tensor(domain.embeddings), run.domain).assign(domain.keys)


def published(file: Path) -> SemanticIds:
    """Read the IDs that others published for the same items."""
    table = pq.read_table(file)
    columns = [torch.from_numpy(table[c].to_numpy().copy()).long() for c in ("t0", "t1", "t2", "t3", "expert")]
    codes, experts = torch.stack(columns[:4], 1), columns[4].clamp(min=0)[:, None]  # -1 if there are no experts
    return SemanticIds(codes, experts, int(codes.max()) + 1, int(experts.max()) + 1)


def note_ranking(kept: list[dict[str, Any]], places: Places) -> None:
    """Save for experiments.py how its tokenizers' IDs ranked, by item, on the domain that all are tested on."""
    for run in kept:
        name, seed, domain = (run["run"][key] for key in ("name", "seed", "domain"))
        if domain == DOMAINS[0] and (name := experiment(name)) is not None:
            reached = float(Scores.from_dict(run["scores"]).values().mean())
            folder = places.tokenizers / stem(name, seeded(RUNS[name], seed, 20))
            (folder / "ranking.json").write_text(json.dumps({"ndcg@10": reached, "domain": domain}))


if __name__ == "__main__":
    main()
