"""Sums and counts of each codeword's rows."""

from unitok_kernels.ops.codeword_statistics.op import codeword_statistics

__all__ = ["codeword_statistics"]
