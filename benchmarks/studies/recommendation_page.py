"""The page of `benchmarks.studies.recommendation`: tables per domain, the same as JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.studies.pages import write
from unitok.recommender import Evaluation, Scores
from unitok.recommender.evaluation.item_level import CUTOFFS, METRICS, written

Figures = dict[str, Any]


def write_page(page: Path, kept: Sequence[Figures], baselines: Sequence[str]) -> None:
    """Write tables, figures and plot of the finished runs."""
    runs: dict[str, dict[str, list[Figures]]] = {}
    for run in kept:
        runs.setdefault(run["run"]["domain"], {}).setdefault(run["run"]["name"], []).append(run)
    evaluations = {
        domain: Evaluation(
            domain,
            {name: [Scores.from_dict(run["scores"]) for run in seeds] for name, seeds in by_name.items()},
            [name for name in baselines if name in by_name],
        )
        for domain, by_name in runs.items()
    }
    commits, dates = (sorted({run["origin"][key] for run in kept}) for key in ("commit", "date"))
    lines = [f"Measured {' and '.join(dates)} at {', '.join(commits)} on {kept[0]['origin']['machine']} per run."]
    for domain, evaluation in evaluations.items():
        lines += ["", f"### {domain}", "", *domain_tables(evaluation, runs[domain])]
    if (beam := page.with_name("beam.json")).exists():
        lines += ["", *beam_table(json.loads(beam.read_text()))]
    write(page, lines)
    page.with_suffix(".json").write_text(json.dumps([e.to_dict() for e in evaluations.values()], indent=1) + "\n")
    draw(evaluations, page.with_suffix(".png"))


def domain_tables(evaluation: Evaluation, runs: dict[str, list[Figures]]) -> list[str]:
    """Return a domain's two tables: the figures, and the differences from the baselines."""
    names = sorted(evaluation.runs, key=lambda name: -evaluation.figures(name)[0])
    metrics = [(metric, k) for metric in METRICS for k in CUTOFFS]
    headings = [f"{'NDCG' if metric == 'ndcg' else 'Recall'}@{k}" for metric, k in metrics]
    lines = [
        f"{len(next(iter(evaluation.runs.values()))[0]):,} queries; by item, except for the two columns by token.",
        "",
        "| recommender | seeds | " + " | ".join(headings) + " | Recall@10 by token | NDCG@10 by token "
        "| tokens per item | names | parameters | epochs | minutes |",
        "|---|" + "---|" * 12,
    ]
    for name in names:
        seeds = runs[name]
        cells = [written(*evaluation.figures(name, metric, k)) for metric, k in metrics]
        cells += [written(*evaluation.figures(name, metric, 10, "token")) for metric in METRICS]
        first = seeds[0]
        cells += [f"{first[key]:,}" if key in first else "" for key in ("tokens", "names", "parameters")]
        cells += [", ".join(str(len(run["history"])) for run in seeds) if "history" in first else ""]
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} | {minutes(seeds)} |")
    lines += ["", "| NDCG@10 by item | " + " | ".join(f"minus {b}" for b in evaluation.baselines) + " |"]
    lines.append("|---|" + "---|" * len(list(evaluation.baselines)))
    for name in names:
        cells = ["" if name == b else difference(evaluation, name, b) for b in evaluation.baselines]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def minutes(seeds: Sequence[Figures]) -> str:
    """Format the mean time of the runs that weren't interrupted."""
    whole = [run["seconds"] / 60 for run in seeds if not run["resumed"]]
    return f"{mean(whole):.1f}" if whole else ""


def difference(evaluation: Evaluation, name: str, baseline: str) -> str:
    """Format a difference with its interval and p."""
    found = evaluation.against(name, baseline)
    low, high = (f"{value:+.4f}".replace("0.", ".", 1) for value in (found.low, found.high))
    p = f"p {found.p:.4f}" if found.p > 1e-4 else "p < .0001"
    return f"{found.mean:+.4f}".replace("0.", ".", 1) + f" [{low}, {high}], {p}"


def beam_table(rows: Sequence[Figures]) -> list[str]:
    """Return the table that compares the beam search with that of transformers."""
    lines = [
        "### Beam search",
        "",
        "| catalogue | users | beam | ours, s | transformers, s | ratio | equal lists | machine | commit |",
        "|---|" + "---|" * 8,
    ]
    for row in rows:
        cells = [
            *(f"{row[key]:,}" for key in ("users", "beam")),
            *(f"{row[key]:.1f}" for key in ("ours", "transformers", "ratio")),
            f"{row['alike']:.1%}",
            *(row["origin"][key] for key in ("machine", "commit")),
        ]
        lines.append(f"| {row['catalogue']} | {' | '.join(cells)} |")
    return lines


def draw(evaluations: dict[str, Evaluation], path: Path) -> None:
    """Draw NDCG@10 by item and by token, one panel per domain."""
    figure, axes = plt.subplots(
        1, len(evaluations), figsize=(6 * len(evaluations), 4.5), layout="constrained", squeeze=False
    )
    for axis, (domain, evaluation) in zip(axes[0], evaluations.items(), strict=True):
        names = sorted(evaluation.runs, key=lambda name: evaluation.figures(name)[0])
        for offset, level in ((0.2, "item"), (-0.2, "token")):
            found = [evaluation.figures(name, level=level) for name in names]
            axis.barh(
                [place + offset for place in range(len(names))],
                [value for value, _ in found],
                0.4,
                xerr=[deviation or 0 for _, deviation in found],
                label="by item" if level == "item" else "by token: inflated by collisions",
                color="tab:blue" if level == "item" else "lightgrey",
            )
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set(title=domain, xlabel="NDCG@10, mean and deviation over seeds")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
