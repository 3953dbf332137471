"""Which backends exist, which one a call gets, and why.

A backend is one file an operation, `ops/<operation>/<backend>.py`, and one line in `_BACKENDS`. The rules:
an explicit `backend=` wins, then the environment variable UNITOK_BACKEND, then the first entry of
`_PREFERENCE` for the tensor's device that can take the call. The first two are demands, and so is the instruction set
that UNITOK_CPU names for the backend "cpu": if they can't be met, the call raises rather than quietly running something
else.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from unitok_kernels import nvcc

if TYPE_CHECKING:
    import torch

_OPS = Path(__file__).parent / "ops"
_CPU, _CUDA = "unitok_kernels._cpu", "unitok_kernels._cuda"

REMEDY = "install a C++17 compiler, such as by `apt install g++`, and UniTok again by `pip install --force-reinstall .`"


def _native(module: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        if importlib.util.find_spec(module) is None:
            return f"the native module {module} is not built"
        try:
            importlib.import_module(module)
        except ImportError as error:  # built for another Python or C library
            return f"the native module {module} can't be loaded: {error}"
        return None

    return missing


def _cpu_unbuilt() -> str | None:
    reason = _native(_CPU)()
    return reason and f"{reason} ({REMEDY})"


def _cpu_missing() -> str | None:
    if (reason := _cpu_unbuilt()) is not None:
        return reason
    try:
        importlib.import_module(_CPU).instruction_set()
    except ValueError as error:  # of UNITOK_CPU, which it has worded
        return str(error).rstrip(".")
    return None


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'unitok-kernels[gpu]')"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA device, and TRITON_INTERPRET=1 is not set"


def emulated() -> bool:
    """Tell whether the CUDA kernels are run on the host, as only tests do: UNITOK_CUDA_EMULATED names their module."""
    if (path := os.environ.get("UNITOK_CUDA_EMULATED")) is None:
        return False
    if _CUDA not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(_CUDA, path)
        spec = importlib.util.spec_from_file_location(_CUDA, path, loader=loader)
        assert spec is not None
        sys.modules[_CUDA] = module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    return True


def _architectures() -> str:
    if emulated():
        return "the host, emulated (UNITOK_CUDA_EMULATED)"
    return ", ".join(f"sm_{a // 10}" for a in importlib.import_module(_CUDA).architectures) + " and newer"


def _products() -> str:
    module = importlib.import_module(_CUDA)
    devices = range(1 if emulated() else len(module.devices()))
    if found := [str(device) for device in devices if module.by_warpgroups(module.widest, device)]:
        return f"rows of more than 64 columns by wgmma on device {', '.join(found)} (UNITOK_WGMMA=1)"
    return "all rows by mma.sync"


def _cuda_unbuilt() -> str | None:
    reason = None if emulated() else _native(_CUDA)()
    install = "" if nvcc.find() else f"`{nvcc.INSTALL}` brings nvcc; "
    return reason and f"{reason} ({install}with nvcc, `{nvcc.BUILD}` in a checkout builds it)"


def _cuda_missing() -> str | None:
    if (reason := _cuda_unbuilt()) is not None or emulated():
        return reason
    module = importlib.import_module(_CUDA)
    try:
        devices = module.devices()
    except RuntimeError as error:  # there is no driver, or it is too old, or no device
        return f"its module is built, but {error} (where there is a GPU, install or update NVIDIA's driver)"
    newest = module.architectures[-1]  # as PTX too, which newer devices compile
    for name, device in devices:
        if device < newest and not any(device // 100 == a // 100 and device >= a for a in module.architectures):
            again = f"`UNITOK_CUDA_ARCHS={device // 10} {nvcc.BUILD}` in a checkout builds it for that"
            step = again if device >= 800 else "the kernels need sm_80"
            return f"its module is built for {_architectures()}, and {name} is an sm_{device // 10} ({step})"
    return None


def modules() -> dict[str, str]:
    """Tell how the native modules are built.

    Returns:
        dict: name -> what it is built for; or that it isn't, and what builds it.
    """
    return {
        "_cpu": _cpu_unbuilt() or f"built for {', '.join(importlib.import_module(_CPU).instruction_sets())}",
        "_cuda": _cuda_unbuilt() or f"built for {_architectures()}",
    }


_BACKENDS: dict[str, Callable[[], str | None]] = {
    "reference": lambda: None,
    "cpu": _cpu_missing,
    "triton": _triton_missing,
    "cuda": _cuda_missing,
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
    if backend == "cuda" and emulated():
        return None
    wanted = "cpu" if backend == "cpu" else "cuda"
    return None if device_type == wanted else f"it takes {wanted} tensors, not {device_type}"


def available() -> dict[str, bool]:
    """Tell which backends can run on this machine.

    Returns:
        dict: backend name -> whether at least one operation can run on it, in a fixed order.
    """
    return {name: _why_not(name) is None for name in _BACKENDS}


def instruction_set() -> str | None:
    """Name the instruction set that the CPU kernels use: the best there is, or the one that UNITOK_CPU names.

    Returns:
        str: "avx512", "avx2" or "generic"; None where the kernels can't run.
    """
    return None if _why_not("cpu") else importlib.import_module(_CPU).instruction_set()


def instruction_sets() -> list[str]:
    """List the instruction sets that the CPU kernels could use here, the plainest first; none where they can't run."""
    return [] if _why_not("cpu") else importlib.import_module(_CPU).instruction_sets()


def misnamed() -> str | None:
    """Say what is wrong with UNITOK_CPU, or None: a demand that can't be met, and no call runs on something else."""
    reason = _why_not("cpu")
    return reason if reason is not None and reason.startswith("UNITOK_CPU") else None


def explain() -> str:
    """Say in plain lines which backends there are, why others are missing, and what a call would get.

    Returns:
        str: one line a backend, then one a device type; for people, not for parsing.
    """
    lines = []
    for name in _BACKENDS:
        reason = _why_not(name)
        state = f"available, {len(_operations(name))} operations" if reason is None else f"not available: {reason}"
        if name == "cpu" and reason is None:
            state += f", instruction set {instruction_set()} of {', '.join(instruction_sets())} (UNITOK_CPU forces one)"
        if name == "cuda" and reason is None:
            state += f" ({', '.join(sorted(_operations(name)))}), for {_architectures()}; {_products()}"
        lines.append(f"{name}: {state}")
    forced = os.environ.get("UNITOK_BACKEND")
    for device_type, order in _PREFERENCE.items():
        usable = [name for name in order if _why_not(name) is None]
        choice = f"{forced} (UNITOK_BACKEND)" if forced else " then ".join(usable)
        lines.append(f"{device_type} tensors: {choice}")
    return "\n".join(lines)


@cache
def _preferred(operation: str, device_type: str, is_float64: bool) -> str:
    if device_type == "cpu" and (wrong := misnamed()) is not None:
        raise ValueError(f"{operation}: {wrong}.")
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
