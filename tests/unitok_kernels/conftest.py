"""What the kernel tests share: every backend that can run here, on its device, with poisoned empty memory."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest

from unitok_kernels import backends
from unitok_kernels.backends.record import Backend


def _instruction_sets(record: Backend) -> list[str | None]:
    """Those that a backend can run on here, the best first; the one that its variable names, if it names one."""
    if record.instructions is None:
        return [None]
    used, usable = record.instructions()
    return [used] if os.environ.get(record.variable or "") else [*reversed(usable)]


@cache
def _homes() -> list[Any]:
    """(backend, device, instruction set or None) of everything that can run on this machine."""
    import torch

    there = [record for record in backends.records().values() if backends.available()[record.name]]
    on_host = [record for record in there if not record.needs_gpu()]
    homes = [(record.name, "cpu", name) for record in on_host for name in _instruction_sets(record)]
    if torch.cuda.is_available():
        homes += [(r.name, "cuda", None) for r in there if r.serves("cuda") and not r.on_host()]
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "home" in metafunc.fixturenames:  # looked up when tests are collected: xdist's own process needs no torch
        metafunc.parametrize("home", _homes(), indirect=True)


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A backend and the device that its tensors live on; the CPU kernels once per instruction set."""
    backend, device, instructions = request.param
    with _instruction_set(instructions) if instructions else nullcontext():
        yield backend, device


@pytest.fixture
def backend(home: tuple[str, str]) -> str:
    return home[0]


@pytest.fixture
def interpreted(home: tuple[str, str]) -> bool:
    """Triton's interpreter and the emulator take milliseconds for each program of a launch: fewer of them there."""
    return backends.records()[home[0]].on_host()


@pytest.fixture
def few(interpreted: bool) -> Callable[..., Any]:
    """`few(many, some)`: some where kernels are interpreted."""
    return lambda many, some: some if interpreted else many


@pytest.fixture
def run(home: tuple[str, str]) -> Callable[..., Any]:
    """Call an operation on the backend: tensors go to its device, results come back; skipped where it has no kernel."""
    import torch
    from torch.utils import _pytree as pytree

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


@pytest.fixture
def sampled(interpreted: bool) -> Callable[..., Any]:
    """`sampled(rows, most=16)`: all of them; but so many in equal steps where kernels are interpreted."""
    return lambda rows, most=16: rows[:: max(1, len(rows) // most)][:most] if interpreted else rows


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Iterator[None]:
    """Leave out what Triton's interpreter does for nothing.

    At each call of a device function it looks for what to replace in its language: here, once. And it works out whether
    an integer overflowed, to tell an assertion that it never makes.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    builtins: dict[Any, list[tuple[str, Any]]] = {}

    def replace(package: Any, builder: Any, scope: Any) -> None:
        if package not in builtins:
            members = inspect.getmembers(package)
            builtins[package] = [(name, member) for name, member in members if interpreter.tl.core.is_builtin(member)]
        for name, member in builtins[package]:
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, builder, scope)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", replace)
        options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", options)
        yield


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty is filled with NaN and the largest integers, so that an output left unwritten shows."""
    import torch

    # What torch.use_deterministic_algorithms does, but for importing the compiler: as long as many a file's tests take.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    yield
    torch._C._set_deterministic_algorithms(False)


@pytest.fixture
def one_and_two_threads() -> Iterator[Callable[[Callable[[], Any]], list[Any]]]:
    """Run a function with one thread and with two, and give both results."""
    import torch

    before = torch.get_num_threads()

    def both(function: Callable[[], Any]) -> list[Any]:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    yield both
    torch.set_num_threads(before)
