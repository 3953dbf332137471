"""What the launchers of the CUDA kernels share."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from unitok_kernels import backends
from unitok_kernels.ops.common import FLOATS

__all__ = ["FLOATS", "MOST", "instead", "kernels", "place", "takes", "workspace"]

EMULATED = backends.emulated()
kernels: Any = importlib.import_module("unitok_kernels._cuda")

MOST = 2**31 - 1  # rows or codewords that are sorted: their numbers have 32 bits


def place(x: Tensor) -> tuple[int, int]:
    """Name the device of a tensor and its current stream, as the kernels take them."""
    if EMULATED:
        return 0, 0
    index = x.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)


def workspace(x: Tensor, size: int) -> Tensor:
    """Make room for what a kernel keeps in between."""
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def instead(operation: str) -> Any:
    """Give the kernels of the backend that takes what these don't: Triton's, or else the reference."""
    return backends.kernels(operation, "triton" if backends.available()["triton"] else "reference")


def takes(*codebooks: Tensor | None) -> bool:
    """Tell whether the kernels search such codebooks: wider rows are another backend's."""
    return all(
        c is None or (c.shape[-1] <= kernels.widest and c.shape[-2] <= kernels.most_codewords) for c in codebooks
    )
