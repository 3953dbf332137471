"""The Triton kernels for `tools.aot`, compiled for GPUs that needn't be there.

Launchers get fake CUDA tensors and their launches are collected (`ops/_triton/launch.py`), so what is compiled is what
a call would run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tools.aot import prediction
from tools.aot.budgets import Figures, figures_of
from tools.aot.cases import Case
from unitok_kernels.ops._triton.configs import TARGETS, Target
from unitok_kernels.ops._triton.launch import OPTIONS, Launch, collecting


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
