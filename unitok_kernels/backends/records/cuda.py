"""CUDA kernels for CUDA tensors, from `csrc/cuda`; emulated on the host for others, which tests ask for."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys

from unitok_kernels import nvcc, rules
from unitok_kernels.backends.native import unbuilt
from unitok_kernels.backends.record import Backend, NativeModule

MODULE = "unitok_kernels._cuda"


def emulated() -> bool:
    """Tell whether the CUDA kernels are run on the host, as only tests do.

    Returns:
        bool: whether UNITOK_CUDA_EMULATED names their module; it is loaded, then.

    Raises:
        ImportError: what it names can't be loaded.
    """
    if (path := os.environ.get("UNITOK_CUDA_EMULATED")) is None:
        return False
    if MODULE not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(MODULE, path)
        spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
        assert spec is not None
        try:
            module = importlib.util.module_from_spec(spec)
        except ImportError as error:
            step = f"{error}. Unset it to use a device."
            rules.fail(
                "backends", "UNITOK_CUDA_EMULATED", "the path of the emulated module", repr(path), step, ImportError
            )
        sys.modules[MODULE] = module
        loader.exec_module(module)
    return True


def _built_for() -> str:
    if emulated():
        return "the host, emulated (UNITOK_CUDA_EMULATED)"
    return ", ".join(f"sm_{a // 10}" for a in importlib.import_module(MODULE).architectures) + " and newer"


def _unbuilt() -> str | None:
    install = "" if nvcc.find() else f"`{nvcc.INSTALL}` brings nvcc; "
    remedy = f"{install}with nvcc, `{nvcc.BUILD}` in a checkout builds it"
    return None if emulated() else unbuilt(MODULE, remedy)


def _missing() -> str | None:
    if (reason := _unbuilt()) is not None or emulated():
        return reason
    module = importlib.import_module(MODULE)
    try:
        devices = module.devices()
    except RuntimeError as error:  # there is no driver, or it is too old, or no device
        return f"its module is built, but {error} (where there is a GPU, install or update NVIDIA's driver)"
    newest = module.architectures[-1]  # as PTX too, which newer devices compile
    for name, device in devices:
        if device < newest and not any(device // 100 == a // 100 and device >= a for a in module.architectures):
            again = f"`UNITOK_CUDA_ARCHS={device // 10} {nvcc.BUILD}` in a checkout builds it for that"
            step = again if device >= 800 else "the kernels need sm_80"
            return f"its module is built for {_built_for()}, and {name} is an sm_{device // 10} ({step})"
    return None


def _details(operations: frozenset[str]) -> str:
    module = importlib.import_module(MODULE)
    devices = range(1 if emulated() else len(module.devices()))
    products = "all rows by mma.sync"
    if found := [str(device) for device in devices if module.by_warpgroups(module.widest, device)]:
        products = f"rows of more than 64 columns by wgmma on device {', '.join(found)} (UNITOK_WGMMA=1)"
    return f" ({', '.join(sorted(operations))}), for {_built_for()}; {products}"


BACKEND = Backend(
    name="cuda",
    preference=30,
    missing=_missing,
    devices=("cuda",),
    on_host=emulated,
    reads_packed=True,
    details=_details,
    module=NativeModule("_cuda", _unbuilt, _built_for),
)
