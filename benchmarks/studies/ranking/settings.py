"""Choose the settings of SASRec and of our recommender on validation alone, by one small search for every catalogue.

python -m benchmarks.studies.ranking.settings CATALOGUE_FOLDER --kind hybrid --domains office_products beauty

The search begins with the kind's first setting and goes through its steps once: a step tries each of its changes on
what was chosen before it, and keeps the best by NDCG@10 over all validation queries, items of the history left out. All
tries are kept under --work: checkpoints while they train, JSON when they end, so that an interrupted search continues
where it stopped. In a catalogue of many items, where a try takes long, --only trust trains the first setting and the
changes of `trust` alone; of all others it takes those that are finished. What was tried is written to
docs/results/settings.json, beside what other searches wrote there; `benchmarks.studies.ranking.recommendation` takes
its settings from it. The test queries are never looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.studies.experiments import origin
from benchmarks.studies.ranking.item_ids import UNITOK, Places, Users, semantic_ids
from unitok.data import find_domains
from unitok.recommender import (
    CausalRecommender,
    Histories,
    HybridRecommender,
    SequenceRecommender,
    Split,
    TokenTable,
    TrainingConfig,
    evaluate,
    gpt2_config,
)
from unitok.recommender import fit as train
from unitok.recommender.hybrid.sampling import draw
from unitok.storage.whole import whole_file

RESULTS = Path("docs/results/settings.json")
OTHERS = ("office_products", "beauty")  # a catalogue that wasn't searched takes the settings of one of these
SEED = 0  # of the tokenizer, the weights and the batches
LARGE = 5000  # items: in more, SASRec tells its targets from sampled ones
SMALL = ("grocery_and_gourmet_food",)  # and this one rather those of the first than those of the second


@dataclass(frozen=True)
class Setting:
    """What a search chooses.

    Attributes:
        width: of the embeddings; two blocks, two heads.
        dropout: of the embeddings and the blocks' outputs.
        learning_rate: the highest.
        weight_decay: of matrices.
    """

    width: int
    dropout: float
    learning_rate: float
    weight_decay: float
    fixed: ClassVar[dict[str, Any]]  # of its training, the same for all

    def __str__(self) -> str:
        """Write it as the name of a file."""
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items())

    def training(self, seed: int, epochs: int | None = None) -> TrainingConfig:
        """Say how it is trained; `epochs` are the most, for a trial."""
        own = {name: value for name, value in asdict(self).items() if name in TrainingConfig.__dataclass_fields__}
        return TrainingConfig(**self.fixed | own | ({} if epochs is None else {"epochs": epochs}), seed=seed)


@dataclass(frozen=True)
class SasrecSetting(Setting):
    """Of SASRec; its dropout is that of the attention, too.

    Attributes:
        crop: share of the sequences that are cut.
        shuffle: share of the sequences that are mixed.
    """

    width: int = 64
    dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    crop: float = 0.0
    shuffle: float = 0.0

    fixed: ClassVar[dict[str, Any]] = {"epochs": 60, "batch_size": 512, "patience": 8}

    def recommender(self, num_items: int, seed: int) -> CausalRecommender:
        """Make it, untrained; its softmax is over sampled items in large catalogues."""
        model = gpt2_config(self.width, dropout=self.dropout, attention_dropout=self.dropout)
        kind = SampledSasrec if num_items > LARGE else CausalRecommender
        return kind.create(TokenTable.items(num_items), model, seed=seed)


class SampledSasrec(CausalRecommender):
    """Learns to tell targets from as many sampled items as `HybridRecommender` does, instead of from all."""

    def loss(self, items: Tensor) -> Tensor:
        """Return the cross-entropy of every item given those before it, each among the items that are drawn."""
        there = items >= 0
        wanted = items[there]
        every = torch.ones(len(self.table), dtype=torch.bool)
        among, correction = draw(every, wanted, HybridRecommender.sampled_items)
        read = F.pad(self.table.tokens[items.clamp(min=0)[:, :-1], 0], (1, 0), value=self.table.start)
        states = self.model.base_model(input_ids=read, use_cache=False).last_hidden_state[there]
        vectors = self.model.get_output_embeddings().weight[self.table.tokens[among, 0]]
        return F.cross_entropy(states @ vectors.T + correction, torch.searchsorted(among, wanted))


@dataclass(frozen=True)
class HybridSetting(Setting):
    """Of `HybridRecommender`, whose attention has a dropout of .2.

    Attributes:
        batch_size: target items per step.
        start: mean length of the items' vectors at the start.
        epochs: the most.
        trust: in the items' content, at the start.
    """

    width: int = 128
    dropout: float = 0.4
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 512
    start: float = 0.5
    epochs: int = 6
    trust: float = 2.0

    fixed: ClassVar[dict[str, Any]] = {"patience": 4}

    def recommender(
        self, table: TokenTable, histories: Histories | Split | None, content: Tensor | None, seed: int
    ) -> HybridRecommender:
        """Make it, untrained."""
        model = gpt2_config(self.width, dropout=self.dropout, attention_dropout=0.2)
        with patch.multiple(HybridRecommender, start_length=self.start, start_trust=self.trust):
            return HybridRecommender.create(table, model, histories=histories, content=content, seed=seed)


START: dict[str, Setting] = {"sasrec": SasrecSetting(), "hybrid": HybridSetting()}
STEPS: dict[str, Sequence[Sequence[dict[str, Any]]]] = {
    "sasrec": (
        [{"width": 128}],
        [{"dropout": 0.3}, {"dropout": 0.7}],
        [{"shuffle": 0.5}, {"crop": 0.5}],
        [{"weight_decay": 0.5}],
        [{"learning_rate": 2e-3}],
    ),
    "hybrid": (
        [{"epochs": 3}, {"epochs": 12}],
        [{"trust": 4.0}],
        [{"dropout": 0.3}, {"dropout": 0.5}],
        [{"learning_rate": 2e-3}],
        [{"start": 1.0}],
    ),
}


def main() -> None:
    """Search in every domain, and write and print what was tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--kind", choices=tuple(START), required=True, help="of the recommender")
    parser.add_argument("--domains", nargs="*", default=OTHERS)
    parser.add_argument("--work", type=Path, help="where finished tries are kept; by default runs/KIND")
    parser.add_argument("--tokenizers", type=Path, default=Path("runs/experiments"), help="where tokenizers are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all tries are written")
    parser.add_argument("--epochs", type=int, help="the most epochs of every try, for a trial")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="*", help="train only changes of these settings; without names, choose from finished tries"
    )
    options = parser.parse_args()
    if unknown := set(options.domains) - set(folders := find_domains(options.data)):
        raise SystemExit(f"--domains must be among {', '.join(folders)}, got {', '.join(sorted(unknown))}.")
    os.nice(10)
    torch.set_num_threads(options.threads)
    work = options.work or Path("runs") / options.kind
    places = Places(options.data, work, options.tokenizers, options.results)
    for domain in options.domains:
        tries = search(options.kind, domain, places, options.epochs, options.only)
        keep(options.kind, domain, tries, places.settings)
        print(*tried(options.kind, places.settings, [domain]), sep="\n", flush=True)


