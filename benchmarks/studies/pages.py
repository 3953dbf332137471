"""The pages of the experiments: tables and plots from the runs that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyarrow.parquet as pq
import torch

from benchmarks.studies import plots
from unitok import metrics
from unitok.data import find_domains

FOLDER = Path(__file__).parents[2] / "docs" / "results"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
Figures = dict[str, Any]
Results = Mapping[str, Sequence[Figures]]  # a run's name -> its seeds
Columns = Mapping[str, tuple[Callable[[Figures], float | None], str]]  # heading -> (value of a run, format)


def overall(key: str) -> Callable[[Figures], float]:
    """Read a figure of all items together."""
    return lambda run: run["report"]["overall"][key]


def reported(key: str, pick: Callable[[Any], float] = float) -> Callable[[Figures], float | None]:
    """Read a figure of the report, if the run has it."""
    return lambda run: None if key not in run["report"] else pick(run["report"][key])


def equal(pick: Callable[[Sequence[float]], float]) -> Callable[[Figures], float]:
    """Read HSIC on 512 rows per domain."""
    return lambda run: pick(list(run["history"][-1]["equal_hsic"].values()))


def domain(name: str, key: str) -> Callable[[Figures], float | None]:
    """Read a figure of one domain."""
    return lambda run: run["report"]["domains"].get(name, {}).get(key)


def _cka(run: Figures) -> float:
    return mean(d["cka"] for d in run["report"]["domains"].values())


def _cka_spread(run: Figures) -> float:
    values = torch.tensor([d["cka"] for d in run["report"]["domains"].values()])
    return float(values.std(correction=0) / values.mean())


PRESETS: Columns = {
    "parameters": (lambda run: run["parameters"] / 1e6, ".2f M"),
    "collisions, all": (overall("collision_rate"), ".2%"),
    "Beauty": (domain("beauty", "collision_rate"), ".2%"),
    "Yelp": (domain("yelp", "collision_rate"), ".2%"),
    "x error": (overall("reconstruction"), ".4f"),
    "by ID": (overall("reconstruction_by_id"), ".4f"),
    "z error": (overall("error_of_latents"), ".4f"),
    "z error by ID": (overall("error_of_latents_by_id"), ".4f"),
    "token bits": (reported("token_entropy"), ".2f"),
    "with the expert": (reported("token_entropy_with_expert"), ".2f"),
    "fewest bits per level": (reported("level_entropy_given_expert", min), ".2f"),
    "least expert load": (reported("expert_load", min), ".2%"),
}
CALIBRATION: Columns = {
    "Var of HSIC": (reported("hsic_variance"), ".2e"),
    "sqrt(Var) / mean": (lambda run: run["report"]["hsic_variance"] ** 0.5 / _mean_hsic(run), ".1%"),
    "mean HSIC": (lambda run: _mean_hsic(run), ".5f"),
    "mean CKA": (_cka, ".4f"),
    "sqrt(Var) / mean of CKA": (_cka_spread, ".1%"),
    "x error": (overall("reconstruction"), ".4f"),
    "z error": (overall("error_of_latents"), ".4f"),
    "collisions, all": (overall("collision_rate"), ".2%"),
    "NDCG@10": (lambda run: run["ranking"].get("ndcg@10"), ".4f"),
}
ABLATION: Columns = {
    key: PRESETS[key]
    for key in ("parameters", "collisions, all", "Beauty", "Yelp", "x error", "by ID", "z error", "with the expert")
} | {"Var of HSIC": CALIBRATION["Var of HSIC"], "NDCG@10": CALIBRATION["NDCG@10"]}
ROUTER: Columns = {
    "router entropy, bits, first epoch": (lambda run: _entropy(run, 1), ".3f"),
    "last": (lambda run: _entropy(run, -1), ".3f"),
    "items with their domain's main expert, first": (lambda run: _purity(run, 1), ".1%"),
    "last ": (lambda run: _purity(run, -1), ".1%"),
    "distinct main experts of 8": (lambda run: _mains(run), ".0f"),
    "least expert load": (reported("expert_load", min), ".2%"),
    "collisions, all": (overall("collision_rate"), ".2%"),
    "x error": (overall("reconstruction"), ".4f"),
    "z error": (overall("error_of_latents"), ".4f"),
}


def _mean_hsic(run: Figures) -> float:
    return mean(d["hsic"] for d in run["report"]["domains"].values())


def _entropy(run: Figures, epoch: int) -> float:
    return mean(run["history"][epoch]["router_entropy"].values())


def _purity(run: Figures, epoch: int) -> float:
    return mean(max(column) for column in zip(*run["history"][epoch]["expert_by_domain"], strict=True))


def _mains(run: Figures) -> float:
    columns = zip(*run["history"][-1]["expert_by_domain"], strict=True)
    return len({max(range(len(column)), key=column.__getitem__) for column in columns})


def table(
    results: Results, names: Sequence[str], columns: Columns, rename: Mapping[str, str] | None = None
) -> list[str]:
    """Return a table with one line per run: the mean over its seeds, and the standard deviation of several."""
    lines = [f"| run | seeds | {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) + 1)]
    for name in names:
        if runs := results.get(name):
            cells = [_cell([value(run) for run in runs], form) for value, form in columns.values()]
            lines.append(f"| {(rename or {}).get(name, name)} | {len(runs)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    form, _, unit = form.partition(" ")
    if not known:
        return ""
    spread = f" ± {stdev(known):{form.lstrip('+')}}" if len(known) > 1 and stdev(known) > 0 else ""
    return f"{mean(known):{form}}{spread}{unit and ' ' + unit}"


def zero_shot_table(results: Results, base: str) -> list[str]:
    """Return a table of the left-out domains: the check's prediction, and the results."""
    lines = [
        "| left out | score | weakest part | x error by ID, fitted with it | left out | own expert added "
        "| collisions, fitted with it | left out | own expert added |",
        "|---|---:|---|" + "---:|" * 6,
    ]
    seeds = {run["run"]["config"]["seed"]: run for run in results.get(base, ())}
    for runs in results.values():
        for run in runs:
            name, fitted = run["run"]["left_out"], seeds.get(run["run"]["config"]["seed"])
            if name is None or fitted is None:
                continue
            parts = run["check"]["parts"]
            three = [r["domains"][name] for r in (fitted["report"], run["report"], run["added"])]
            cells = [f"{d['reconstruction_by_id']:.4f}" for d in three] + [f"{d['collision_rate']:.2%}" for d in three]
            weakest = min(parts, key=parts.__getitem__).replace("_", " ")
            lines.append(f"| {name} | {run['check']['score']:.2f} | {weakest} | {' | '.join(cells)} |")
    return [*lines, ""]


