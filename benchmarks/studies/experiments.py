"""Fit and measure the runs that the experiments compare, and write their pages.

python -m benchmarks.studies.experiments CATALOGUE_FOLDER

A run is a setting with a seed. When it ends, its tokenizer and its figures (JSON) are kept under --work, so that an
interrupted study continues where it stopped and experiments share runs. The tables and plots of docs/results are made
from the runs that are there; the text around them is written by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import multiprocessing
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.pages import write_pages
from unitok import LossWeights, Tokenizer, UniTokConfig, metrics
from unitok.config import PRESETS, Preset
from unitok.data import generate_catalogue, read_catalogue
from unitok.evaluation.report import DomainReport
from unitok.storage.pair import SETTINGS
from unitok.training.batches import StratifiedBatches
from unitok.training.trainer import CHECKPOINT

OFF = LossWeights(calibration=0.0)
NO_SHARED = Preset("none", renormalise=True)  # `normalised` without its shared expert


@dataclass(frozen=True)
class Run:
    """A setting that is fitted and measured.

    Attributes:
        config: without epochs and seed.
        separate: one tokenizer per domain instead of one for all, each with the same steps on its share of the batch.
        mean_start: False keeps the router's random start.
        shared: False removes the shared expert of `normalised`.
        left_out: a domain that is measured, but not fitted on.
    """

    config: UniTokConfig
    separate: bool = False
    mean_start: bool = True
    shared: bool = True
    left_out: str | None = None


DEFAULT = "normalised, top-1"
COMPARED = ("normalised", "paper", "shared_first", "public_code")
RUNS = {
    "single codebook": Run(UniTokConfig(num_experts=0, weights=OFF)),
    "separate RQ-VAEs": Run(UniTokConfig(num_experts=0, weights=OFF), separate=True),
    **{f"{name}, top-{k}": Run(UniTokConfig(preset=name, top_k=k)) for k in (1, 2) for name in COMPARED},
    "no L_mi": Run(UniTokConfig(weights=OFF)),
    "paper form, .1": Run(UniTokConfig(weights=LossWeights(calibration=0.1))),
    "paper form, 10000": Run(UniTokConfig(weights=LossWeights(calibration=1e4, beta=0.0))),
    "variation, .01": Run(UniTokConfig(calibration="variation", weights=LossWeights(calibration=0.01))),
    "variation, .03": Run(UniTokConfig(calibration="variation")),
    "no shared expert": Run(UniTokConfig(), shared=False),
    "no shared expert, no L_mi": Run(UniTokConfig(weights=OFF), shared=False),
    "no MoE": Run(UniTokConfig(num_experts=0)),
    "random start, normalised": Run(UniTokConfig(), mean_start=False),
    "random start, normalised, top-2": Run(UniTokConfig(top_k=2), mean_start=False),
    "random start, paper": Run(UniTokConfig(preset="paper"), mean_start=False),
}

# page -> the runs on it, and what each is called there
GROUPS = {
    "presets": {
        name: name + (" (default)" if name == DEFAULT else "")
        for name in ("single codebook", "separate RQ-VAEs", *(f"{p}, top-{k}" for p in COMPARED for k in (1, 2)))
    },
    "router": {
        DEFAULT: "mean start, normalised (default)",
        "random start, normalised": "random start, normalised",
        "paper, top-1": "mean start, paper",
        "random start, paper": "random start, paper",
        "normalised, top-2": "mean start, normalised, top-2",
        "random start, normalised, top-2": "random start, normalised, top-2",
    },
    "calibration": {
        "no L_mi": "weight 0",
        DEFAULT: "paper's form, .03 (default)",
        "paper form, .1": "paper's form, .1",
        "paper form, 10000": "paper's form, 10,000, beta 0",
        "variation, .01": "variation, .01",
        "variation, .03": "variation, .03",
    },
    "ablation": {
        DEFAULT: "all of it (default)",
        "no L_mi": "without L_mi",
        "no shared expert": "without the shared expert",
        "no shared expert, no L_mi": "without shared expert and L_mi",
        "no MoE": "without experts",
        "single codebook": "without experts and L_mi",
    },
}


def main() -> None:
    """Run what is missing, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments"), help="where finished runs are kept")
    parser.add_argument("--epochs", type=int, nargs="*", default=[20], help="numbers of epochs; one table for each")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--far", type=Path, help="a catalogue of items of another kind, by the same embedding model")
    parser.add_argument("--only", nargs="*", help="run only these; without names, only write the pages")
    options = parser.parse_args()
    domains = list(read_catalogue(options.data))
    runs = RUNS | {f"without {name}": Run(UniTokConfig(), left_out=name) for name in domains}
    wanted = list(runs) if options.only is None else options.only
    if unknown := set(wanted) - set(runs):
        raise SystemExit(f"--only must be among {', '.join(runs)}, got {', '.join(sorted(unknown))}.")
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        found = [
            pool.submit(finish, name, seeded(runs[name], seed, epochs), options.data, options.work)
            for epochs in options.epochs
            for seed in options.seeds
            for name in wanted
        ]
        for done in as_completed(found):
            print(done.result(), flush=True)
    studies = {
        epochs: {name: there for name, run in runs.items() if (there := list(kept(name, run, epochs, options)))}
        for epochs in options.epochs
    }
    write_pages(studies, checks(options), GROUPS, options.data)


