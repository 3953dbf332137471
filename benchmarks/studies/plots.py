"""The plots of the experiments; runs of several seeds are drawn as their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Figures = dict[str, Any]
Results = Mapping[str, Sequence[Figures]]
_HEAT_MAPS = 4


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _names(axis: Axes, names: Sequence[str], rotation: int = 0) -> None:
    labels = [name.replace("_", "\n" if not rotation else " ") for name in names]
    axis.set_xticks(range(len(names)), labels, fontsize=8, rotation=rotation, ha="right" if rotation else "center")


def _curve(axis: Axes, runs: Sequence[Figures], label: str, value: Callable[[Figures], float | None]) -> None:
    epochs = zip(*(run["history"] for run in runs), strict=True)
    points = [(records[0]["epoch"] + 1, [value(r) for r in records]) for records in epochs]
    kept = [(epoch, mean(values)) for epoch, values in points if None not in values]
    axis.plot(*zip(*kept, strict=True), label=label)


def presets(results: Results, path: Path) -> None:
    """Draw collisions by domain, and the errors."""
    domains = list(next(iter(results.values()))[0]["report"]["domains"])
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(17, 5), width_ratios=(3, 1.5, 1.5), layout="constrained"
    )
    width = 0.8 / len(results)
    for number, (name, runs) in enumerate(results.items()):
        rates = [100 * mean(r["report"]["domains"][d]["collision_rate"] for r in runs) for d in domains]
        left.bar([i + (number + 0.5) * width - 0.4 for i in range(len(domains))], rates, width, label=name)
    floors = [next(iter(results.values()))[0]["report"]["domains"][d]["indistinguishable_rate"] for d in domains]
    places = range(len(domains))
    left.hlines(
        [100 * f for f in floors],
        [i - 0.4 for i in places],
        [i + 0.4 for i in places],
        "black",
        label="equal inputs",
    )
    _names(left, domains)
    left.set(ylabel="%", title="Items whose ID another item has, before resolution")
    left.legend(fontsize=8, ncols=2)
    for axis, key, title in (
        (middle, "error_of_latents", "|z - z_hat|² / |z|²"),
        (right, "reconstruction", "|x - x_hat|²"),
    ):
        for shift, suffix, label in ((-0.2, "", "all active chains"), (0.2, "_by_id", "the ID alone")):
            values = [mean(r["report"]["overall"][key + suffix] for r in runs) for runs in results.values()]
            axis.barh([i + shift for i in range(len(results))], values, 0.4, label=label)
        axis.set_yticks(range(len(results)), list(results) if axis is middle else [], fontsize=8)
        axis.invert_yaxis()
        axis.set(title=title)
        axis.legend(fontsize=8)
    middle.set_xscale("log")
    _save(figure, path)


def training(results: Results, path: Path) -> None:
    """Draw what changes through training."""
    curves: dict[str, Callable[[Figures], float | None]] = {
        "L_rec, validation": lambda r: r.get("validation_reconstruction"),
        "collisions, %": lambda r: 100 * r["collision_rate"] if "collision_rate" in r else None,
        "dead codewords": lambda r: sum(r["dead_codes"]) if "dead_codes" in r else None,
    }
    figure, axes = plt.subplots(1, len(curves), figsize=(15, 4), layout="constrained")
    for axis, (title, value) in zip(axes, curves.items(), strict=True):
        for name, runs in results.items():
            _curve(axis, runs, name, value)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend(fontsize=8)
    _save(figure, path)


def router(results: Results, path: Path) -> None:
    """Draw experts by domains at some epochs, and the router's entropy."""
    figure, grid = plt.subplots(
        len(results), _HEAT_MAPS + 1, figsize=(17, 3.1 * len(results)), layout="constrained", squeeze=False
    )
    for number, (name, runs) in enumerate(results.items()):
        row = grid[number]
        history = runs[0]["history"]
        last = len(history) - 1
        for axis, epoch in zip(row, (1, 2, last // 2 + 1, last), strict=False):  # epoch 0 is the warm-up
            record = history[epoch]
            image = axis.imshow(record["expert_by_domain"], vmin=0, vmax=1, cmap="viridis", aspect="auto")
            axis.set_title(f"{name}, epoch {record['epoch'] + 1}", fontsize=9)
            axis.set_ylabel("expert")
            axis.set_xticks(range(len(record["router_entropy"])), [], fontsize=7)
            if number == len(grid) - 1:
                _names(axis, list(record["router_entropy"]), rotation=60)
        figure.colorbar(image, ax=row[_HEAT_MAPS - 1])
        for domain in history[-1]["router_entropy"]:
            _curve(row[-1], runs[:1], domain, lambda r, d=domain: r.get("router_entropy", {}).get(d))
        row[-1].set(ylim=(0, 3.1), title="router entropy, bits", xlabel="epoch")
    grid[0][-1].legend(fontsize=6)
    _save(figure, path)


def calibration(results: Results, path: Path) -> None:
    """Draw HSIC by domain, its variance through training, and what it costs."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(17, 4.5), width_ratios=(2.5, 1.5, 1.5), layout="constrained"
    )
    domains = list(next(iter(results.values()))[0]["history"][-1]["equal_hsic"])
    width = 0.8 / len(results)
    for number, (name, runs) in enumerate(results.items()):
        values = [mean(r["history"][-1]["equal_hsic"][d] for r in runs) for d in domains]
        left.bar([i + (number + 0.5) * width - 0.4 for i in range(len(domains))], values, width, label=name)
        _curve(middle, runs, name, _variance)
        for run in runs:
            right.plot(
                run["report"]["overall"]["reconstruction"], run["report"]["hsic_variance"], "o", color=f"C{number}"
            )
    _names(left, domains)
    left.set(title="HSIC on 512 rows per domain, after training")
    left.legend(fontsize=8)
    middle.set(title="its Var over domains", xlabel="epoch", yscale="log")
    right.set(title="and its price (one dot per seed)", xlabel="x error", ylabel="Var of HSIC", yscale="log")
    _save(figure, path)


def _variance(record: Figures) -> float | None:
    values = list(record.get("equal_hsic", {}).values())
    return mean((v - mean(values)) ** 2 for v in values) if values else None


def ablation(results: Results, path: Path) -> None:
    """Draw what is lost without each part, in percent of the default."""
    whole, *others = results.items()
    keys = {
        "collisions": "collision_rate",
        "x error": "reconstruction",
        "x error by ID": "reconstruction_by_id",
        "z error": "error_of_latents",
    }

    def value(runs: Sequence[Figures], key: str) -> float:
        return mean(run["report"]["overall"][key] for run in runs)

    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    width = 0.8 / max(len(others), 1)
    for number, (name, runs) in enumerate(others):
        seeds = {run["run"]["config"]["seed"] for run in runs}
        same = [run for run in whole[1] if run["run"]["config"]["seed"] in seeds]
        more = [100 * (value(runs, key) / value(same, key) - 1) for key in keys.values()]
        axis.bar([i + (number + 0.5) * width - 0.4 for i in range(len(keys))], more, width, label=name)
    _names(axis, list(keys))
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(title=f"Change from {whole[0]} of the same seeds, %", yscale="symlog")
    axis.legend(fontsize=8)
    _save(figure, path)


def zero_shot(points: Sequence[tuple[str, float, float, float]], far: Mapping[str, Figures], path: Path) -> None:
    """Draw results against the score; points: domain, score, x error and collisions relative to a fit with it."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for axis, place, title in zip(
        axes, (2, 3), ("x error by ID, left out / fitted with it", "collisions, left out / fitted with it"), strict=True
    ):
        for point in points:
            axis.plot(point[1], point[place], "o", color="C0")
            axis.annotate(point[0], (point[1], point[place]), fontsize=7, xytext=(3, 3), textcoords="offset points")
        low, high = axis.get_ylim()
        for number, (name, found) in enumerate(far.items()):
            color = "C2" if "held out" in name else "C3"
            axis.axvline(found["score"], color=color, linewidth=0.8)
            height = high - 0.05 * number * (high - low)
            axis.text(found["score"], height, name, va="top", ha="right", fontsize=7, color=color)
        axis.axvline(0.5, color="black", linestyle="--", label="threshold")
        axis.set(xlabel="score", title=title, xlim=(0, 1.05))
        axis.legend(fontsize=8)
    _save(figure, path)