def asked_table(far: Mapping[str, Figures]) -> list[str]:
    """Return a table of what the default tokenizer's check says about far catalogues and its own held-out items."""
    keys = ("router_confidence", "quantisation_error", "reconstruction_error", "collision_rate")
    lines = [f"| catalogue | score | {' | '.join(k.replace('_', ' ') for k in keys)} |", "|---|" + "---:|" * 5]
    worst = next(iter(far.values()), {"reference": dict.fromkeys(keys, 0.0)})["reference"]
    rows = {"(worst training domain)": {"score": 1.0, "figures": worst}, **far} if far else {}
    for name, found in rows.items():
        cells = " | ".join(f"{found['figures'][key]:.4f}" for key in keys)
        lines.append(f"| {name} | {found['score']:.2f} | {cells} |")
    return [*lines, ""]


def published(data: Path) -> Iterator[dict[str, Any]]:
    """Measure the tokens that others published for the same items."""
    for name, folder in find_domains(data).items():
        for file in sorted(folder.glob("published_tokens*.parquet")):
            rows = pq.read_table(file)
            columns = [torch.from_numpy(rows[c].to_numpy().copy()).long() for c in ("t0", "t1", "t2", "t3", "expert")]
            codes, experts = torch.stack(columns[:4], 1), columns[4].clamp(min=0)  # -1 if there are no experts
            variant = file.stem.removeprefix("published_tokens").strip("_") or "unitok"
            yield {
                "domain": name,
                "tokens": "LETTER" if variant == "letter" else f"UniTok {variant}".replace(" unitok", ""),
                "collision_rate": metrics.collision_rate(torch.cat([codes, experts[:, None]], 1)),
                "level_bits": metrics.level_entropy_given_expert(codes, experts).tolist(),
                "token_entropy": metrics.token_entropy(codes),
            }


def published_table(data: Path) -> list[str]:
    """Return a table of the published tokens."""
    return [
        "| domain | tokens | collisions | token bits | bits per level, given the expert |",
        "|---|---|---:|---:|---|",
        *(
            f"| {t['domain']} | {t['tokens']} (published) | {t['collision_rate']:.2%} | {t['token_entropy']:.2f} | "
            + ", ".join(f"{bits:.2f}" for bits in t["level_bits"])
            + " |"
            for t in published(data)
        ),
    ]


def origin_line(results: Results) -> str:
    """Say where and when the runs were made."""
    runs = [run for group in results.values() for run in group]
    commits = sorted({run["origin"]["commit"] for run in runs})
    dates = sorted({run["origin"]["date"] for run in runs})
    epochs = sorted({run["run"]["config"]["epochs"] for run in runs})
    return (
        f"Measured {' and '.join(dates)} at {', '.join(commits)} on {runs[0]['origin']['machine']} per run; "
        f"{', '.join(map(str, epochs))} epochs; mean ± standard deviation over the seeds 0, 1, ..."
    )