def seeded(run: Run, seed: int, epochs: int) -> Run:
    """Give a run its seed and epochs."""
    return dataclasses.replace(run, config=dataclasses.replace(run.config, seed=seed, epochs=epochs))


def stem(name: str, run: Run) -> str:
    """Return the name of a run's files."""
    words = re.sub("[^a-zA-Z0-9.]+", "_", name).strip("_")
    return f"{words}-{run.config.epochs}-{run.config.seed}"


def finish(name: str, run: Run, data: Path, work: Path) -> str:
    """Fit and measure a run, unless it was kept earlier; say which."""
    torch.set_num_threads(1)
    path = work / f"{stem(name, run)}.json"
    settings = json.loads(json.dumps(dataclasses.asdict(run)))
    if path.exists():
        if json.loads(path.read_text())["run"] != settings:
            raise SystemExit(f"{path} is of other settings. Delete it, or pass another --work.")
        return f"{path.stem}: kept"
    items = {
        key: torch.from_numpy(domain.embeddings.astype(np.float32)) for key, domain in read_catalogue(data).items()
    }
    tokenizers = fit(run, items, work / path.stem)
    figures = {"run": settings, **measure(run, tokenizers, items), "origin": origin()}
    path.write_text(json.dumps(figures, indent=1))
    return f"{path.stem}: fitted and measured"


