"""Races: all ways to do one job are checked first, then timed round by round in one run.

Each round calls each level once, in a new random order, so that drift of the machine affects all levels equally. A time
is that of one call; calls of microseconds are timed in loops of 10 ms and more. Each round also measures the FMA peak.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unitok_kernels import backends

RECORDS = pytest.StashKey[list["Record"]]()
SETTLE_SECONDS = 0.01  # before a level is timed: by then the previous level's threads sleep
LOOP_SECONDS = 0.01
GENERIC_FLOPS = 5e9


class WrongResultError(AssertionError):
    """A level gave a wrong result, so its time would mean nothing."""


@dataclass(frozen=True)
class Level:
    """One way to do the job.

    Attributes:
        name: as printed; the names of ours start with "ours".
        call: takes the case's inputs.
        isa: instruction set of our kernels while it runs; None uses the machine's best.
        backend: value of UNITOK_BACKEND while it runs; None leaves the choice to the library.
        compiled: its first call at a size compiles, so the second one is checked and measured.
        budget: seconds that its rounds may take; a level too slow for all of them runs fewer, at least one.
        job: set for a level of another job, timed for comparison; such levels aren't checked.
    """

    name: str
    call: Callable[..., Any]
    isa: str | None = None
    backend: str | None = None
    compiled: bool = False
    budget: float = 5.0
    job: str = ""


@dataclass(frozen=True)
class Record:
    """A row of results/<operation>.csv: one level of one case."""

    operation: str
    case: str
    level: str
    min_ms: float
    p20_ms: float
    p50_ms: float
    p80_ms: float
    rounds: int
    gflops: float | None
    peak_percent: float | None
    extra_mib: float | None
    ratio: float  # time of this level / time of the case's first level
    fma_peak_gflops: float | None
    device: str
    cores: int
    threads: int
    instruction_set: str
    torch: str
    date: str
    commit: str


def use_threads() -> None:
    """Give faiss as many threads as torch has."""
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(torch.get_num_threads())


def native() -> Any:
    """Return the native module, or None if it isn't built."""
    try:
        from unitok_kernels import _cpu
    except ImportError:
        return None
    return _cpu


def instruction_sets() -> list[str]:
    """Name the instruction sets that our kernels support here, best first."""
    kernels = native()
    return [] if kernels is None else kernels.instruction_sets()[::-1]


def ours(operation: str, call: Callable[..., Any], *, flops: float = 0.0, **options: Any) -> list[Level]:
    """Make one level per instruction set that `operation` has a CPU kernel for, and one for the reference.

    Cases of many flops leave the generic code out if there is a better one: on x86 it calls a function for every fma.
    """
    try:
        backends.choose(operation, "cpu", torch.device("cpu"), False)
        sets = instruction_sets()
    except ValueError:
        sets = []
    if flops > GENERIC_FLOPS and len(sets) > 1:
        sets.remove("generic")
    levels = [Level(f"ours, {isa}", call, isa=isa, **options) for isa in sets]
    return [*levels, Level("ours, reference", call, backend="reference", **options)]


