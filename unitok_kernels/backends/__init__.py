"""Which backends there are, which one a call gets, and why.

A backend is a record, `backends/records/<backend>.py`, and a file for each operation that it has kernels for,
`ops/<operation>/<backend>.py`. Both are found by their names. Elsewhere a backend is named only by what serves it
alone: `numpy` and `ops/_native/cpu` serve the CPU kernels, `ops/_native/cuda` and `emulated` the CUDA kernels.

An explicit `backend=` wins, then the environment variable UNITOK_BACKEND, then the most preferred backend that can take
the call. The first two are demands, and so is an environment variable that a record names, such as UNITOK_CPU: if a
demand can't be met, the call raises rather than quietly running on something else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from unitok_kernels.backends.record import Backend, InstructionSets
from unitok_kernels.backends.records.cuda import emulated

if TYPE_CHECKING:
    import torch

__all__ = [
    "after",
    "available",
    "choose",
    "documented",
    "emulated",
    "explain",
    "forget",
    "having",
    "instruction_set",
    "instruction_sets",
    "kernels",
    "misnamed",
    "modules",
    "operations_of",
    "records",
]

Documented = TypeVar("Documented")

_RECORDS = Path(__file__).with_name("records")
_OPS = Path(__file__).parents[1] / "ops"


@cache
def records() -> dict[str, Backend]:
    """Give every backend's record.

    Returns:
        dict: name -> record, the least preferred backend first.
    """
    names = sorted(path.stem for path in _RECORDS.glob("[a-z]*.py"))
    found = [importlib.import_module(f"{__name__}.records.{name}").BACKEND for name in names]
    return {record.name: record for record in sorted(found, key=lambda record: record.preference)}


def _serving(device_type: str) -> list[Backend]:
    """The backends made for tensors of such devices, the most preferred first."""
    return [record for record in reversed(records().values()) if record.serves(device_type)]


@cache
def operations_of(backend: str) -> frozenset[str]:
    """Name the operations that a backend has kernels for, whether or not it can run here.

    Args:
        backend: a backend's name.

    Returns:
        frozenset: names of the operations' folders.
    """
    return frozenset(path.parent.name for path in _OPS.glob(f"[a-z]*/{backend}.py"))


@cache
def _why_not(backend: str) -> str | None:
    """The reason why `backend` can't run anything, or None."""
    if not operations_of(backend):
        return "this release has no kernels for it"
    return records()[backend].missing()


def _refusal(operation: str, backend: str, device_type: str, is_float64: bool) -> str | None:
    """The reason why `backend` can't run this call, or None."""
    if (reason := _why_not(backend)) is not None:
        return reason
    if operation not in operations_of(backend):
        return "it has no kernel for this operation"
    record = records()[backend]
    if is_float64 and not record.takes_float64:
        able = " and the ".join(other.name for other in records().values() if other.takes_float64)
        return f"float64 runs on the {able} alone"
    if record.devices is None or device_type in record.devices or record.on_host():
        return None
    return f"it takes {' or '.join(record.devices)} tensors, not {device_type}"


def _unmet(record: Backend) -> str | None:
    """What the environment demands of a backend and can't have, or None."""
    if record.variable is None:
        return None
    reason = _why_not(record.name)
    return reason if reason is not None and reason.startswith(record.variable) else None


def available() -> dict[str, bool]:
    """Tell which backends can run on this machine.

    Returns:
        dict: backend name -> whether it can run at least one operation, in a fixed order.
    """
    return {name: _why_not(name) is None for name in records()}


def having(*operations: str) -> tuple[str, ...]:
    """Name the backends that have kernels for all of these operations, whether or not they can run here.

    Args:
        operations: names of the operations' folders.

    Returns:
        tuple: backend names, the least preferred first.
    """
    return tuple(name for name in records() if operations_of(name).issuperset(operations))


def _instructions() -> InstructionSets | None:
    given = [r.instructions() for r in records().values() if r.instructions is not None and _why_not(r.name) is None]
    return given[0] if given else None


def instruction_set() -> str | None:
    """Name the instruction set that the CPU kernels use: the best there is, or the one that UNITOK_CPU names.

    Returns:
        str: "avx512", "avx2" or "generic"; None where the kernels can't run.
    """
    return None if (found := _instructions()) is None else found.used


def instruction_sets() -> list[str]:
    """List the instruction sets that the CPU kernels could use here.

    Returns:
        list: their names, the plainest first; none where the kernels can't run.
    """
    return [] if (found := _instructions()) is None else found.usable


def misnamed() -> str | None:
    """Say what is wrong with UNITOK_CPU: a demand that can't be met, so calls on CPU tensors raise.

    Returns:
        str: the reason; None where nothing is wrong, or nothing is demanded.
    """
    return next(filter(None, map(_unmet, records().values())), None)