def kept(name: str, run: Run, epochs: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a run's figures for the seeds that are there, with the ranking result of their IDs, if there is one.

    `ranking.recommendation` may have put {"ndcg@10": ...} into ranking.json next to a run's tokenizer.
    """
    for seed in options.seeds:
        path = options.work / f"{stem(name, seeded(run, seed, epochs))}.json"
        if path.exists():
            ranking = path.with_suffix("") / "ranking.json"
            yield json.loads(path.read_text()) | {
                "ranking": json.loads(ranking.read_text()) if ranking.exists() else {}
            }


def checks(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Check catalogues far from the default tokenizer's own, and held-out items of its own, with `check_domain`."""
    run = seeded(RUNS[DEFAULT], options.seeds[0], options.epochs[0])
    folder = options.work / stem(DEFAULT, run)
    if not (folder / SETTINGS).exists():
        return {}
    tokenizer = Tokenizer.from_pretrained(folder)
    items = {name: tensor(domain.embeddings) for name, domain in read_catalogue(options.data).items()}
    width, generator = tokenizer.model.input_dim, torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        generate_catalogue(place, items_per_domain=2000, width=width, domains=["kitchen"])
        made = tensor(read_catalogue(place)["kitchen"].embeddings)
    name, first = next(iter(items.items()))
    asked = {
        "generated catalogue": made,
        f"{name}, columns permuted": first[:, torch.randperm(width, generator=generator)],
        "noise of unit length": torch.nn.functional.normalize(torch.randn(2000, width, generator=generator), dim=1),
    }
    if options.far:
        asked |= {name.replace("_", " "): tensor(d.embeddings) for name, d in read_catalogue(options.far).items()}
    asked |= {f"{name}, held out": x for name, x in held_out(items, run.config).items()}
    return {name: tokenizer.check_domain(x).to_dict() for name, x in asked.items()}


def held_out(items: dict[str, Tensor], config: UniTokConfig) -> dict[str, Tensor]:
    """Return the items that a fit keeps for validation, of domains with at least 100 of them."""
    labels = torch.repeat_interleave(torch.tensor([len(x) for x in items.values()]))
    batches = StratifiedBatches(
        labels,
        len(items),
        batch_size=config.batch_size,
        min_domain_rows=config.min_domain_rows,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
    )
    x, labels = torch.cat(list(items.values()))[batches.validation], labels[batches.validation]
    return {name: x[labels == k] for k, name in enumerate(items) if int((labels == k).sum()) >= 100}


def tensor(embeddings: np.ndarray[Any, Any]) -> Tensor:
    """Read embeddings into memory, as float32."""
    return torch.from_numpy(embeddings.astype(np.float32))


def fit(run: Run, items: dict[str, Tensor], folder: Path) -> dict[str, Tokenizer]:
    """Fit the tokenizer or tokenizers of a run; return the one for each domain."""
    parts = {name: x for name, x in items.items() if name != run.left_out}
    groups = [{name: x} for name, x in parts.items()] if run.separate else [parts]
    total = sum(map(len, parts.values()))
    found = {}
    for group in groups:
        place = folder / next(iter(group)) if run.separate else folder
        with _changed(run):
            if (place / SETTINGS).exists():
                tokenizer = Tokenizer.from_pretrained(place)
            else:
                rows = math.ceil(run.config.batch_size * sum(map(len, group.values())) / total)
                config = dataclasses.replace(run.config, batch_size=rows)
                tokenizer = Tokenizer.fit(group, config, directory=place)
                tokenizer.save_pretrained(place)
                (place / CHECKPOINT).unlink()
        found |= dict.fromkeys(items if len(groups) == 1 else group, tokenizer)
    return found


@contextmanager
def _changed(run: Run) -> Iterator[None]:
    """Remove from the library the parts that a run leaves out."""
    with ExitStack() as changes:
        if not run.mean_start:  # the router keeps its start and then follows the gradient
            changes.enter_context(patch("unitok.training.trainer.place_router", lambda *_: None))
        if not run.shared:
            changes.enter_context(patch.dict(PRESETS, normalised=NO_SHARED))
        yield


def measure(run: Run, tokenizers: dict[str, Tokenizer], items: dict[str, Tensor]) -> dict[str, Any]:
    """Measure a run by its tokenizers' reports; figures of separate tokenizers are combined."""
    first = next(iter(tokenizers.values()))
    distinct = {id(tokenizer): tokenizer for tokenizer in tokenizers.values()}.values()
    figures: dict[str, Any] = {
        "parameters": sum(p.numel() for tokenizer in distinct for p in tokenizer.model.parameters()),
        "history": first.history,
    }
    if run.left_out is not None:
        return figures | zero_shot(first, run.left_out, items)
    if not run.separate:
        return figures | {"report": first.report(items).to_dict()}
    reports = {name: tokenizers[name].report(x, name) for name, x in items.items()}
    total = sum(map(len, items.values()))
    keys = [f.name for f in dataclasses.fields(DomainReport) if f.name not in ("items", "hsic", "cka")]
    overall = {key: sum(getattr(r.overall, key) * r.overall.items for r in reports.values()) / total for key in keys}
    ids = [tokenizers[name].tokenize(x) for name, x in items.items()]
    codes = torch.cat([i.codes for i in ids])
    return figures | {
        "report": {
            "domains": {name: dataclasses.asdict(report.domains[name]) for name, report in reports.items()},
            "overall": overall,
            "token_entropy": metrics.token_entropy(codes),
        }
    }


def zero_shot(tokenizer: Tokenizer, name: str, items: dict[str, Tensor]) -> dict[str, Any]:
    """Measure the domain that was left out: its check, its report, and its report with an expert of its own."""
    x = items[name]
    found = {"check": tokenizer.check_domain(x).to_dict(), "report": tokenizer.report({name: x}).to_dict()}
    tokenizer.add_domain(name, x)
    return found | {"added": tokenizer.report({name: x}).to_dict()}


def origin() -> dict[str, Any]:
    """Return machine, date and commit."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


if __name__ == "__main__":
    main()
