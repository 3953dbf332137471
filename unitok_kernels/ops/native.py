"""What the launchers of the CPU kernels share."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import _cpu as kernels
from unitok_kernels.ops.common import FLOATS

__all__ = ["FLOATS", "float32", "kernels"]


def float32(x: Tensor) -> Tensor:
    """Codebooks, contiguous as the registry gives them, as the kernels read them."""
    return x if x.dtype == torch.float32 else x.float()