def write(page: Path, lines: Sequence[str]) -> None:
    """Put the tables into a page, between its markers."""
    head, _, tail = (page.read_text() if page.exists() else f"{BEGIN}\n{END}\n").partition(BEGIN)
    page.write_text(head + BEGIN + "\n" + "\n".join(lines).rstrip("\n") + "\n" + END + tail.partition(END)[2])


def compare_with_fitted(results: Results, base: str) -> list[tuple[str, float, float, float]]:
    """Return each left-out domain's score, and its x error and collisions relative to a fit that included it."""
    fitted = {run["run"]["config"]["seed"]: run for run in results.get(base, ())}
    points = []
    for run in (run for runs in results.values() for run in runs):
        name, with_it = run["run"]["left_out"], fitted.get(run["run"]["config"]["seed"])
        if name is not None and with_it is not None:
            ratios = [
                run["report"]["domains"][name][key] / with_it["report"]["domains"][name][key]
                for key in ("reconstruction_by_id", "collision_rate")
            ]
            points.append((name, run["check"]["score"], *ratios))
    return points


def paired_table(results: Results, names: Mapping[str, str], base: str) -> list[str]:
    """Return a table of how each run changes Var of HSIC and L_rec from the default of the same seed."""
    lines = ["| run | seeds | Var of HSIC, ratio | L_rec, change | L_rec, by seed |", "|---|---:|---:|---:|---|"]
    against = {run["run"]["config"]["seed"]: run for run in results.get(base, ())}
    for name, title in names.items():
        pairs = [(r, against[seed]) for r in results.get(name, ()) if (seed := r["run"]["config"]["seed"]) in against]
        if name == base or not pairs:
            continue
        times = [r["report"]["hsic_variance"] / b["report"]["hsic_variance"] for r, b in pairs]
        more = [overall("reconstruction")(r) / overall("reconstruction")(b) - 1 for r, b in pairs]
        cells = (_cell(times, ".2f"), _cell(more, "+.2%"), ", ".join(f"{m:+.2%}" for m in more))
        lines.append(f"| {title} | {len(pairs)} | {' | '.join(cells)} |")
    return [*lines, ""]


def write_pages(
    studies: Mapping[int, Results], far: Mapping[str, Figures], groups: Mapping[str, Mapping[str, str]], data: Path
) -> None:
    """Write the tables of every page, and draw its plots from the number of epochs with the most runs.

    Args:
        studies: epochs -> the runs that are there.
        far: results of `check_domain` for catalogues of another kind, and for held-out items.
        groups: page -> the runs on it, and what each is called there.
        data: the catalogue, for the published tokens.
    """
    base = next(iter(groups["ablation"]))
    pages = {
        "presets": (PRESETS, plots.presets),
        "router": (ROUTER, plots.router),
        "calibration": (CALIBRATION, plots.calibration),
        "ablation": (ABLATION, plots.ablation),
    }
    for page, (columns, draw) in pages.items():
        names, lines, drawn = groups[page], [], 0
        for results in studies.values():
            there = {name: results[name] for name in names if name in results}
            if page == "router":  # older histories don't have what it shows
                there = {name: runs for name, runs in there.items() if "expert_by_domain" in runs[0]["history"][-1]}
            if len(there) < 2:
                continue
            if len(there) > drawn:
                drawn = len(there)
                draw({names[name]: runs for name, runs in there.items()}, FOLDER / f"{page}.png")
            lines += [origin_line(there), "", *table(there, list(names), columns, names)]
            if page == "calibration":
                lines += paired_table(there, names, base)
        write(FOLDER / f"{page}.md", lines + (published_table(data) if page == "presets" else []))
    best = max(studies.values(), key=lambda results: sum(name in results for name in groups["presets"]))
    curves = {title: best[name] for name, title in groups["presets"].items() if name in best}
    plots.training(curves, FOLDER / "presets_training.png")
    first = max(
        studies.values(), key=lambda results: sum(runs[0]["run"]["left_out"] is not None for runs in results.values())
    )
    if left_out := {name: runs for name, runs in first.items() if runs[0]["run"]["left_out"]}:
        compared = {**left_out, base: first.get(base, ())}
        write(FOLDER / "zero-shot.md", [origin_line(left_out), "", *zero_shot_table(compared, base), *asked_table(far)])
        plots.zero_shot(compare_with_fitted(compared, base), far, FOLDER / "zero-shot.png")
    runs = ((name, run) for results in studies.values() for name, group in results.items() for run in group)
    lines = [json.dumps({"name": name, **_without_detail(run)}) for name, run in runs]
    (FOLDER / "experiments.jsonl").write_text("\n".join(lines) + "\n")


def _without_detail(run: Figures) -> Figures:
    """Leave out what is long: the history, and tables of experts and levels."""
    plain = {key: value for key, value in run.items() if key != "history"}
    for key in ("report", "added"):
        if key in plain:
            plain[key] = {k: v for k, v in plain[key].items() if k not in ("utilisation", "perplexity", "dead_codes")}
    return plain
