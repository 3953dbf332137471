"""Fused residual-quantisation operations for torch: one contract, several backends.

Importing this package imports neither torch nor a kernel; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok_kernels import backends
    from unitok_kernels.ops.codeword_statistics import codeword_statistics
    from unitok_kernels.ops.hsic import hsic
    from unitok_kernels.ops.kmeans import kmeans
    from unitok_kernels.ops.moe_residual_encode import MoEResidualCodes, moe_residual_encode
    from unitok_kernels.ops.nearest_codeword import NearestCodeword, nearest_codeword
    from unitok_kernels.ops.pack_codebooks import PackedCodebooks, pack_codebooks
    from unitok_kernels.ops.residual_decode import residual_decode
    from unitok_kernels.ops.residual_encode import ResidualCodes, residual_encode
    from unitok_kernels.ops.residual_loss import moe_residual_loss, residual_loss
    from unitok_kernels.ops.sinkhorn_assign import sinkhorn_assign
    from unitok_kernels.ops.stats import EncodeStats

__version__ = "0.1.0"

_HOME = {
    "codeword_statistics": "ops.codeword_statistics",
    "hsic": "ops.hsic",
    "kmeans": "ops.kmeans",
    "MoEResidualCodes": "ops.moe_residual_encode",
    "moe_residual_encode": "ops.moe_residual_encode",
    "NearestCodeword": "ops.nearest_codeword",
    "nearest_codeword": "ops.nearest_codeword",
    "PackedCodebooks": "ops.pack_codebooks",
    "pack_codebooks": "ops.pack_codebooks",
    "residual_decode": "ops.residual_decode",
    "ResidualCodes": "ops.residual_encode",
    "residual_encode": "ops.residual_encode",
    "moe_residual_loss": "ops.residual_loss",
    "residual_loss": "ops.residual_loss",
    "sinkhorn_assign": "ops.sinkhorn_assign",
    "EncodeStats": "ops.stats",
}

__all__ = [
    "EncodeStats",
    "MoEResidualCodes",
    "NearestCodeword",
    "PackedCodebooks",
    "ResidualCodes",
    "backends",
    "codeword_statistics",
    "hsic",
    "kmeans",
    "moe_residual_encode",
    "moe_residual_loss",
    "nearest_codeword",
    "pack_codebooks",
    "residual_decode",
    "residual_encode",
    "residual_loss",
    "sinkhorn_assign",
]


def __getattr__(name: str) -> Any:
    if name in ("backends", "nn", "ops"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "nn", "ops"])
