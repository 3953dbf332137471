"""Codes back to vectors."""

from unitok_kernels.ops.residual_decode.op import residual_decode

__all__ = ["residual_decode"]
