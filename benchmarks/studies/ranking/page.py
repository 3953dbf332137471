"""The page of `benchmarks.studies.ranking.recommendation`: tables per catalogue, the same as JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.studies.pages import write
from benchmarks.studies.ranking.item_ids import BEHAVIOUR, KMEANS, PUBLISHED, RANDOM, SINGLE, UNITOK
from benchmarks.studies.ranking.public_figures import public_table
from benchmarks.studies.ranking.settings import chosen, tried
from unitok.recommender import Evaluation
from unitok.recommender.evaluation.item_level import FURTHER, written

Figures = dict[str, Any]

POPULARITY, CHAIN, KNN, CONTENT = "popularity", "Markov chain, tuned", "item-kNN, tuned", "Markov + content"
SASREC, TIGER = "SASRec, tuned", "TIGER"
IDS = (RANDOM, *PUBLISHED, KMEANS, SINGLE, UNITOK, BEHAVIOUR)
NO_IDS, NO_TRIE, NO_MEMORY = "SASRec with memory and head", "trie loss off", "memory off"
NO_START, NO_CONTENT, OLD = "start off", "content off", "RQRecommender"
ABLATIONS = (NO_IDS, NO_TRIE, NO_MEMORY, NO_START, NO_CONTENT, OLD)
COLD_HYBRID, COLD_CHAIN, COLD_CONTENT = (f"{name}, cold split" for name in (UNITOK, CONTENT, "content alone"))
COLD = (COLD_HYBRID, COLD_CHAIN, COLD_CONTENT)
BARS = (CONTENT, SASREC)  # what all others are compared with
KINDS = {"sasrec": SASREC, "hybrid": "the recommender of all IDs"}


@dataclass(frozen=True)
class Catalogue:
    """A domain's finished runs.

    Attributes:
        domain: its name.
        runs: by the recommender's name, one per seed, their scores as `Scores` by protocol.
        missing: recommenders without a run.
    """

    domain: str
    runs: dict[str, list[Figures]]
    missing: Sequence[str]

    def evaluation(self, protocol: str, names: Iterable[str], bars: Sequence[str] = (), what: str = "scores") -> Any:
        """Put some recommenders side by side; None if none of them has run."""
        runs = {
            name: [run[what][protocol] for run in self.runs[name] if run[what]]
            for name in names
            if name in self.runs and any(run[what] for run in self.runs[name])
        }
        return Evaluation(self.domain, runs, [bar for bar in bars if bar in runs]) if runs else None

    @property
    def ours(self) -> str | None:
        """UniTok's IDs with behaviour or without, whichever is better on validation."""
        found = {name: self.validation(name) for name in (UNITOK, BEHAVIOUR) if name in self.runs}
        return max(found, key=lambda name: found[name]) if found else None

    @property
    def main(self) -> list[str]:
        """Recommenders of whole training on the usual queries, the best first; neither ablations nor cold ones."""
        found = [name for name in self.runs if name not in (*ABLATIONS, *COLD)]
        evaluation = self.evaluation("excluded", found)
        return sorted(found, key=lambda name: -evaluation.figures(name)[0])

    def validation(self, name: str) -> float:
        """NDCG@10 on validation, the mean over seeds."""
        return mean(run["validation"] for run in self.runs[name])


def write_page(page: Path, catalogues: Iterable[Catalogue], settings: Path) -> None:
    """Write tables, figures and plot of the finished runs; one catalogue's are read at a time."""
    lines: list[str] = []
    beams, colds, origins, plain, drawn = [], [], [], [], {}
    ours: dict[str, dict[str, tuple[float, float]]] = {}
    for each in catalogues:
        lines += ["", f"### {each.domain}", "", *domain_tables(each, settings)]
        beams += beam_rows(each)
        colds += cold_rows(each)
        origins += [run["origin"] for seeds in each.runs.values() for run in seeds]
        for protocol in ("excluded", "included"):
            found = [each.evaluation(protocol, names, BARS) for names in (each.main, (UNITOK, *ABLATIONS), COLD)]
            plain += [evaluation.to_dict() for evaluation in found if evaluation is not None]
            if each.ours:
                best = each.evaluation(protocol, [each.ours])
                figures = tuple(best.figures(each.ours, metric)[0] for metric in ("recall", "ndcg"))
                ours.setdefault(protocol, {})[each.domain] = figures
        if each.main:
            drawn[each.domain] = {
                name: [each.evaluation(protocol, [name]).figures(name) for protocol in ("excluded", "included")]
                for name in each.main
            }
    parts = (("Beam of 200, reranked", BEAM, beams), ("Cold items", COLD_HEAD, colds))
    for title, head, rows in parts:
        lines += ["", f"### {title}", "", *(grid(head, rows) if rows else ["Not run."])]
    lines += [
        "",
        "### Public figures",
        "",
        *public_table(ours),
        "",
        "### Settings tried",
        "",
        *settings_tables(settings),
    ]
    if (beam := page.with_name("beam.json")).exists():
        lines += ["", *race_table(json.loads(beam.read_text()))]
    write(page, [*origin_lines(origins), *lines])
    page.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
    if drawn:
        draw(drawn, page.with_suffix(".png"))


