"""Compile the Triton and the CUDA kernels for GPUs that needn't be there, and hold them to budgets.

    python -m tools.aot --target sm_90

`triton.py` and `cuda.py` compile, the latter where there is an nvcc. Of each kernel this prints registers, spills,
stack, shared memory, the instructions of the innermost loops, and the predicted time (`prediction.py`) beside the
floors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tools.aot import cuda
from tools.aot.budgets import BUDGETS, Figures, complaints, spilled, write_budgets
from tools.aot.cases import CASES, Case, left_out
from tools.aot.measuring import measure_all
from unitok_kernels.ops._triton.configs import TARGETS


def _show(console: Console, figures: Figures, floors: dict[str, float]) -> None:
    console.print(
        f"[bold]{figures.target}[/] {figures.key}: {figures.registers} registers, {figures.spills} spills, "
        f"stack {figures.stack}, shared {figures.shared} bytes, {figures.matrix or 'no matrix unit'}",
        highlight=False,
    )
    if figures.loop:
        mix = ", ".join(f"{count} {name}" for name, count in figures.mix.items())
        console.print(f"    innermost loop, {figures.loop} instructions: {mix}", highlight=False)
    if figures.predicted is not None:
        listed = ", ".join(f"{name} {1e6 * seconds:.0f}" for name, seconds in floors.items())
        console.print(f"    predicted {figures.predicted:.0f} us; floors: {listed} us", highlight=False)


def _floors(figures: Figures, cases: Sequence[Case]) -> dict[str, float]:
    if figures.predicted is None:
        return {}
    if figures.by_nvcc:
        return cuda.floors(cuda.PREDICTED[figures.kernel], figures.target)
    return next(case for case in cases if case.name == figures.case).floors(figures.target)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tools.aot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compile the Triton and the CUDA kernels ahead of time; no GPU and no driver are needed.",
        epilog="examples:\n"
        "  python -m tools.aot --target sm_90                    figures of all kernels on an H100\n"
        "  python -m tools.aot --op residual_encode --json       for a program to read\n"
        "  python -m tools.aot --target all --check              exit 1 beyond budgets.json\n"
        "  python -m tools.aot --target all --write-budgets      after a change that is meant\n"
        "  python -m tools.aot --target all --page docs/results/gpu-predicted.md\n\n"
        "A kernel fails the check if it spills, has a stack, takes more shared memory than the target has,\n"
        "doesn't use the matrix unit its budget names, or goes beyond its budget. Budgets of CUDA kernels\n"
        "may have spills and a stack, so that these don't grow. CUDA kernels take nvcc: without one they are\n"
        "left out, with a line that says so.\n"
        "Times are predicted: they rank variants of one kernel, and no more.",
    )
    made.add_argument("--target", default="sm_90", choices=[*TARGETS, "all"], help="what to compile for (sm_90)")
    made.add_argument("--backend", choices=["triton", "cuda"], help="one backend's kernels instead of both")
    made.add_argument("--op", help="one operation's Triton kernels instead of all")
    made.add_argument("--check", action="store_true", help="compare with the budgets; exit 1 beyond them")
    made.add_argument(
        "--spills", action="store_true", help="look for spills alone, of an older Triton's; exit 1 at new ones"
    )
    made.add_argument("--write-budgets", action="store_true", help="take these figures, a little above, as budgets")
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    made.add_argument("--page", type=Path, help="write the predictions to this Markdown file")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit status."""
    options = parser().parse_args(arguments)
    console, errors = Console(), Console(stderr=True)
    if importlib.util.find_spec("triton") is None:
        errors.print("triton is not installed, and it is what compiles: pip install triton", highlight=False)
        return 2
    if options.page and not options.page.parent.is_dir():  # said now, not after minutes of compiling
        said = f"--page must be in a folder that exists, got {options.page}. Make the folder first."
        errors.print(said, highlight=False)
        return 2
    targets = list(TARGETS) if options.target == "all" else [options.target]
    cases = [case for case in CASES if options.op in (None, case.operation)]
    if not cases:
        errors.print(f"--op must be one of {', '.join(sorted({c.operation for c in CASES}))}, got {options.op!r}.")
        return 2
    for operation in left_out(cases):
        errors.print(f"{operation}: left out, it has no triton.py", highlight=False)
    cases = [case for case in cases if case.is_there() and options.backend != "cuda"]
    sources = [] if options.op or options.backend == "triton" else cuda.sources()
    if sources and (reason := cuda.missing()) is not None:
        errors.print(f"csrc/cuda: left out, {reason}", highlight=False, soft_wrap=True)
        sources = []
    found = measure_all(targets, cases, sources)
    if options.json:
        print(json.dumps([asdict(figures) for figures in found], indent=1))
    elif not (options.check or options.spills):
        for figures in found:
            _show(console, figures, _floors(figures, cases))
    if options.write_budgets:
        write_budgets(found, BUDGETS)
    if options.page:
        from tools.aot.page import page

        options.page.write_text(page(found, cases))
    if not (options.check or options.spills):
        return 0
    budgets = json.loads(BUDGETS.read_text())
    lines = [line for f in found for line in (spilled(f) if options.spills else complaints(f, budgets))]
    for line in lines:
        errors.print(line, highlight=False)
    console.print(f"{len(found)} kernels on {', '.join(targets)}: {len(lines)} complaints", highlight=False)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