class Race:
    """The levels of one case.

    Args:
        operation: names the CSV.
        case: names the case in it.
        levels: the ratios are relative to the first.
        inputs: of every level's call.
        check: called with a level and its result; raises if the result is wrong.
        small: inputs of few rows, for a first call that loads libraries and starts threads; None: no such call.
        flops: of one call in the plain form of the operation; None if memory is the limit.
        rounds: calls per level.
    """

    def __init__(
        self,
        operation: str,
        case: str,
        levels: Iterable[Level],
        inputs: tuple[Any, ...],
        *,
        check: Callable[[Level, Any], None],
        small: tuple[Any, ...] | None = None,
        flops: float | None = None,
        rounds: int = 7,
    ) -> None:
        self.operation, self.case, self.levels, self.inputs = operation, case, list(levels), inputs
        self.check, self.small, self.flops, self.rounds = check, small, flops, rounds
        self.seconds: dict[str, list[float]] = {level.name: [] for level in self.levels}
        self.extra: dict[str, float | None] = {}
        self.loops: dict[str, int] = {}
        self.turns: dict[str, int] = {}
        self.peaks: list[float] = []
        self._round = 0

    def prepare(self) -> None:
        """Call every level once: check its result, measure its memory, and decide how many rounds it has time for."""
        for level in self.levels:
            with _settings(level):
                if level.compiled:
                    level.call(*self.inputs)
                elif self.small is not None:
                    level.call(*self.small)
                result, seconds, self.extra[level.name] = _measured(level.call, self.inputs)
                self.check(level, result)
                del result
                self.turns[level.name] = int(min(self.rounds, max(1, level.budget / seconds)))
                if seconds > level.budget:
                    self.turns[level.name] = 0
                    self.seconds[level.name].append(seconds)
                self.loops[level.name] = 1
                while seconds < LOOP_SECONDS:  # single calls have cold caches and take twice as long as calls in a loop
                    self.loops[level.name] *= 2
                    seconds = _timed(level.call, self.inputs, self.loops[level.name])

    def one_round(self) -> None:
        """Time each level that has rounds left, and measure the machine's peak."""
        if (kernels := native()) is not None:
            self.peaks.append(kernels.fma_peak(torch.get_num_threads()))
        # In a fixed order each level would always follow the same one, with the caches and the clock that it leaves
        for level in random.Random(self._round).sample(self.levels, len(self.levels)):
            if self._round < self.turns[level.name]:
                with _settings(level):
                    time.sleep(SETTLE_SECONDS)
                    loops = self.loops[level.name]
                    self.seconds[level.name].append(_timed(level.call, self.inputs, loops) / loops)
        self._round += 1

    def records(self) -> list[Record]:
        """Return the case's records, in the order of the levels."""
        peak = max(self.peaks, default=None)
        base = min(self.seconds[self.levels[0].name])
        where = provenance()
        records = []
        for level in self.levels:
            seconds = self.seconds[level.name]
            counted = self.flops is not None and not level.job
            gflops = self.flops / min(seconds) / 1e9 if counted else None
            records.append(
                Record(
                    self.operation,
                    self.case,
                    level.name,
                    1e3 * min(seconds),
                    *(1e3 * quantile(seconds, share) for share in (0.2, 0.5, 0.8)),
                    len(seconds),
                    gflops,
                    None if gflops is None or peak is None else 100 * gflops / peak,
                    self.extra[level.name],
                    min(seconds) / base,
                    peak,
                    **where,
                )
            )
        return records


def quantile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie, interpolated linearly."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * share) - 1]


def provenance() -> dict[str, Any]:
    """Return the machine, the versions, the date and the commit of the numbers."""
    try:
        cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        cpu = None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    sources = ["--", ".", ":!benchmarks/results", ":!docs/results"]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", *sources], capture_output=True, check=False)
    return {
        "device": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "instruction_set": next(iter(instruction_sets()), "none"),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() + ("-dirty" if changed.returncode else ""),
    }


@contextmanager
def _settings(level: Level) -> Iterator[None]:
    """Run with the level's instruction set and backend, then restore both."""
    before = os.environ.get("UNITOK_BACKEND")
    isa = None if level.isa is None else native().instruction_set()
    if level.backend is not None:
        os.environ["UNITOK_BACKEND"] = level.backend
    if level.isa is not None:
        native().use_instruction_set(level.isa)
    try:
        yield
    finally:
        if level.isa is not None:
            native().use_instruction_set(isa)
        if level.backend is not None:
            os.environ.pop("UNITOK_BACKEND")
            if before is not None:
                os.environ["UNITOK_BACKEND"] = before


def _timed(call: Callable[..., Any], inputs: tuple[Any, ...], loops: int) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        for _ in range(loops):
            call(*inputs)
        return time.perf_counter() - began
    finally:
        gc.enable()


def _measured(call: Callable[..., Any], inputs: tuple[Any, ...]) -> tuple[Any, float, float | None]:
    """Call once; return the result, the seconds, and the MiB that the process used at its peak beyond the result."""
    before = _reset_peak()
    began = time.perf_counter()
    result = call(*inputs)
    seconds = time.perf_counter() - began
    if before is None:
        return result, seconds, None
    return result, seconds, max(0.0, (_status("VmHWM") - before - own_bytes(result, inputs)) / 2**20)


def _reset_peak() -> int | None:
    """Return freed memory to the system, reset the peak, and return the bytes in use; None if not on Linux."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (AttributeError, OSError):
        return None


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def own_bytes(result: Any, inputs: tuple[Any, ...]) -> int:
    """Count the bytes of the result's tensors and arrays that aren't views of the inputs."""
    given = {t.untyped_storage().data_ptr() for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)}
    sizes = {}
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
            sizes[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage().nbytes()
        elif hasattr(leaf, "nbytes"):
            sizes[id(leaf)] = leaf.nbytes
    return sum(sizes.values())
