"""What the kernel tests share: every backend that can run here, on its device, with poisoned empty memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from unitok_kernels import backends


def _instruction_sets() -> list[str]:
    """Those that the CPU kernels can run on here, the best first; the one that UNITOK_CPU names, if it names one."""
    if not backends.available()["cpu"]:
        return []
    from unitok_kernels import _cpu

    return [_cpu.instruction_set()] if os.environ.get("UNITOK_CPU") else _cpu.instruction_sets()[::-1]


def _homes() -> list[Any]:
    """(backend, device, instruction set or None) of everything that can run on this machine."""
    there = [name for name, is_there in backends.available().items() if is_there]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    homes = [(name, "cpu", None) for name in there if name == "reference" or (name == "triton" and interpreted)]
    homes += [("cpu", "cpu", name) for name in _instruction_sets()]
    if torch.cuda.is_available():
        homes += [(name, "cuda", None) for name in there if name != "cpu"]
    return [
        pytest.param(
            (backend, device, instructions),
            id=f"{backend}-{instructions or device}",
            marks=pytest.mark.gpu if device == "cuda" else (),
        )
        for backend, device, instructions in homes
    ]


@contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    from unitok_kernels import _cpu

    before = _cpu.instruction_set()
    _cpu.use_instruction_set(name)
    try:
        yield
    finally:
        _cpu.use_instruction_set(before)


@pytest.fixture(params=_homes())
def home(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A backend and the device that its tensors live on; the CPU kernels once an instruction set."""
    backend, device, instructions = request.param
    with _instruction_set(instructions) if instructions else nullcontext():
        yield backend, device


@pytest.fixture
def backend(home: tuple[str, str]) -> str:
    return home[0]


@pytest.fixture
def interpreted(home: tuple[str, str]) -> bool:
    """Tell whether kernels are only interpreted, so slowly that a test should take less."""
    return home == ("triton", "cpu")


@pytest.fixture
def run(home: tuple[str, str]) -> Callable[..., Any]:
    """Call an operation on the backend: tensors go to its device, results come back; skipped where it has no kernel."""
    backend, device = home

    def call(operation: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        folder = operation.__module__.split(".")[-2]  # unitok_kernels.ops.<folder>.op
        try:
            backends.choose(folder, backend, torch.device(device), False)
        except ValueError as refusal:
            pytest.skip(str(refusal))
        arguments, keywords = pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), (arguments, keywords))
        found = operation(*arguments, backend=backend, **keywords)
        return pytree.tree_map_only(torch.Tensor, lambda x: x.cpu(), found)

    return call


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty is filled with NaN and the largest integers, so that an output left unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_and_two_threads() -> Iterator[Callable[[Callable[[], Any]], list[Any]]]:
    """Run a function with one thread and with two, and give both results."""
    before = torch.get_num_threads()

    def both(function: Callable[[], Any]) -> list[Any]:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    yield both
    torch.set_num_threads(before)