def origin_lines(origins: Sequence[Figures]) -> list[str]:
    """Say where and when the runs were made."""
    if not origins:
        return ["No run has finished yet."]
    commits, dates, machines = (sorted({o[key] for o in origins}) for key in ("commit", "date", "machine"))
    return [f"Measured {' and '.join(dates)} at {', '.join(commits)} on {'; '.join(machines)} per run."]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def domain_tables(found: Catalogue, settings: Path) -> list[str]:
    """Return a catalogue's tables: the figures, the differences, and where the recommender's come from."""
    lines = []
    for kind, name in KINDS.items():
        setting, where = chosen(kind, found.domain, settings)
        how = "chosen here" if where == found.domain else f"chosen on {where}" if where else "the first of the search"
        lines.append(f"Setting of {name}, {how}: {str(setting).replace(',', ', ')}.")
    lines = [" ".join(lines)]
    if found.missing:
        lines += ["", f"Not run: {'; '.join(found.missing)}."]
    for names, others in ((found.main, False), ([n for n in (UNITOK, *ABLATIONS) if n in found.runs], True)):
        if not names or (names == [UNITOK] and others):
            continue
        if others:
            lines += ["", f"Where it comes from, on {UNITOK}:" if UNITOK in names else "Where it comes from:"]
        lines += ["", *figures_table(found, names), "", *differences_table(found, names, others)]
    return lines


def figures_table(found: Catalogue, names: Sequence[str]) -> list[str]:
    """Return the table of some recommenders' figures."""
    excluded, included = (found.evaluation(protocol, names) for protocol in ("excluded", "included"))
    head = ["recommender", "seeds", "Recall@5", "Recall@10", "NDCG@5", "NDCG@10", "Recall@10, history included"]
    head += ["NDCG@10, history included", "Recall@10 by token", "NDCG@10 on validation", "distinct IDs", "parameters"]
    rows = []
    for name in names:
        seeds = found.runs[name]
        cells = [written(*excluded.figures(name, metric, k)) for metric in ("recall", "ndcg") for k in (5, 10)]
        cells += [written(*included.figures(name, metric)) for metric in ("recall", "ndcg")]
        cells += [written(*excluded.figures(name, "recall", level="token")) if seeds[0].get("tokens", 1) > 1 else ""]
        cells += [written(found.validation(name), None)]
        cells += [f"{seeds[0][key]:,}" if key in seeds[0] else "" for key in ("distinct", "parameters")]
        cells += [", ".join(str(len(run["history"])) for run in seeds) if "history" in seeds[0] else "", minutes(seeds)]
        cells += [f"{seeds[0]['memory'] / 2**20:.1f}" if "memory" in seeds[0] else ""]
        rows.append([name, str(len(seeds)), *cells])
    queries = len(next(iter(excluded.runs.values()))[0])
    return [f"{queries:,} queries.", "", *grid([*head, "epochs", "minutes", "memory, MiB"], rows)]


def minutes(seeds: Sequence[Figures]) -> str:
    """Format the mean time of the runs that weren't interrupted."""
    whole = [run["seconds"] / 60 for run in seeds if not run["resumed"]]
    return f"{mean(whole):.1f}" if whole else ""


def differences_table(found: Catalogue, names: Sequence[str], ablation: bool) -> list[str]:
    """Return the table of the differences from the baselines, or of the ablations from what they lack a part of."""
    bars = [bar for bar in ((UNITOK,) if ablation else BARS) if bar in found.runs]
    if not bars:
        return []
    evaluation = found.evaluation("excluded", {*names, *bars}, bars)
    rows = [[name, *("" if name == bar else difference(evaluation, name, bar) for bar in bars)] for name in names]
    return grid(["NDCG@10", *(f"minus {bar}" for bar in bars)], rows)


