"""What the launchers of the CPU kernels share: number types, and the slow look at input that a kernel found bad."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import _cpu as kernels

__all__ = ["BAD_CODEBOOK", "BAD_EXPERT", "BAD_ROW", "BAD_WEIGHT", "FLOATS", "float32", "kernels"]

FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # `Float` in csrc/cpu/number.h

BAD_ROW, BAD_CODEBOOK, BAD_EXPERT, BAD_WEIGHT = 1, 2, 4, 8  # `Status` in csrc/cpu/residual_encode.h


def float32(x: Tensor) -> Tensor:
    """Codebooks as the kernels read them."""
    return x.float().contiguous()
