"""Layers around the operations."""

from unitok_kernels.nn.moe_residual_vq import MoEResidualOutput, MoEResidualVQ

__all__ = ["MoEResidualOutput", "MoEResidualVQ"]
