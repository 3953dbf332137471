"""Fit every preset on a catalogue and write what came out to docs/results: `python benchmarks/study.py DATA`.

Each run is kept as JSON under --work as soon as it ends, so an interrupted study goes on where it stopped. Tables are
written between the markers of docs/results/presets.md; the text around them is written by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
from study_plots import draw_study

from unitok import LossWeights, Tokenizer, UniTokConfig, metrics
from unitok.data import find_domains, read_catalogue

ONE = LossWeights(beta=1.0)  # what the paper's unstated beta is most often read as
OFF = LossWeights(beta=1.0, calibration=0.0)
RUNS = {
    "single codebook": UniTokConfig(num_experts=0, weights=ONE),
    "normalised (default)": UniTokConfig(preset="normalised"),
    "normalised, L_mi on CKA": UniTokConfig(preset="normalised", normalised_hsic=True),
    "normalised, beta 1": UniTokConfig(preset="normalised", weights=ONE),
    "normalised, L_mi on CKA, beta 1": UniTokConfig(preset="normalised", normalised_hsic=True, weights=ONE),
    "normalised, no L_mi": UniTokConfig(preset="normalised", weights=OFF),
    "normalised, beta 1, top-2": UniTokConfig(preset="normalised", weights=ONE, top_k=2),
    "shared_first, beta 1": UniTokConfig(preset="shared_first", weights=ONE),
    "paper, beta 1": UniTokConfig(preset="paper", weights=ONE),
    "public_code, beta 1": UniTokConfig(preset="public_code", weights=ONE),
}
PAGE = Path("docs/results/presets.md")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def main() -> None:
    """Run what is missing, then write tables, figures and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one folder a domain")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where finished runs are kept")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=RUNS, help="fit these runs only")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, config in RUNS.items():
        if options.only is None or name in options.only:
            fit_once(name, dataclasses.replace(config, epochs=options.epochs, seed=options.seed), options)
    results = {name: json.loads(path.read_text()) for name in RUNS if (path := kept(options.work, name)).exists()}
    write_page(results, list(published(options.data)))
    draw_study(results, PAGE.parent)


def kept(work: Path, name: str) -> Path:
    """Name the file of a finished run."""
    return work / f"{re.sub('[^a-zA-Z0-9-]+', '_', name).strip('_')}.json"


def fit_once(name: str, config: UniTokConfig, options: argparse.Namespace) -> None:
    """Fit and measure one run, unless it is kept from before."""
    path = kept(options.work, name)
    if path.exists():
        if json.loads(path.read_text())["config"] != json.loads(json.dumps(config.to_dict())):
            raise SystemExit(f"{path} is of other settings. Delete it, or pass another --work.")
        return
    catalogue = read_catalogue(options.data)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=None)
        tokenizer = Tokenizer.fit(
            {key: domain.embeddings for key, domain in catalogue.items()},
            config,
            directory=options.work / path.stem,
            progress=lambda done, total, _: bar.update(task, completed=done, total=total),
        )
    tokenizer.save_pretrained(options.work / path.stem, force=True)
    report = tokenizer.report({key: domain.embeddings for key, domain in catalogue.items()})
    figures = {
        "config": config.to_dict(),
        "report": report.to_dict(),
        "history": tokenizer.history,
        "origin": origin(),
    }
    path.write_text(json.dumps(figures, indent=1))


def origin() -> dict[str, Any]:
    """Tell machine, date and commit."""
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


def published(data: Path) -> Iterator[dict[str, Any]]:
    """Measure the tokens that others published for the same items."""
    for domain, folder in find_domains(data).items():
        for file in sorted(folder.glob("published_tokens*.parquet")):
            table = pq.read_table(file)
            columns = [torch.from_numpy(table[c].to_numpy().copy()).long() for c in ("t0", "t1", "t2", "t3", "expert")]
            codes, experts = torch.stack(columns[:4], 1), columns[4].clamp(min=0)  # -1 where there are no experts
            variant = file.stem.removeprefix("published_tokens").strip("_") or "unitok"
            yield {
                "domain": domain,
                "tokens": "LETTER" if variant == "letter" else f"UniTok {variant}".replace(" unitok", ""),
                "collision_rate": metrics.collision_rate(torch.cat([codes, experts[:, None]], 1)),
                "level_bits": metrics.level_entropy_given_expert(codes, experts).tolist(),
                "token_entropy": metrics.token_entropy(codes),
            }


def write_page(results: dict[str, Any], tokens: list[dict[str, Any]]) -> None:
    """Put the tables into the page, between its markers."""
    if not results:
        return
    first = next(iter(results.values()))
    runs_at: dict[str, list[str]] = {}
    for name, run in results.items():
        runs_at.setdefault(run["origin"]["commit"], []).append(name)
    commit = max(runs_at, key=lambda c: len(runs_at[c]))
    commit += "".join(f" ({', '.join(names)}: {c})" for c, names in runs_at.items() if c != commit)
    base = results.get("single codebook", {}).get("report", {}).get("overall", {}).get("error_of_latents")
    lines = [
        f"Measured {first['origin']['date']} at commit {commit} on {first['origin']['machine']} a run; "
        f"seed {first['config']['seed']}, {first['config']['epochs']} epochs.",
        "",
        "| run | collisions, all | Beauty | Yelp | after resolver | z error | / single codebook | by ID | x error "
        "| by ID | token bits of 10 | fewest bits a level, given the expert | least expert load |",
        "|---|" + "---|" * 12,
    ]
    for name, run in results.items():
        report, overall = run["report"], run["report"]["overall"]
        ratio = f"{overall['error_of_latents'] / base:.2f}" if base else ""
        cells = [
            f"{overall['collision_rate']:.2%}",
            *(
                f"{report['domains'][d]['collision_rate']:.2%}" if d in report["domains"] else ""
                for d in ("beauty", "yelp")
            ),
            f"{overall['resolved_collision_rate']:.2%}",
            f"{overall['error_of_latents']:.4f}",
            ratio,
            f"{overall['error_of_latents_by_id']:.4f}",
            f"{overall['reconstruction']:.4f}",
            f"{overall['reconstruction_by_id']:.4f}",
            f"{report['token_entropy']:.2f}",
            f"{min(report['level_entropy_given_expert']):.2f}",
            f"{min(report['expert_load']):.2%}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| run | HSIC, mean over domains | Var of HSIC | CKA, mean | Var of CKA | x error |",
        "|---|" + "---|" * 5,
    ]
    for name, run in results.items():
        domains = run["report"]["domains"].values()
        raw, cka = (torch.tensor([d[key] for d in domains if d[key] is not None]) for key in ("hsic", "cka"))
        spread = f"{raw.mean():.5f} | {raw.var(correction=0):.2e} | {cka.mean():.4f} | {cka.var(correction=0):.2e}"
        lines.append(f"| {name} | {spread} | {run['report']['overall']['reconstruction']:.4f} |")
    lines += [
        "",
        "| domain | tokens | collisions | token bits | bits a level, given the expert |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {t['domain']} | {t['tokens']} (published) | {t['collision_rate']:.2%} | {t['token_entropy']:.2f} | "
        + ", ".join(f"{bits:.2f}" for bits in t["level_bits"])
        + " |"
        for t in tokens
    ]
    head, _, tail = (PAGE.read_text() if PAGE.exists() else f"{BEGIN}\n{END}\n").partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail.partition(END)[2])
    (PAGE.parent / "presets.json").write_text(
        json.dumps({name: {k: v for k, v in run.items() if k != "history"} for name, run in results.items()}, indent=1)
    )


if __name__ == "__main__":
    main()
