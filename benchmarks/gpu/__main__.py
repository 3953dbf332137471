"""Benchmarks on a GPU against other libraries: `make bench-gpu`, or `python -m benchmarks.gpu`.

Every level's result is checked before it is timed. If one of ours is wrong, the run fails at its end and publishes
nothing. A peer that gives a wrong result, can't do the case or isn't installed is not timed but listed with the reason;
the same goes for precision="fast", which promises less. Times are those of `triton.testing.do_bench`, which clears the
L2 cache before each call. `--dry-run` does the same at toy sizes, on the CPU and under TRITON_INTERPRET=1, to show that
everything works; its times mean nothing and are written to runs/bench-gpu.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.gpu.cases import Case, cases, missing
from benchmarks.harness import Level, Record, WrongResultError, own_bytes, provenance, quantile
from benchmarks.plot import draw_speed

RESULTS, PAGE = Path("benchmarks/results/gpu"), Path("docs/results/gpu.md")
DRY = Path("runs/bench-gpu")


def on_the_device(call: Callable[[], Any]) -> list[float]:
    """Return the milliseconds of each of many calls."""
    from triton.testing import do_bench

    return do_bench(call, warmup=25, rep=200, return_mode="all")


def on_the_host(call: Callable[[], Any]) -> list[float]:
    """Return the milliseconds of a single call, for the dry run."""
    began = time.perf_counter()
    call()
    return [1e3 * (time.perf_counter() - began)]


def race(case: Case, dry: bool, device: dict[str, Any]) -> tuple[list[Record], list[str], list[str]]:
    """Check and time each level; return the records, why other levels are missing, and what is wrong with ours."""
    timer = on_the_host if dry else on_the_device
    rows: list[Record] = []
    notes, wrong = [], []
    for level in case.levels:
        try:
            extra = checked(case, level, dry)
            times = timer(lambda level=level: level.call(*case.inputs))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            kind = "refused" if isinstance(error, WrongResultError) else "failed"
            note = f"{case.operation}, {case.name}, {level.name}: {kind}: {reason}"
            promised = level.name.startswith("ours") and not level.name.endswith("fast")  # fast may miss near ties
            (wrong if promised else notes).append(note)
            continue
        first = rows[0].min_ms if rows else min(times)
        gflops = None if case.flops is None else case.flops / min(times) / 1e6
        spread = [quantile(times, share) for share in (0.2, 0.5, 0.8)]
        rows.append(
            Record(
                case.operation, case.name, level.name, min(times), *spread, len(times),
                gflops, None, extra, min(times) / first, None, **device,
            )
        )  # fmt: skip
    return rows, notes, wrong


def checked(case: Case, level: Level, dry: bool) -> float | None:
    """Check a level's result; return the MiB that the call used beyond the result."""
    if dry:
        case.check(level, level.call(*case.inputs))
        return None
    level.call(*case.inputs)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = level.call(*case.inputs)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - own_bytes(result, case.inputs)
    case.check(level, result)
    return max(0.0, extra / 2**20)


def described(dry: bool) -> dict[str, Any]:
    """Describe the device for a row of the CSV; its multiprocessors count as cores."""
    import triton

    found = provenance() | {"torch": f"{torch.__version__}, triton {triton.__version__}"}
    if dry:
        return found | {"device": "Triton's interpreter"}
    properties = torch.cuda.get_device_properties(0)
    architecture = getattr(properties, "gcnArchName", None) if torch.version.hip else None
    return found | {
        "device": properties.name,
        "cores": properties.multi_processor_count,
        "instruction_set": architecture or f"sm_{properties.major}{properties.minor}",
    }


def publish(records: list[Record], notes: list[str], folder: Path, page: Path) -> Path:
    """Write a device's CSV, notes and plot, and rewrite the page of all devices."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "-", records[0].device.lower()).strip("-") + ".csv")
    report.write_csv(records, path)
    path.with_suffix(".txt").write_text("".join(f"{note}\n" for note in notes))
    draw_speed(records, path.with_suffix(".png"))
    lines = [
        "# On a GPU",
        "",
        "Written by `make bench-gpu`. Results were checked before timing. Times are those of",
        "`triton.testing.do_bench`, which clears the L2 cache before each call; the last column is relative to ours.",
    ]
    for part in sorted(folder.glob("*.csv")):
        lines += section(report.read_csv(part), part.with_suffix(".txt").read_text().splitlines())
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n")
    return path


def section(records: list[Record], notes: list[str]) -> list[str]:
    """Return a device's part of the page."""
    first = records[0]
    where = f"{first.instruction_set}, {first.cores} multiprocessors, torch {first.torch}"
    lines = ["", f"## {first.device}", "", f"{where}, {first.date}, commit {first.commit}"]
    headings = ("level", "ms, min", "p20", "p50", "p80", "calls", "GFLOP/s", "extra MiB", "x ours")
    for operation, case in dict.fromkeys((r.operation, r.case) for r in records):
        lines += ["", f"### {operation}: {case}", "", f"| {' | '.join(headings)} |", "|---" + "|---:" * 9 + "|"]
        for record in records:
            if (record.operation, record.case) == (operation, case):
                cells = report.cells(record)
                lines.append(f"| {' | '.join((*cells[:7], *cells[8:]))} |")  # without the share of the CPU's peak
    return [*lines, "", "Notes:", "", *(f"- {note}" for note in notes)] if notes else lines


def main(arguments: list[str] | None = None) -> int:
    """Run all cases and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on Triton's interpreter, into runs/bench-gpu")
    dry = parser.parse_args(arguments).dry_run
    if dry and os.environ.get("TRITON_INTERPRET") != "1":
        print("benchmarks.gpu: the dry run needs TRITON_INTERPRET=1, set before it starts.", file=sys.stderr)
        return 1
    if not dry and not torch.cuda.is_available():
        print("benchmarks.gpu: there is no GPU here; --dry-run runs it on Triton's interpreter.", file=sys.stderr)
        return 1
    device = described(dry)
    records, notes, wrong = [], missing(dry), []
    for case in cases(dry):
        if isinstance(case, str):
            notes.append(case)
            continue
        rows, more, faults = race(case, dry, device)
        records += rows
        notes += more
        wrong += faults
        if rows:
            report.print_case(rows)
    for note in notes:
        print(f"not timed: {note}")
    if wrong:
        print("benchmarks.gpu: nothing is published. Wrong results of ours:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    print(publish(records, notes, DRY if dry else RESULTS, DRY / "gpu.md" if dry else PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