def modules() -> dict[str, str]:
    """Tell how the native modules are built.

    Returns:
        dict: name -> what it is built for; or that it isn't built, and what builds it.
    """
    native = [record.module for record in records().values() if record.module is not None]
    return {module.name: module.unbuilt() or f"built for {module.built_for()}" for module in native}


def explain() -> str:
    """Say in plain lines which backends there are, why others are missing, and what a call would get.

    Returns:
        str: one line per backend, then one per device type; for people, not for parsing.
    """
    lines = []
    for name, record in records().items():
        has = operations_of(name)
        reason = _why_not(name)
        state = (
            f"available, {len(has)} operations{record.details(has)}" if reason is None else f"not available: {reason}"
        )
        lines.append(f"{name}: {state}")
    forced = os.environ.get("UNITOK_BACKEND")
    for device_type in dict.fromkeys(kind for record in records().values() for kind in record.devices or ()):
        usable = [record.name for record in _serving(device_type) if _why_not(record.name) is None]
        choice = f"{forced} (UNITOK_BACKEND)" if forced else " then ".join(usable)
        lines.append(f"{device_type} tensors: {choice}")
    return "\n".join(lines)


@cache
def _preferred(operation: str, device_type: str, is_float64: bool, call: str) -> str:
    serving = _serving(device_type)
    if (wrong := next(filter(None, map(_unmet, serving)), None)) is not None:
        raise ValueError(f"{call}: {wrong}.")
    return next(r.name for r in serving if _refusal(operation, r.name, device_type, is_float64) is None)


def choose(
    operation: str, requested: str | None, device: torch.device, is_float64: bool, call: str | None = None
) -> str:
    """Name the backend that a call gets.

    Args:
        operation: name of the operation's folder.
        requested: the caller's `backend=`, or None.
        device: device of the first input.
        is_float64: whether any input is float64.
        call: what errors name as the call, if it isn't `operation`.

    Returns:
        str: a backend name.

    Raises:
        ValueError: the demanded backend is unknown or can't take this call.
    """
    demanded = requested or os.environ.get("UNITOK_BACKEND") or None
    if demanded is None:
        return _preferred(operation, device.type, is_float64, call or operation)
    asked = "backend" if requested else "UNITOK_BACKEND"
    if demanded not in records():
        names = ", ".join(records())
        raise ValueError(
            f"{call or operation}: {asked} must be one of {names}, got {demanded!r}. Leave it unset to choose."
        )
    if (reason := _refusal(operation, demanded, device.type, is_float64)) is not None:
        raise ValueError(
            f"{call or operation}: {asked} must be able to run this call, got {demanded!r}: {reason}. "
            "unitok_kernels.backends.explain() lists what is available."
        )
    return demanded


def after(backend: str, operation: str) -> str:
    """Name the backend that takes a call which another one can't.

    Args:
        backend: the backend that can't take it.
        operation: name of the operation's folder.

    Returns:
        str: the next backend in order on its devices that has kernels and can run.

    Raises:
        LookupError: there is none; but one backend has every operation.
    """
    own = records()[backend]
    for record in reversed(records().values()):
        has = record.preference < own.preference and operation in operations_of(record.name)
        if has and any(map(record.serves, own.devices or ())) and _why_not(record.name) is None:
            return record.name
    raise LookupError(operation)  # never: one backend has every operation


@cache
def kernels(operation: str, backend: str) -> ModuleType:
    """Import the kernels of one operation on one backend, once.

    Args:
        operation: name of the operation's folder.
        backend: a backend that has kernels for it.

    Returns:
        module: its functions have the operations' names.
    """
    return importlib.import_module(f"unitok_kernels.ops.{operation}.{backend}")


def forget() -> None:
    """Forget what was found: the next call looks again at what is built and what the environment asks for.

    A process looks only once otherwise; call this if you change either while it runs.
    """
    for found in (operations_of, _why_not, _preferred, kernels):
        found.cache_clear()


def documented(*operations: str) -> Callable[[Documented], Documented]:
    """Fill placeholders in a docstring.

    `{backends}` becomes the list of those that have all of these operations, `{packing}` those that pack codebooks.

    Args:
        operations: names of the operations' folders.

    Returns:
        Callable: the decorator; it returns what it is given.
    """

    def fill(documented: Documented) -> Documented:
        if documented.__doc__ is not None:  # python -OO leaves docstrings out
            options = ["None", *map(_quoted, having(*operations))]
            packing = [_quoted(record.name) for record in records().values() if record.reads_packed]
            text = documented.__doc__.replace("{backends}", " | ".join(options))
            documented.__doc__ = text.replace("{packing}", " and ".join(packing))
        return documented

    return fill


def __dir__() -> list[str]:
    return sorted(__all__)


def _quoted(name: str) -> str:
    return f'"{name}"'
