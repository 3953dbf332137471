"""The report as a figure: experts, codebooks, entropies and collisions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unitok.evaluation.report import Report

FORMATS = ("png", "svg", "pdf")
_DARK, _LIGHT, _ACCENT = "#1f4e79", "#9dc3e6", "#d95f02"


def draw_report(report: Report, file: Path, file_format: str = "png") -> None:
    """Draw a report.

    Args:
        report: the result of `Tokenizer.report`.
        file: the file to write.
        file_format: png, svg or pdf.
    """
    from matplotlib.figure import Figure

    names = list(report.domains)
    size = 2**report.token_entropy_limit / len(report.code_entropy)
    height = 7 + 0.22 * max(len(names), len(report.expert_load))
    figure = Figure(figsize=(13, height), layout="constrained")
    (routing, collisions), (entropy, perplexity) = figure.subplots(2, 2)
    _draw_grid(
        routing,
        report.expert_by_domain,
        title="Routing: share of each domain's items per expert",
        rows=[f"expert {expert}" for expert in range(len(report.expert_load))],
        columns=names,
        form="{:.0%}",
        limit=1.0,
    )
    _draw_collisions(collisions, report)
    _draw_entropy(entropy, report)
    _draw_grid(
        perplexity,
        report.perplexity,
        title=f"Effective number of codewords in use (perplexity), of {size:.0f}",
        rows=[f"expert {expert}" for expert in range(len(report.expert_load))],
        columns=[f"level {level}" for level in range(len(report.code_entropy))],
        form="{:.0f}",
        limit=size,
    )
    figure.suptitle(
        f"{report.overall.items:,} items of {len(names)} domains: "
        f"token entropy {report.token_entropy:.2f} of {report.token_entropy_limit:.2f} bits, "
        f"relative error of the latents {report.overall.error_of_latents:.4f}",
        fontsize=13,
    )
    figure.savefig(file, dpi=140, format=file_format)


def _draw_grid(
    axes: Any, values: list[list[float]], *, title: str, rows: list[str], columns: list[str], form: str, limit: float
) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=limit, aspect="auto")
    axes.set_title(title, fontsize=11, loc="left")
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 10 else {}
    axes.set_xticks(range(len(columns)), columns, **slanted)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value >= 0.005 * limit:  # no text where it would be 0
                colour = "white" if value > 0.6 * limit else "black"
                axes.text(column, row, form.format(value), ha="center", va="center", fontsize=9, color=colour)


def _draw_collisions(axes: Any, report: Report) -> None:
    figures = {**report.domains, "all": report.overall}
    places = range(len(figures))
    before = [100 * figure.collision_rate for figure in figures.values()]
    after = [100 * figure.resolved_collision_rate for figure in figures.values()]
    floor = [100 * figure.indistinguishable_rate for figure in figures.values()]
    axes.barh([place - 0.2 for place in places], before, 0.38, color=_DARK, label="as tokenized")
    axes.barh([place + 0.2 for place in places], after, 0.38, color=_LIGHT, label="after the suffix")
    axes.plot(floor, [place - 0.2 for place in places], "|", color=_ACCENT, markersize=14, markeredgewidth=2.5)
    axes.plot([], [], "|", color=_ACCENT, markersize=10, markeredgewidth=2.5, label="identical inputs (unavoidable)")
    right = max(*before, *after, *floor, 0.1)
    for place, (first, second, low) in enumerate(zip(before, after, floor, strict=True)):
        axes.text(max(first, low) + 0.015 * right, place - 0.2, f"{first:.2f} %", va="center", fontsize=9)
        axes.text(second + 0.015 * right, place + 0.2, f"{second:.2f} %", va="center", fontsize=9, color="#666666")
    axes.set_xlim(0, 1.15 * right)
    axes.set_yticks(places, list(figures))
    axes.invert_yaxis()
    axes.set_title("Collision rate: 1 - distinct IDs / items, in %", fontsize=11, loc="left")
    _legend_below(axes)
    _bare(axes)


def _draw_entropy(axes: Any, report: Report) -> None:
    levels = range(len(report.code_entropy))
    limit = report.token_entropy_limit - math.log2(len(levels))
    given = report.level_entropy_given_expert
    axes.bar([level - 0.2 for level in levels], report.code_entropy, 0.38, color=_DARK, label="of the codes")
    axes.bar([level + 0.2 for level in levels], given, 0.38, color=_LIGHT, label="given the expert")
    for level, (first, second) in enumerate(zip(report.code_entropy, given, strict=True)):
        inside = {"ha": "center", "va": "top", "fontsize": 9}
        axes.text(level - 0.2, first - 0.02 * limit, f"{first:.2f}", color="white", **inside)
        axes.text(level + 0.2, second - 0.02 * limit, f"{second:.2f}", **inside)
    axes.axhline(limit, color=_ACCENT, linestyle="--", linewidth=1.2, label=f"all codewords equally often: {limit:.2f}")
    axes.set_ylim(0, 1.08 * limit)
    axes.set_xticks(levels, [f"level {level}" for level in levels])
    axes.set_title("Entropy per level, bits", fontsize=11, loc="left")
    _legend_below(axes)
    _bare(axes)


def _legend_below(axes: Any) -> None:
    axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
