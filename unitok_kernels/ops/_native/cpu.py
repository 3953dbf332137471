"""What the launchers of the CPU kernels share."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import _cpu as kernels
from unitok_kernels.ops.common import FLOATS

__all__ = ["FLOATS", "float32", "kernels"]


def float32(x: Tensor) -> Tensor:
    """Convert codebooks to the dtype that the kernels read; the registry has made them contiguous."""
    return x if x.dtype == torch.float32 else x.float()
