"""Which backends exist, which one a call gets, and why.

A backend is one file an operation, `ops/<operation>/<backend>.py`, and one line in `_BACKENDS`. The rules:
an explicit `backend=` wins, then the environment variable UNITOK_BACKEND, then the first entry of
`_PREFERENCE` for the tensor's device that can take the call. The first two are demands: if they can't be met, the
call raises rather than quietly running something else.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OPS = Path(__file__).parent / "ops"


def _native(module: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        if importlib.util.find_spec(module) is None:
            return f"the native module {module} is not built"
        return None

    return missing


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'unitok-kernels[gpu]')"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA device, and TRITON_INTERPRET=1 is not set"


_BACKENDS: dict[str, Callable[[], str | None]] = {
    "reference": lambda: None,
    "cpu": _native("unitok_kernels._cpu"),
    "triton": _triton_missing,
    "cuda": _native("unitok_kernels._cuda"),
}

_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


@cache
def _operations(backend: str) -> frozenset[str]:
    return frozenset(path.parent.name for path in _OPS.glob(f"*/{backend}.py"))


@cache
def _why_not(backend: str) -> str | None:
    """The reason why `backend` can run nothing at all, or None."""
    if not _operations(backend):
        return "this release has no kernels for it"
    return _BACKENDS[backend]()


def _refusal(operation: str, backend: str, device_type: str, is_float64: bool) -> str | None:
    """The reason why `backend` can't run this call, or None."""
    if (reason := _why_not(backend)) is not None:
        return reason
    if operation not in _operations(backend):
        return "it has no kernel for this operation"
    if backend == "reference":
        return None
    if is_float64:
        return "float64 runs on the reference alone"
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    wanted = "cpu" if backend == "cpu" else "cuda"
    return None if device_type == wanted else f"it takes {wanted} tensors, not {device_type}"


def available() -> dict[str, bool]:
    """Tell which backends can run on this machine.

    Returns:
        dict: backend name -> whether at least one operation can run on it, in a fixed order.
    """
    return {name: _why_not(name) is None for name in _BACKENDS}


def explain() -> str:
    """Say in plain lines which backends there are, why others are missing, and what a call would get.

    Returns:
        str: one line a backend, then one a device type; for people, not for parsing.
    """
    lines = []
    for name in _BACKENDS:
        reason = _why_not(name)
        state = f"available, {len(_operations(name))} operations" if reason is None else f"not available: {reason}"
        lines.append(f"{name}: {state}")
    forced = os.environ.get("UNITOK_BACKEND")
    for device_type, order in _PREFERENCE.items():
        usable = [name for name in order if _why_not(name) is None]
        choice = f"{forced} (UNITOK_BACKEND)" if forced else " then ".join(usable)
        lines.append(f"{device_type} tensors: {choice}")
    return "\n".join(lines)


@cache
def _preferred(operation: str, device_type: str, is_float64: bool) -> str:
    order = _PREFERENCE.get(device_type, ("reference",))
    return next(b for b in order if _refusal(operation, b, device_type, is_float64) is None)


def choose(operation: str, requested: str | None, device: torch.device, is_float64: bool) -> str:
    """Name the backend that a call gets.

    Args:
        operation: name of the operation's folder.
        requested: the caller's `backend=`, or None.
        device: device of the first input.
        is_float64: whether any input is.

    Returns:
        str: a backend name.

    Raises:
        ValueError: the demanded backend is unknown or can't take this call.
    """
    demanded = requested or os.environ.get("UNITOK_BACKEND") or None
    if demanded is None:
        return _preferred(operation, device.type, is_float64)
    asked = "backend" if requested else "UNITOK_BACKEND"
    if demanded not in _BACKENDS:
        names = ", ".join(_BACKENDS)
        raise ValueError(f"{operation}: {asked} must be one of {names}, got {demanded!r}. Leave it unset to choose.")
    if (reason := _refusal(operation, demanded, device.type, is_float64)) is not None:
        raise ValueError(
            f"{operation}: {asked} must be able to run this call, got {demanded!r}: {reason}. "
            "unitok_kernels.backends.explain() lists what is available."
        )
    return demanded


@cache
def kernels(operation: str, backend: str) -> ModuleType:
    """Import the kernels of one operation on one backend, once."""
    return importlib.import_module(f"unitok_kernels.ops.{operation}.{backend}")
