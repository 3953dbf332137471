"""The operations, one folder each; importing this package registers them all as torch.ops.unitok_kernels.<name>."""

from unitok_kernels.ops import (
    codeword_statistics,
    hsic,
    kmeans,
    moe_residual_encode,
    nearest_codeword,
    ordered_linear,
    pack_codebooks,
    residual_decode,
    residual_encode,
    residual_loss,
    residual_straight_through,
    sinkhorn_assign,
)

__all__ = [
    "codeword_statistics",
    "hsic",
    "kmeans",
    "moe_residual_encode",
    "nearest_codeword",
    "ordered_linear",
    "pack_codebooks",
    "residual_decode",
    "residual_encode",
    "residual_loss",
    "residual_straight_through",
    "sinkhorn_assign",
]


def __dir__() -> list[str]:
    return sorted(__all__)
