"""Every kernel's figures, measured in processes of their own; a worker can import this module, but no `__main__`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tools.aot import cuda, triton
from tools.aot.budgets import Figures
from tools.aot.cases import CASES, Case


def measure_all(
    targets: Sequence[str], cases: Sequence[Case], sources: Sequence[str] = (), processes: int = 2
) -> list[Figures]:
    """Measure sources by nvcc and cases by Triton, in processes of their own; both keep what they compiled."""
    jobs = [(target, source) for source in sources for target in targets if cuda.architecture(target, source)]
    jobs += [(target, case.name) for case in cases for target in targets]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [figures for part in pool.map(_job, jobs) for figures in part]


def _job(job: tuple[str, str]) -> list[Figures]:
    target, name = job
    if name.endswith(".cu"):
        return cuda.measure(target, name)
    return triton.measure(target, next(case for case in CASES if case.name == name))