def difference(evaluation: Evaluation, name: str, baseline: str) -> str:
    """Format a difference with its interval and p."""
    found = evaluation.against(name, baseline)
    low, high = (f"{value:+.4f}".replace("0.", ".", 1) for value in (found.low, found.high))
    p = f"p {found.p:.4f}" if found.p > 1e-4 else "p < .0001"
    return f"{found.mean:+.4f}".replace("0.", ".", 1) + f" [{low}, {high}], {p}"


BEAM = ("catalogue", "history", "queries", "all items scored, NDCG@10", "beam, NDCG@10", "ratio")


def beam_rows(found: Catalogue) -> list[list[str]]:
    """Compare the search of 200 prefixes, reranked, with scores of all items: the same weights and queries."""
    rows = []
    for protocol in ("excluded", "included"):
        exact, beam = (found.evaluation(protocol, [UNITOK], what=what) for what in ("exact", "beam"))
        if beam is not None:
            reached = [each.figures(UNITOK)[0] for each in (exact, beam)]
            ratio = reached[1] / reached[0] if reached[0] else 1.0
            queries = len(beam.runs[UNITOK][0])
            rows.append([found.domain, protocol, f"{queries:,}", *(written(r, None) for r in reached), f"{ratio:.3f}"])
    return rows


COLD_HEAD = ["catalogue", "recommender", "seeds", "cold targets", f"Recall@{FURTHER}, cold", "NDCG@10, warm"]
COLD_HEAD += ["NDCG@10, warm, without the split", "change"]


def cold_rows(found: Catalogue) -> list[list[str]]:
    """Show how targets that were left out of training are found, and what the others lose by that."""
    rows: list[list[str]] = []
    if (evaluation := found.evaluation("excluded", COLD)) is None:
        return rows
    for name, whole in ((COLD_HYBRID, UNITOK), (COLD_CHAIN, CONTENT), (COLD_CONTENT, None)):
        if name not in found.runs:
            continue
        cold = found.runs[name][0]["scores"]["excluded"].cold
        warm = evaluation.figures(name, targets="warm")
        cells = [f"{int(cold.sum()):,}", written(*evaluation.figures(name, "recall", FURTHER, targets="cold"))]
        cells += [written(*warm), "", ""]
        seeds = {run["run"]["seed"] for run in found.runs[name]}
        same = [run for run in found.runs.get(whole, ()) if run["run"]["seed"] in seeds] if whole else []
        if len(same) == len(seeds):
            before = [float(run["scores"]["excluded"].values()[~cold].mean()) for run in same]
            deviation = stdev(before) if len(before) > 1 else None
            cells[-2:] = [written(mean(before), deviation), f"{warm[0] / mean(before) - 1:+.1%}"]
        rows.append([found.domain, name, str(len(seeds)), *cells])
    return rows


def settings_tables(settings: Path) -> list[str]:
    """Return a table of all settings that were tried for each kind."""
    lines = []
    for kind, name in KINDS.items():
        lines += [f"For {name}, what was chosen in bold:", "", *(tried(kind, settings) or ["Not searched."]), ""]
    return lines


def race_table(rows: Sequence[Figures]) -> list[str]:
    """Return the table that compares the beam search with that of transformers."""
    head = ["catalogue", "users", "beam", "ours, s", "transformers, s", "ratio", "equal lists", "machine", "commit"]
    cells = [
        [
            row["catalogue"],
            *(f"{row[key]:,}" for key in ("users", "beam")),
            *(f"{row[key]:.1f}" for key in ("ours", "transformers", "ratio")),
            f"{row['alike']:.1%}",
            *(row["origin"][key] for key in ("machine", "commit")),
        ]
        for row in rows
    ]
    return ["### Beam search", "", *grid(head, cells)]


def draw(found: dict[str, dict[str, list[tuple[float, float | None]]]], path: Path) -> None:
    """Draw NDCG@10 with the history excluded and included, one panel per catalogue."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    size = (6 * columns, 4.5 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (domain, figures) in zip(axes.flat, found.items(), strict=False):
        names = list(figures)[::-1]
        for number, (label, colour) in enumerate((("excluded", "tab:blue"), ("included", "lightgrey"))):
            values = [figures[name][number] for name in names]
            axis.barh(
                [place + 0.2 - 0.4 * number for place in range(len(names))],
                [value for value, _ in values],
                0.4,
                xerr=[deviation or 0 for _, deviation in values],
                label=f"history {label}",
                color=colour,
            )
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set(title=domain, xlabel="NDCG@10, mean and deviation over seeds")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
