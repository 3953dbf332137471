"""The Triton kernels pack codebooks in every call, since the form depends on the tiles of the search."""

from unitok_kernels.ops.pack_codebooks.reference import pack_codebooks

__all__ = ["pack_codebooks"]