def search(
    kind: str,
    domain: str,
    places: Places,
    epochs: int | None = None,
    only: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Try the first setting and then every step's changes; return all tries, in their order.

    Args:
        kind: of the recommender.
        domain: the catalogue.
        places: where things are.
        epochs: the most of every try, for a trial.
        only: which settings' changes are trained; of others, finished tries are taken. Of none, no try is trained.
    """
    tries: list[dict[str, Any]] = []

    def add(setting: Setting, train_it: bool) -> None:
        if train_it or path(setting, domain, places).exists():
            tries.append(finish(setting, domain, places, epochs))

    add(START[kind], only != [])
    for step in STEPS[kind]:
        before = best(kind, tries) if tries else START[kind]
        for change in step:
            add(replace(before, **change), only is None or set(change) <= set(only))
    if not tries:
        raise SystemExit(f"No try for {domain} is finished in {places.work}.")
    return tries


def path(setting: Setting, domain: str, places: Places) -> Path:
    """Return the file of a try."""
    return places.work / domain / f"validation,{setting},seed={SEED}.json"


def best(kind: str, tries: Sequence[dict[str, Any]]) -> Setting:
    """Return the setting with the highest NDCG@10 on validation."""
    return type(START[kind])(**max(tries, key=lambda done: done["excluded"]["ndcg@10"])["setting"])


def finish(setting: Setting, domain: str, places: Places, epochs: int | None = None) -> dict[str, Any]:
    """Train, and evaluate on validation, unless it was done before; return the figures."""
    seed, file = SEED, path(setting, domain, places)
    config = setting.training(seed, epochs)
    said: dict[str, Any] = {"setting": asdict(setting), "seed": seed, "part": "validation", "training": asdict(config)}
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if any(kept[name] != value for name, value in said.items()):
            raise SystemExit(f"{file} is of other settings. Delete it, or pass another --work.")
        return kept
    users = Users.of(domain, places.data)
    recommender: SequenceRecommender
    if isinstance(setting, HybridSetting):
        items = TokenTable.of(semantic_ids(UNITOK, users, seed, places), by_expert=True)
        recommender = setting.recommender(items, users.histories, users.content, seed)
    else:
        assert isinstance(setting, SasrecSetting)
        recommender = setting.recommender(users.num_items, seed)
    history = train(recommender, users.histories, config, directory=file.with_suffix(""))
    scores = evaluate(recommender, users.histories.queries("validation"))
    reached = {f"{metric}@10": float(scores.values(metric).mean()) for metric in ("recall", "ndcg")}
    seconds = sum(epoch["seconds"] for epoch in history)
    said |= {"seconds": seconds, "epochs": history, "origin": origin(), "excluded": reached}
    with whole_file(file) as partial:
        partial.write_text(json.dumps(said))
    shutil.rmtree(file.with_suffix(""))
    return said


def keep(kind: str, domain: str, tries: Sequence[dict[str, Any]], results: Path) -> None:
    """Write what was tried and chosen, beside what is there."""
    kept = json.loads(results.read_text()) if results.exists() else {}
    plain = [
        {
            "setting": done["setting"],
            **{f"validation {metric}": value for metric, value in done["excluded"].items()},
            "epochs": len(done["epochs"]),
            "seconds": round(done["seconds"]),
        }
        for done in tries
    ]
    entry = {"chosen": asdict(best(kind, tries)), "tries": plain, "origin": tries[-1]["origin"]}
    kept.setdefault(kind, {})[domain] = entry
    results.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(results) as partial:
        partial.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def chosen(kind: str, domain: str, results: Path) -> tuple[Setting, str | None]:
    """Return the setting of a catalogue, and the catalogue on which it was chosen; None if none was searched yet."""
    found = json.loads(results.read_text()).get(kind, {}) if results.exists() else {}
    others = OTHERS if domain in SMALL else OTHERS[::-1]
    where = next((name for name in (domain, *others) if name in found), None)
    return (START[kind] if where is None else type(START[kind])(**found[where]["chosen"])), where


def tried(kind: str, results: Path, domains: Sequence[str] | None = None) -> list[str]:
    """Write what was tried as the lines of a table, what was chosen in bold."""
    found = json.loads(results.read_text()).get(kind, {}) if results.exists() else {}
    head = ("catalogue", "setting", "validation Recall@10", "validation NDCG@10", "epochs", "minutes")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for domain in found if domains is None else domains:
        for done in found[domain]["tries"]:
            setting = str(type(START[kind])(**done["setting"])).replace(",", ", ")
            if done["setting"] == found[domain]["chosen"]:
                setting = f"**{setting}**"
            reached = [f"{done[f'validation {metric}@10']:.4f}".removeprefix("0") for metric in ("recall", "ndcg")]
            row = [domain, setting, *reached, str(done["epochs"]), f"{done['seconds'] / 60:.1f}"]
            lines.append(f"| {' | '.join(row)} |")
    return lines if len(lines) > 2 else []


if __name__ == "__main__":
    main()
