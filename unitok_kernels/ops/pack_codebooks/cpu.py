"""The CPU kernels read codebooks as they are."""

from unitok_kernels.ops.pack_codebooks.reference import pack_codebooks

__all__ = ["pack_codebooks"]
