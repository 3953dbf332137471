"""Codewords with a straight-through gradient, and the statistics that a training step needs."""

from unitok_kernels.ops.residual_straight_through.op import residual_straight_through

__all__ = ["residual_straight_through"]
