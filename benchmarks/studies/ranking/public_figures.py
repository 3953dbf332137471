"""Figures that others published on the catalogues of `benchmarks.studies.ranking.recommendation`, beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CATALOGUES = {"Beauty": "beauty", "Sports": "sports_and_outdoors_keyphrase", "Toys": "toys_and_games"}
METRICS = ("Recall@10", "NDCG@10")

Pair = tuple[float | None, float | None]  # Recall@10 and NDCG@10
NONE: Pair = (None, None)


class Public(NamedTuple):
    """What a source says of a system.

    Attributes:
        system: its name, and whose run it is.
        history: "excluded" | "included" | "not said": whether the items of the history may be ranked.
        figures: for each of CATALOGUES.
        source: where it stands.
    """

    system: str
    history: str
    figures: tuple[Pair, Pair, Pair]
    source: str


_PLUS, _REPEATED = "arXiv 2508.14910", "slawmecz/rec_sys_cosette_marius, its report"
_BENCHMARK = "blondered/transformer_benchmark, its README"
_CORNAC, _GENREC = "PreferredAI/cornac 2.6, README of its TIGER", "phonism/genrec, its README"
PUBLIC = (
    Public("SASRec, binary loss", "included", ((0.0548, None), (0.0381, None), (0.0586, None)), _PLUS),
    Public("SASRec, binary loss, filter", "excluded", ((0.0633, None), (0.0419, None), (0.0649, None)), _PLUS),
    Public("SASRec, cross-entropy, filter", "excluded", ((0.0870, None), (0.0553, None), (0.0884, None)), _PLUS),
    Public("SASRec++: crop and shuffle too", "excluded", ((0.0973, 0.0557), (0.0644, 0.0362), (0.0994, None)), _PLUS),
    Public("SASRec++, repeated by others", "excluded", ((0.0906, 0.0522), (0.0515, 0.0291), NONE), _REPEATED),
    Public("MARIUS on COSETTE's IDs", "excluded", ((0.1002, None), (0.0672, 0.0362), NONE), _PLUS),
    Public("the same, repeated by others", "excluded", ((0.0817, 0.0440), (0.0487, 0.0259), NONE), _REPEATED),
    Public(
        "SASRec, sampled softmax, tuned",
        "excluded",
        ((0.0921, 0.0531), (0.0569, 0.0314), (0.0970, 0.0580)),
        _BENCHMARK,
    ),
    Public("eSASRec", "excluded", ((0.0928, 0.0523), (0.0560, 0.0323), (0.0939, 0.0538)), _BENCHMARK),
    Public("HSTU, run there", "excluded", ((0.0788, 0.0439), (0.0437, 0.0243), (0.0778, 0.0450)), _BENCHMARK),
    Public("FuXi-alpha, run there", "excluded", ((0.0809, 0.0451), (0.0437, 0.0244), (0.0765, 0.0437)), _BENCHMARK),
    Public("TIGER", "included", ((0.0648, 0.0384), (0.0400, 0.0225), (0.0712, 0.0432)), "arXiv 2305.05065"),
    Public("ActionPiece", "included", ((0.0775, 0.0424), (0.0500, 0.0264), NONE), "its paper, quoted by others"),
    Public("TIGER, best of 13 recipes", "included", ((0.0678, 0.0353), (0.0394, 0.0204), (0.0583, 0.0308)), _CORNAC),
    Public("SASRec, tuned there", "included", ((0.0740, 0.0423), NONE, NONE), _CORNAC),
    Public("SASRec", "not said", ((0.0688, 0.0375), NONE, NONE), _GENREC),
    Public("HSTU", "not said", ((0.0708, 0.0412), NONE, NONE), _GENREC),
    Public("TIGER", "not said", ((0.0721, 0.0378), NONE, (0.0647, 0.0350)), _GENREC),
    Public("LC-Rec, Qwen3 1.7B", "not said", ((0.0791, 0.0438), (0.0422, 0.0226), NONE), _GENREC),
    Public("OneRec-Foundation", "not said", ((0.0924, None), (0.0547, None), (0.0953, None)), "OpenOneRec, its README"),
    Public("SASRec, cross-entropy, RecBole", "not said", ((0.0821, 0.0405), NONE, NONE), "issue 20 of LETTER"),
)


def public_table(ours: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Write the published figures and ours as the lines of a table.

    Args:
        ours: protocol -> catalogue -> our Recall@10 and NDCG@10.

    Returns:
        The lines. Where a source doesn't say what it does with the history, ours with the history included is compared.
    """
    head = [
        "system",
        "history",
        *(f"{title}, Recall@10 / NDCG@10" for title in CATALOGUES),
        "source",
        "ours is lower in",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for protocol, found in ours.items():
        cells = [_cell(found.get(domain, NONE)) for domain in CATALOGUES.values()]
        lines.append(f"| **ours** | {protocol} | {' | '.join(cells)} | this page | |")
    for row in PUBLIC:
        own = ours.get("excluded" if row.history == "excluded" else "included", {})
        lower, compared = [], False
        for (title, domain), pair in zip(CATALOGUES.items(), row.figures, strict=True):
            for metric, theirs, mine in zip(METRICS, pair, own.get(domain, NONE), strict=True):
                if theirs is not None and mine is not None:
                    compared = True
                    lower += [f"{title} {metric}"] if mine < theirs else []
        said = ", ".join(lower) or ("none" if compared else "")
        cells = [row.system, row.history, *map(_cell, row.figures), row.source, said]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(pair: Sequence[float | None]) -> str:
    parts = ["-" if value is None else f"{value:.4f}".removeprefix("0") for value in pair]
    return " / ".join(parts) if parts != ["-", "-"] else ""
