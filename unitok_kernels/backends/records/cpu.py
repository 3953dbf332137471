"""C++ kernels for CPU tensors, from `csrc/cpu`."""

from __future__ import annotations

import importlib

from unitok_kernels.backends.native import unbuilt
from unitok_kernels.backends.record import Backend, InstructionSets, NativeModule

MODULE = "unitok_kernels._cpu"
REMEDY = "install a C++17 compiler, such as by `apt install g++`, and UniTok again by `pip install --force-reinstall .`"


def _unbuilt() -> str | None:
    return unbuilt(MODULE, REMEDY)


def _missing() -> str | None:
    if (reason := _unbuilt()) is not None:
        return reason
    try:
        importlib.import_module(MODULE).instruction_set()
    except ValueError as error:  # about UNITOK_CPU, which its text names
        return str(error).rstrip(".")
    return None


def _instructions() -> InstructionSets:
    module = importlib.import_module(MODULE)
    return InstructionSets(module.instruction_set(), module.instruction_sets())


def _details(operations: frozenset[str]) -> str:
    used, usable = _instructions()
    return f", instruction set {used} of {', '.join(usable)} (UNITOK_CPU forces one)"


def _built_for() -> str:
    return ", ".join(importlib.import_module(MODULE).instruction_sets())


BACKEND = Backend(
    name="cpu",
    preference=10,
    missing=_missing,
    devices=("cpu",),
    details=_details,
    module=NativeModule("_cpu", _unbuilt, _built_for),
    variable="UNITOK_CPU",
    instructions=_instructions,
)
