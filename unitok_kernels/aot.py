"""Compile the Triton and the CUDA kernels for GPUs that needn't be there, and hold them to budgets.

    python -m unitok_kernels.aot --target sm_90

Triton's launchers get fake CUDA tensors and their launches are collected (`ops/launch.py`), so what is compiled is what
a call would run; nvcc compiles csrc/cuda where there is one (`aot_cuda.py`). Of each kernel it prints registers,
spills, stack, shared memory, the instructions of the innermost loops, and the predicted time (`prediction.py`) beside
the floors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from unitok_kernels import aot_cuda, prediction
from unitok_kernels.aot_budgets import BUDGETS, Figures, complaints, figures_of, spilled, write_budgets
from unitok_kernels.aot_cases import CASES, Case, left_out
from unitok_kernels.ops.configs import TARGETS, Target
from unitok_kernels.ops.launch import OPTIONS, Launch, collecting


def collect(case: Case, target: Target) -> list[Launch]:
    """Run a case's launcher on fake CUDA tensors and give its launches, one of those that are compiled alike."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), collecting(target) as launches:
        case.call()
    return list({_kind(launch): launch for launch in launches[::-1] if min(launch.grid) > 0}.values())[::-1]


def _kind(launch: Launch) -> tuple[Any, ...]:
    """Tell launches apart that aren't compiled alike."""
    arguments = (
        (value % 16 == 0, value == 1) if isinstance(value, int) else getattr(value, "dtype", float)
        for value in launch.arguments
    )
    return launch.kernel.__name__, *arguments, *launch.constants.items(), launch.num_warps, launch.num_stages


def compile_launch(launch: Launch, target: Target) -> Any:
    """Compile one launch as the just-in-time compiler would for the same arguments."""
    import triton
    from torch import Tensor
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    signature: dict[str, str] = {}
    hints = {}
    constants = dict(launch.constants)
    names = launch.kernel.arg_names
    for place, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        if isinstance(value, int) and value == 1:
            signature[name], constants[name] = "constexpr", 1
            continue
        signature[name] = mangle_type(value)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            hints[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(names[len(launch.arguments) :], "constexpr")
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=hints)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **OPTIONS}
    return triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp_size), options=options)


def measure(name: str, case: Case) -> list[Figures]:
    """Compile all that a case launches on a target, and read its figures off the code."""
    found: list[Figures] = []
    for launch in collect(case, TARGETS[name]):
        compiled = compile_launch(launch, TARGETS[name])
        function = compiled.metadata.name
        figures, loops = _read(compiled, function)
        kernel = function.lstrip("_")
        again = sum(f.kernel.split("#")[0] == kernel for f in found)
        if case.trips is not None and function == "_kernel":
            warps = launch.num_warps * _product(launch.grid)
            seconds = prediction.issue_seconds(
                prediction.slots(loops, case.trips(launch)), warps, prediction.DEVICES[name]
            )
            figures["predicted"] = 1e6 * max(seconds, *case.floors(name, own=True).values())
        found.append(
            Figures(target=name, case=case.name, kernel=f"{kernel}#{again + 1}" if again else kernel, **figures)
        )
    return found


def _product(grid: Sequence[int]) -> int:
    total = 1
    for axis in grid:
        total *= axis
    return total


def _read(compiled: Any, function: str) -> tuple[dict[str, Any], prediction.Loop]:
    if "cubin" in compiled.asm:
        listing = prediction.disassembled(compiled.asm["cubin"])
        registers, stack, _ = prediction.resources(compiled.asm["cubin"])[function]
        spills = len(re.findall(r"\b(?:LDL|STL)\b", listing))
    else:
        listing = compiled.asm["amdgcn"]
        # scalar registers spill to lanes of vector registers; where those run out the private segment is the stack
        registers, stack, spills = (
            _field(listing, f) for f in ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
        )
    loops = prediction.kernels(listing)[function]
    figures = {"registers": registers, "spills": spills, "stack": stack, "shared": compiled.metadata.shared}
    return {**figures, **figures_of(loops)}, loops


def _field(listing: str, name: str) -> int:
    return int(re.findall(rf"\.{name}:\s+(\d+)", listing)[0])


def measure_all(
    targets: Sequence[str], cases: Sequence[Case], sources: Sequence[str] = (), processes: int = 2
) -> list[Figures]:
    """Measure sources by nvcc and cases by Triton, in processes of their own; both keep what they compiled."""
    jobs = [(target, source) for source in sources for target in targets if aot_cuda.architecture(target, source)]
    jobs += [(target, case.name) for case in cases for target in targets]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [figures for part in pool.map(_job, jobs) for figures in part]


def _job(job: tuple[str, str]) -> list[Figures]:
    target, name = job
    if name.endswith(".cu"):
        return aot_cuda.measure(target, name)
    return measure(target, next(case for case in CASES if case.name == name))


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
        return aot_cuda.floors(aot_cuda.PREDICTED[figures.kernel], figures.target)
    return next(case for case in cases if case.name == figures.case).floors(figures.target)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="python -m unitok_kernels.aot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compile the Triton and the CUDA kernels ahead of time; no GPU and no driver are needed.",
        epilog="examples:\n"
        "  python -m unitok_kernels.aot --target sm_90                    figures of all kernels on an H100\n"
        "  python -m unitok_kernels.aot --op residual_encode --json       for a program to read\n"
        "  python -m unitok_kernels.aot --target all --check              exit 1 beyond budgets.json\n"
        "  python -m unitok_kernels.aot --target all --write-budgets      after a change that is meant\n"
        "  python -m unitok_kernels.aot --target all --page docs/results/gpu-predicted.md\n\n"
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
    sources = [] if options.op or options.backend == "triton" else aot_cuda.sources()
    if sources and (reason := aot_cuda.missing()) is not None:
        errors.print(f"csrc/cuda: left out, {reason}", highlight=False, soft_wrap=True)
        sources = []
    found = measure_all(targets, cases, sources)
    if options.json:
        print(json.dumps([asdict(figures) for figures in found], indent=1))  # noqa: T201
    elif not (options.check or options.spills):
        for figures in found:
            _show(console, figures, _floors(figures, cases))
    if options.write_budgets:
        write_budgets(found, BUDGETS)
    if options.page:
        from unitok_kernels.aot_page import page

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
