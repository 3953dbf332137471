"""What the launchers of the CUDA kernels share."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from unitok_kernels import backends
from unitok_kernels.backends.records.cuda import BACKEND, MODULE, emulated
from unitok_kernels.ops.common import FLOATS

__all__ = ["FLOATS", "MOST", "instead", "kernels", "place", "takes", "workspace"]

EMULATED = emulated()
kernels: Any = importlib.import_module(MODULE)

MOST = 2**31 - 1  # rows or codewords that can be sorted: their numbers have 32 bits


def place(x: Tensor) -> tuple[int, int]:
    """Give a tensor's device number and its current stream, as the kernels take them."""
    if EMULATED:
        return 0, 0
    index = x.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)


def workspace(x: Tensor, size: int) -> Tensor:
    """Make room for a kernel's intermediate results."""
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def instead(operation: str) -> Any:
    """Give the kernels that take what these don't: those of the next backend in order that has the operation."""
    return backends.kernels(operation, backends.after(BACKEND.name, operation))


def takes(*codebooks: Tensor | None) -> bool:
    """Tell whether the kernels can search such codebooks; wider rows go to another backend."""
    return all(
        c is None or (c.shape[-1] <= kernels.widest and c.shape[-2] <= kernels.most_codewords) for c in codebooks
    )
