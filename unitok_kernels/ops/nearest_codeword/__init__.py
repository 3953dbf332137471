"""Nearest-codeword search."""

from unitok_kernels.ops.nearest_codeword.op import NearestCodeword, nearest_codeword

__all__ = ["NearestCodeword", "nearest_codeword"]
