"""Compile the Triton kernels for GPUs that needn't be there, and hold them to budgets.

    python -m unitok_kernels.aot --target sm_90

The launchers get fake CUDA tensors and their launches are collected (`ops/launch.py`), so what is compiled is what a
call would run. Of each kernel it prints registers, spills, stack, shared memory, the instructions of the innermost
loops, and the predicted time (`prediction.py`) beside the floors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from unitok_kernels import prediction
from unitok_kernels.aot_cases import CASES, Case, left_out
from unitok_kernels.ops.configs import TARGETS, Target
from unitok_kernels.ops.launch import OPTIONS, Launch, collecting

BUDGETS = Path(__file__).with_name("budgets.json")
SHARED_LIMITS = {"sm_80": 160, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}  # KiB a program may take
_MATRIX_KINDS = ("UTCIMMA", "IGMMA", "IMMA", "DMMA", "v_mfma")
_HEADROOM = {"registers": 1.05, "shared": 1.1, "loop": 1.1}


@dataclass
class Figures:
    """What is known of a compiled kernel.

    Attributes:
        target: "sm_90", say.
        case: of `aot_cases`.
        kernel: its function's name; with a number where a call launches several of that name.
        registers: of a thread.
        spills: instructions that move registers to memory and back.
        stack: bytes of a thread.
        shared: bytes of shared memory of a program.
        loop: instructions of the innermost loop with the most of them; 0 without a loop.
        mix: its most frequent instructions.
        matrix: kind of the matrix instructions; "" without any.
        predicted: microseconds, where the case says how often the loops run.
    """

    target: str
    case: str
    kernel: str
    registers: int
    spills: int
    stack: int
    shared: int
    loop: int
    mix: dict[str, int]
    matrix: str
    predicted: float | None = None

    @property
    def key(self) -> str:
        """Name it in the budgets."""
        return f"{self.case} {self.kernel}"


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
        registers, stack = prediction.resources(compiled.asm["cubin"])[function]
        spills = len(re.findall(r"\b(?:LDL|STL)\b", listing))
    else:
        listing = compiled.asm["amdgcn"]
        # scalar registers spill to lanes of vector registers; where those run out the private segment is the stack
        registers, stack, spills = (
            _field(listing, f) for f in ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
        )
    loops = prediction.kernels(listing)[function]
    inner = max(loops.innermost(), key=lambda loop: (_matrix(loop.mix) != "", sum(loop.mix.values())), default=None)
    mix: Counter[str] = inner.mix if inner else Counter()
    return {
        "registers": registers,
        "spills": spills,
        "stack": stack,
        "shared": compiled.metadata.shared,
        "loop": sum(mix.values()),
        "mix": dict(mix.most_common(8)),
        "matrix": _matrix(loops.all()),
    }, loops


def _matrix(mix: Counter[str]) -> str:
    return next((kind for kind in _MATRIX_KINDS if any(name.startswith(kind) for name in mix)), "")


def _field(listing: str, name: str) -> int:
    return int(re.findall(rf"\.{name}:\s+(\d+)", listing)[0])


def measure_all(targets: Sequence[str], cases: Sequence[Case], processes: int = 2) -> list[Figures]:
    """Measure cases on targets in processes of their own; Triton keeps what it compiled in its cache."""
    jobs = [(target, case.name) for case in cases for target in targets]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [figures for part in pool.map(_job, jobs) for figures in part]


def _job(job: tuple[str, str]) -> list[Figures]:
    target, name = job
    return measure(target, next(case for case in CASES if case.name == name))


def complaints(figures: Figures, budgets: dict[str, Any]) -> list[str]:
    """Say what a kernel goes beyond: its budget, and what none may do on its target."""
    what = f"{figures.target} {figures.key}"
    said = []
    if figures.spills:
        said.append(f"{what}: {figures.spills} instructions spill registers; there must be none.")
    if figures.stack:
        said.append(f"{what}: a stack of {figures.stack} bytes; there must be none.")
    limit = SHARED_LIMITS[figures.target] * 1024
    if figures.shared > limit:
        said.append(f"{what}: {figures.shared} bytes of shared memory; the target has {limit}.")
    budget = budgets.get(figures.target, {}).get(figures.key)
    if budget is None:
        return [*said, f"{what}: no budget. Look at its figures, then run with --write-budgets."]
    said += [
        f"{what}: {name} {getattr(figures, name)}, and the budget is {budget[name]}."
        for name in _HEADROOM
        if getattr(figures, name) > budget[name]
    ]
    if budget["matrix"] and figures.matrix != budget["matrix"]:
        said.append(f"{what}: no {budget['matrix']} instruction, but {figures.matrix or 'none of the matrix unit'}.")
    return said


def budget_of(figures: Figures) -> dict[str, Any]:
    """Give the budget that figures call for, a little above them."""
    room = {name: int(getattr(figures, name) * factor) for name, factor in _HEADROOM.items()}
    most = 512 if figures.target.startswith("gfx") else 255
    return {**room, "registers": min(room["registers"], most), "matrix": figures.matrix}


def write_budgets(found: Sequence[Figures], path: Path = BUDGETS) -> None:
    """Write the budgets of these kernels, and keep those of others."""
    budgets = json.loads(path.read_text()) if path.exists() else {}
    for figures in found:
        budgets.setdefault(figures.target, {})[figures.key] = budget_of(figures)
    path.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n")


def _show(console: Console, figures: Figures, case: Case) -> None:
    console.print(
        f"[bold]{figures.target}[/] {figures.key}: {figures.registers} registers, {figures.spills} spills, "
        f"stack {figures.stack}, shared {figures.shared} bytes, {figures.matrix or 'no matrix unit'}",
        highlight=False,
    )
    if figures.loop:
        mix = ", ".join(f"{count} {name}" for name, count in figures.mix.items())
        console.print(f"    innermost loop, {figures.loop} instructions: {mix}", highlight=False)
    if figures.predicted is not None:
        floors = ", ".join(f"{name} {1e6 * s:.0f}" for name, s in case.floors(figures.target).items())
        console.print(f"    predicted {figures.predicted:.0f} us; floors: {floors} us", highlight=False)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="python -m unitok_kernels.aot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compile the Triton kernels ahead of time; no GPU and no driver are needed.",
        epilog="examples:\n"
        "  python -m unitok_kernels.aot --target sm_90                    figures of all kernels on an H100\n"
        "  python -m unitok_kernels.aot --op residual_encode --json       for a program to read\n"
        "  python -m unitok_kernels.aot --target all --check              exit 1 beyond budgets.json\n"
        "  python -m unitok_kernels.aot --target all --write-budgets      after a change that is meant\n"
        "  python -m unitok_kernels.aot --target all --page docs/results/gpu-predicted.md\n\n"
        "A kernel fails the check if it spills, has a stack, takes more shared memory than the target has,\n"
        "doesn't use the matrix unit its budget names, or goes beyond its budget.\n"
        "Times are predicted: no device has run anything.",
    )
    made.add_argument("--target", default="sm_90", choices=[*TARGETS, "all"], help="what to compile for (sm_90)")
    made.add_argument("--op", help="one operation instead of all")
    made.add_argument("--check", action="store_true", help="compare with the budgets; exit 1 beyond them")
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
    cases = [case for case in cases if case.is_there()]
    found = measure_all(targets, cases)
    if options.json:
        print(json.dumps([asdict(figures) for figures in found], indent=1))  # noqa: T201
    elif not options.check:
        by_name = {case.name: case for case in cases}
        for figures in found:
            _show(console, figures, by_name[figures.case])
    if options.write_budgets:
        write_budgets(found)
    if options.page:
        from unitok_kernels.aot_page import page

        options.page.write_text(page(found, cases))
    if not options.check:
        return 0
    budgets = json.loads(BUDGETS.read_text())
    lines = [line for figures in found for line in complaints(figures, budgets)]
    for line in lines:
        errors.print(line, highlight=False)
    console.print(f"{len(found)} kernels on {', '.join(targets)}: {len(lines)} complaints", highlight=False)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
