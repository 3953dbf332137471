"""A linear layer whose result for a row doesn't depend on the batch."""

from unitok_kernels.ops.ordered_linear.op import ordered_linear

__all__ = ["ordered_linear"]
