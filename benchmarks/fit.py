"""Time `unitok fit` on the CPU kernels and on the reference, and profile its training step.

python -m benchmarks.fit CATALOGUE_FOLDER        # writes docs/results/fit.md
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import provenance
from unitok import UniTokConfig, UniTokModel
from unitok.data import read_catalogue
from unitok.training.trainer import Trainer

PAGE = Path(__file__).parents[1] / "docs" / "results" / "fit.md"
STEPS = 40
SHOWN = 14


def fit(folder: Path, epochs: int, backend: str | None) -> float:
    """Return the seconds that the whole command takes."""
    environment = {k: v for k, v in os.environ.items() if k != "UNITOK_BACKEND"}
    if backend:
        environment["UNITOK_BACKEND"] = backend
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable,
            "-m",
            "unitok",
            "fit",
            str(folder),
            "--out",
            f"{out}/tokenizer",
            "--epochs",
            str(epochs),
        ]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


def started(folder: Path) -> Trainer:
    """Make a trainer on the catalogue, with initialised codebooks."""
    parts = {name: torch.from_numpy(domain.embeddings).float() for name, domain in read_catalogue(folder).items()}
    x = torch.cat(list(parts.values()))
    labels = torch.repeat_interleave(torch.tensor([len(p) for p in parts.values()]))
    torch.manual_seed(0)
    config = UniTokConfig()
    trainer = Trainer(UniTokModel(x.shape[1], len(parts), config), x, labels, list(parts), config)
    trainer._start()
    return trainer


def step_profile(trainer: Trainer) -> tuple[float, list[str]]:
    """Return milliseconds per training step, and a table of the operations that take them."""
    batches = trainer.batches.epoch(0)[:STEPS]
    for rows in batches[:5]:
        trainer._train(rows, warm=True)
    began = time.perf_counter()
    for rows in batches:
        trainer._train(rows, warm=True)
    milliseconds = 1e3 * (time.perf_counter() - began) / len(batches)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for rows in batches:
            trainer._train(rows, warm=True)
    found = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    lines = ["| operation | share of the step | calls per step |", "|---|---:|---:|"]
    for event in found[:SHOWN]:
        share, calls = 100 * event.self_cpu_time_total / total, event.count / len(batches)
        lines.append(f"| `{event.key}` | {share:.1f} % | {calls:.0f} |")
    rest = 100 * sum(event.self_cpu_time_total for event in found[SHOWN:]) / total
    return milliseconds, [*lines, f"| {len(found) - SHOWN} others | {rest:.1f} % | |"]


def page(trainer: Trainer, epochs: int, seconds: dict[str, float], milliseconds: float, table: list[str]) -> str:
    """Return the text of the page."""
    where = provenance()
    domains, items, width = len(trainer.names), len(trainer.x), trainer.x.shape[1]
    return f"""# Fitting a tokenizer on the CPU

`unitok fit` from start to end, including reading and writing: {domains} domains, {items:,} items of {width} values,
{epochs} epochs, default preset; one run per backend, one after the other.

    python -m benchmarks.fit CATALOGUE_FOLDER

{where["device"]}, {where["threads"]} threads, {where["instruction_set"]}, torch {where["torch"]}, {where["date"]},
commit {where["commit"]}

| backend | seconds | x |
|---|---:|---:|
| cpu | {seconds["cpu"]:.1f} | 1.00 |
| reference | {seconds["reference"]:.1f} | {seconds["reference"] / seconds["cpu"]:.2f} |

A training step on the CPU kernels takes {milliseconds:.1f} ms. It is spent as follows, by torch's profiler over {STEPS}
steps (self time; the profiler itself slows small operations down):

{chr(10).join(table)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogue", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    seconds = {
        name: fit(given.catalogue, given.epochs, backend)
        for name, backend in (("cpu", None), ("reference", "reference"))
    }
    trainer = started(given.catalogue)
    milliseconds, table = step_profile(trainer)
    PAGE.write_text(page(trainer, given.epochs, seconds, milliseconds, table))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
