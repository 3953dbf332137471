"""Targets of the CPU kernels, and whether the measured times meet them. Misses are printed as well."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.harness import Record

LONG, WIDE, HUGE, ONE = "64k x 32, K=256, L=4", "16k x 128, K=1024, L=8", "1M x 32, K=256, L=4", "1 x 32, K=256, L=4"
MOE = "64k x 32, E=8, top-1 + shared"
EAGER, COMPILED, FAISS = "torch eager", "torch.compile", "faiss IndexFlatL2 per level"

Times = dict[tuple[str, str, str], Record]


@dataclass(frozen=True)
class Verdict:
    """A target: its name, its limit, what was measured, and whether that meets the limit (None: not measured)."""

    name: str
    bar: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Bar:
    """A limit on a number from the records; if `above`, the number must be at least the limit, otherwise at most."""

    name: str
    limit: float
    above: bool
    unit: str
    value: Callable[[Times], float]

    def judge(self, times: Times) -> Verdict:
        """Compare the records with the limit."""
        bar = f"{'≥' if self.above else '≤'} {self.limit:g}{self.unit}"
        try:
            value = self.value(times)
        except (KeyError, TypeError):  # a level that wasn't run, or a value that this machine can't measure
            return Verdict(self.name, bar, "", None)
        met = (operator.ge if self.above else operator.le)(value, self.limit)
        return Verdict(self.name, bar, f"{value:.3g}{self.unit}", met)


def judge(records: Iterable[Record]) -> list[Verdict]:
    """Compare the records that are there with every target."""
    records = list(records)
    times: Times = {(r.operation, r.case, r.level): r for r in records}
    for record in reversed(records):  # the first level of a case, under the name that the targets use
        times[record.operation, record.case, "ours"] = record
    return [bar.judge(times) for bar in BARS]


def _memory(operation: str, case: str) -> Callable[[Times], float]:
    """Return our extra memory, in percent of theirs."""
    return lambda times: 100 * times[operation, case, "ours"].extra_mib / times[operation, case, THEIRS].extra_mib


def _over(operation: str, case: str, peer: str, level: str = "ours") -> Callable[[Times], float]:
    """Return how many times as long as `level` the peer takes, in the same case."""
    return lambda times: times[operation, case, peer].min_ms / times[operation, case, level].min_ms


def _column(operation: str, case: str, name: str, level: str = "ours", scale: float = 1.0) -> Callable[[Times], float]:
    return lambda times: scale * getattr(times[operation, case, level], name)


def _cost_of_a_row(times: Times) -> float:
    huge, long = (times["residual_encode", case, "ours"].min_ms for case in (HUGE, LONG))
    return 100 * ((huge / 1_048_576) / (long / 65_536) - 1)


ENCODE, MIXTURE, STEP = "residual_encode", "moe_residual_encode", "training_step"
LLOYD, BALANCED = "100k x 32, K=256, 20 iterations", "20k x 32, K=64, balanced, skewed"
HSIC, BATCH = "n=8192, 384 and 32, forward + backward", "8 domains, batch 1024, default preset"
LAYERS, THEIRS = "layers", "vector-quantize-pytorch"
EVALUATION, TRAINING, ENCODEC = "evaluation", "forward + backward", "EnCodec's quantizer, 32 x 150 frames, 8 codebooks"
MATRIX, BARE, WHOLE = "torch, matrix form", "step without quantizer and L_mi", "whole step"

BARS = (
    Bar(f"{ENCODE} {LONG}: over faiss Flat", 2.8, True, " x", _over(ENCODE, LONG, FAISS)),
    Bar(f"{ENCODE} {LONG}: over torch.compile", 5, True, " x", _over(ENCODE, LONG, COMPILED)),
    Bar(f"{ENCODE} {LONG}: over eager", 16, True, " x", _over(ENCODE, LONG, EAGER)),
    Bar(f"{ENCODE} {LONG}: of the FMA peak", 80, True, " %", _column(ENCODE, LONG, "peak_percent")),
    Bar(f"{ENCODE} {WIDE}: over torch.compile", 1.8, True, " x", _over(ENCODE, WIDE, COMPILED)),
    Bar(f"{ENCODE} {WIDE}: over faiss Flat", 5, True, " x", _over(ENCODE, WIDE, FAISS)),
    Bar(f"{ENCODE} {WIDE}: of the FMA peak", 85, True, " %", _column(ENCODE, WIDE, "peak_percent")),
    Bar(f"{ENCODE} {WIDE}: fast over exact, equal codes", 1.4, True, " x", _over(ENCODE, WIDE, "ours", "ours, fast")),
    Bar(
        f"{MIXTURE} {MOE}: relative to one residual_encode",
        2.2,
        False,
        " x",
        _over(MIXTURE, MOE, "ours", "one residual_encode"),
    ),
    Bar(
        f"{MIXTURE} {MOE}, router's linear, softmax and top-1 included: relative to one residual_encode",
        2.2,
        False,
        " x",
        _over(MIXTURE, MOE, "ours, with the router", "one residual_encode"),
    ),
    Bar(f"{MIXTURE} {MOE}: over the dense formula", 50, True, " x", _over(MIXTURE, MOE, "torch, dense formula")),
    Bar(f"{ENCODE} {HUGE}: extra memory", 16, False, " MiB", _column(ENCODE, HUGE, "extra_mib")),
    Bar(f"{ENCODE} {HUGE}: time per row, above the 64k case's", 20, False, " %", _cost_of_a_row),
    Bar(f"{ENCODE} {ONE}: public function", 30, False, " µs", _column(ENCODE, ONE, "min_ms", scale=1e3)),
    Bar(
        f"{ENCODE} {ONE}: through torch.compile",
        60,
        False,
        " µs",
        _column(ENCODE, ONE, "min_ms", "ours, through torch.compile", 1e3),
    ),
    Bar(f"kmeans {LLOYD}: over scikit-learn", 3.5, True, " x", _over("kmeans", LLOYD, "scikit-learn KMeans, lloyd")),
    Bar(f"kmeans {LLOYD}: over faiss", 1.6, True, " x", _over("kmeans", LLOYD, "faiss Kmeans")),
    Bar(
        f"kmeans {BALANCED}: over k-means-constrained", 50, True, " x", _over("kmeans", BALANCED, "k-means-constrained")
    ),
    Bar(f"hsic {HSIC}: over the matrix form", 2.5, True, " x", _over("hsic", HSIC, MATRIX)),
    Bar(f"hsic {HSIC}: extra memory", 64, False, " MiB", _column("hsic", HSIC, "extra_mib")),
    Bar(
        f"{STEP} {BATCH}: whole step, relative to one without quantizer and L_mi",
        1.4,
        False,
        " x",
        _over(STEP, BATCH, "ours", BARE),
    ),
    Bar(
        f"{STEP} {BATCH}: quantizer and L_mi, over the eager form",
        5,
        True,
        " x",
        _over(STEP, f"{BATCH}, quantizer + L_mi alone", EAGER),
    ),
    Bar(f"{LAYERS} {LONG}, {EVALUATION}: over theirs", 40, True, " x", _over(LAYERS, f"{LONG}, {EVALUATION}", THEIRS)),
    Bar(
        f"{LAYERS} {LONG}, {EVALUATION}: over theirs compiled",
        10,
        True,
        " x",
        _over(LAYERS, f"{LONG}, {EVALUATION}", f"{THEIRS}, torch.compile"),
    ),
    *(
        Bar(
            f"{LAYERS} {case}, {TRAINING}: over theirs", limit, True, " x", _over(LAYERS, f"{case}, {TRAINING}", THEIRS)
        )
        for case, limit in ((LONG, 15), (WIDE, 4))
    ),
    *(
        Bar(
            f"{LAYERS} {case}, {TRAINING}: relative to their memory",
            25,
            False,
            " %",
            _memory(LAYERS, f"{case}, {TRAINING}"),
        )
        for case in (LONG, WIDE)
    ),
    Bar(f"{LAYERS} {ENCODEC}: over transformers", 2.7, True, " x", _over(LAYERS, ENCODEC, "transformers")),
    Bar(
        f"{LAYERS} {ENCODEC}, fast: over transformers",
        3.5,
        True,
        " x",
        _over(LAYERS, ENCODEC, "transformers", "ours, fast"),
    ),
)
