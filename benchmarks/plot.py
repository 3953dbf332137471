"""The plot of a run: the time of every level of every case, relative to ours."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.harness import Record

# Okabe and Ito's colours, which colour-blind people can tell apart; the markers differ as well.
FAMILIES = {
    "ours": ("#000000", "D"),
    "torch.compile": ("#E69F00", "s"),
    "torch": ("#D55E00", "o"),
    "faiss": ("#0072B2", "^"),
    "vector-quantize-pytorch": ("#CC79A7", "v"),
    "scikit-learn": ("#009E73", "P"),
    "k-means-constrained": ("#56B4E9", "X"),
    "flash-kmeans": ("#F0E442", "<"),
    "rectokens": ("#999999", ">"),
}


def number(value: float | None) -> str:
    """Format with three significant digits, without an exponent; blank for None."""
    if not value:
        return "" if value is None else "0"
    value = float(f"{value:.3g}")
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def family(level: str) -> str | None:
    """Name the library that a level belongs to; None if the level does another job."""
    return next((name for name in FAMILIES if level.startswith(name)), None)


def draw_speed(records: list[Record], path: Path) -> None:
    """Draw one row per case, ours at 1, slower levels to the right; our other levels have hollow markers."""
    cases = list(dict.fromkeys((r.operation, r.case) for r in records))
    figure, axis = plt.subplots(figsize=(11, 1.6 + 0.36 * len(cases)), layout="constrained")
    labelled: set[str] = set()
    for record in records:
        if (name := family(record.level)) is None:
            continue
        place = cases.index((record.operation, record.case))
        colour, marker = FAMILIES[name]
        is_first = record.ratio == 1
        hollow = name == "ours" and not is_first
        label = "ours, other levels" if hollow else name
        axis.plot(
            record.ratio,
            place,
            marker,
            color=colour,
            markerfacecolor="none" if hollow else colour,
            markersize=5 if hollow else 8,
            linestyle="none",
            label=None if label in labelled else label,
        )
        labelled.add(label)
    names = []
    for operation, case in cases:
        first = next(r for r in records if (r.operation, r.case) == (operation, case))
        names.append(f"{operation}: {case}   {number(first.min_ms)} ms")
    axis.set_yticks(range(len(cases)), names, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} x")
    axis.grid(axis="both", color="0.9", which="major")
    axis.set_axisbelow(True)
    axis.set(xlabel="time, relative to ours (shorter to the left); in the labels ours in ms")
    where = {f"{r.device}, {r.threads} threads, {r.instruction_set}, torch {r.torch}" for r in records}
    axis.set_title("\n".join(sorted(where)), fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
