"""The study's plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw_study(results: dict[str, Any], folder: Path) -> None:
    """Draw collisions a domain, errors, the training curves, and expert by domain, into `folder`."""
    if not results:
        return
    _draw_presets(results, folder / "presets.png")
    _draw_training(results, folder / "presets_training.png")


def _draw_presets(results: dict[str, Any], path: Path) -> None:
    names = list(results)
    domains = list(results[names[0]]["report"]["domains"])
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(17, 5), width_ratios=(3, 1.6, 1.8), layout="constrained"
    )
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        rates = [100 * results[name]["report"]["domains"][d]["collision_rate"] for d in domains]
        left.bar([i + number * width for i in range(len(domains))], rates, width, label=name)
    floors = [100 * results[names[0]]["report"]["domains"][d]["indistinguishable_rate"] for d in domains]
    left.hlines(
        floors,
        [i - width / 2 for i in range(len(domains))],
        [i + 0.8 for i in range(len(domains))],
        "black",
        label="equal inputs",
    )
    left.set_xticks([i + 0.4 for i in range(len(domains))], [d.replace("_", "\n") for d in domains], fontsize=8)
    left.set(ylabel="collisions before resolution, %", title="Items whose ID another item has")
    left.set_ylim(top=1.25 * left.get_ylim()[1])
    left.legend(fontsize=8, ncols=3, loc="upper left")

    overall = [results[name]["report"]["overall"] for name in names]
    places = range(len(names))
    middle.barh([p - 0.2 for p in places], [o["error_of_latents"] for o in overall], 0.4, label="all active chains")
    middle.barh([p + 0.2 for p in places], [o["error_of_latents_by_id"] for o in overall], 0.4, label="the ID alone")
    middle.set_yticks(places, names, fontsize=8)
    middle.invert_yaxis()
    middle.set(xscale="log", xlabel="|z - z_hat|² / |z|²", title="Quantisation error of the latents")
    middle.legend(fontsize=8)

    routed = next(name for name in names if len(results[name]["report"]["expert_load"]) > 1)
    share = results[routed]["report"]["expert_by_domain"]
    image = right.imshow(share, vmin=0, vmax=1, cmap="viridis")
    right.set_xticks(range(len(domains)), [d.replace("_", " ") for d in domains], rotation=60, ha="right", fontsize=8)
    right.set(ylabel="expert", title=f"Share of a domain's items by expert ({routed})")
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_training(results: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
    curves = {
        "L_rec": lambda record: record.get("reconstruction"),
        "collisions, %": lambda record: 100 * record["collision_rate"] if "collision_rate" in record else None,
        "HSIC in the batches, mean over domains": lambda record: _mean(record.get("hsic", {})),
        "Var over domains of HSIC in the batches": lambda record: record.get("hsic_variance"),
    }
    for axis, (title, value) in zip(axes, curves.items(), strict=True):
        for name, run in results.items():
            if "HSIC" in title and run["config"]["normalised_hsic"]:
                continue  # it logs CKA, on a scale of its own
            points = [(r["epoch"] + 1, value(r)) for r in run["history"]]
            axis.plot(*zip(*[p for p in points if p[1] is not None], strict=True), label=name)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mean(values: dict[str, float | None]) -> float | None:
    known = [v for v in values.values() if v is not None]
    return sum(known) / len(known) if known else None
