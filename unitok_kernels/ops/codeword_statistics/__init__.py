"""Sums and counts of the rows of each codeword."""

from unitok_kernels.ops.codeword_statistics.op import codeword_statistics

__all__ = ["codeword_statistics"]
