"""What is known of a compiled kernel, and what it may not go beyond: `budgets.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.aot.prediction import Loop

BUDGETS = Path(__file__).with_name("budgets.json")
SHARED_LIMITS = {"sm_80": 160, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}  # KiB a program may take
OLDER_SPILLS = {"hsic 8k pull": 32, "hsic 8k bfloat16 pull": 32}  # by Triton 3.6, on sm_90; others have none
_MATRIX_KINDS = ("UTCIMMA", "IGMMA", "IMMA", "DMMA", "v_mfma")
_HEADROOM = {"registers": 1.05, "shared": 1.1, "loop": 1.1}


@dataclass
class Figures:
    """What is known of a compiled kernel.

    Attributes:
        target: "sm_90", say.
        case: of `cases.py`, or a source in csrc/cuda.
        kernel: its function's name; with a number where a call launches several of that name.
        registers: of a thread.
        spills: instructions that move registers to memory and back.
        stack: bytes of a thread.
        shared: bytes of shared memory of a program.
        loop: instructions of the innermost loop with the most of them; 0 without a loop.
        mix: its most frequent instructions.
        matrix: kind of the matrix instructions in loops; "" without any.
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

    @property
    def by_nvcc(self) -> bool:
        """Tell whether the kernel is one of csrc/cuda, of which the case is a source."""
        return self.case.endswith(".cu")


def figures_of(loops: Loop) -> dict[str, Any]:
    """Read off a kernel's loops what its figures have of them."""
    inner = max(loops.innermost(), key=lambda loop: (_matrix(loop.mix) != "", sum(loop.mix.values())), default=None)
    mix: Counter[str] = inner.mix if inner else Counter()
    looped = sum((loop.all() for loop in loops.inner), Counter[str]())
    return {"loop": sum(mix.values()), "mix": dict(mix.most_common(8)), "matrix": _matrix(looped)}


def _matrix(mix: Counter[str]) -> str:
    return next((kind for kind in _MATRIX_KINDS if any(name.startswith(kind) for name in mix)), "")


def complaints(figures: Figures, budgets: dict[str, Any]) -> list[str]:
    """Say what a kernel goes beyond: its budget, and what none may do on its target."""
    what = f"{figures.target} {figures.key}"
    budget = budgets.get(figures.target, {}).get(figures.key)
    said = []
    spills, stack = (0, 0) if budget is None else (budget.get("spills", 0), budget.get("stack", 0))
    if figures.spills > spills:
        said.append(f"{what}: {figures.spills} instructions spill registers; there must be {spills or 'none'}.")
    if figures.stack > stack:
        said.append(f"{what}: a stack of {figures.stack} bytes; there must be {stack or 'none'}.")
    limit = SHARED_LIMITS[figures.target] * 1024
    if figures.shared > limit:
        said.append(f"{what}: {figures.shared} bytes of shared memory; the target has {limit}.")
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


def spilled(figures: Figures) -> list[str]:
    """Say where an older Triton's code spills more than is known; all else in a budget is of one version."""
    allowed = OLDER_SPILLS.get(figures.key, 0)
    if figures.spills <= allowed:
        return []
    what = f"{figures.target} {figures.key}"
    return [f"{what}: {figures.spills} instructions spill registers; there must be {allowed or 'none'}."]


def budget_of(figures: Figures) -> dict[str, Any]:
    """Give the budget that figures call for, a little above them; spills and stack as they are, and of nvcc alone."""
    room = {name: int(getattr(figures, name) * factor) for name, factor in _HEADROOM.items()}
    most = 512 if figures.target.startswith("gfx") else 255
    kept = {"spills": figures.spills, "stack": figures.stack} if figures.by_nvcc else {}
    kept = {name: number for name, number in kept.items() if number}
    return {**room, **kept, "registers": min(room["registers"], most), "matrix": figures.matrix}


def write_budgets(found: Sequence[Figures], path: Path = BUDGETS) -> None:
    """Write the budgets of these kernels, and keep those of others."""
    budgets = json.loads(path.read_text()) if path.exists() else {}
    for figures in found:
        budgets.setdefault(figures.target, {})[figures.key] = budget_of(figures)
    path.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n")
