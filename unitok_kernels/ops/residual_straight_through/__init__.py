"""Codewords with a straight-through gradient, and what a training step needs of the codes."""

from unitok_kernels.ops.residual_straight_through.op import residual_straight_through

__all__ = ["residual_straight_through"]
