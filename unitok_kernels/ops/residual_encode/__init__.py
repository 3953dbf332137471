"""Residual encoding with one codebook per level."""

from unitok_kernels.ops.residual_encode.op import ResidualCodes, residual_encode

__all__ = ["ResidualCodes", "residual_encode"]
