"""Residual encoding by routed experts and a shared one."""

from unitok_kernels.ops.moe_residual_encode.op import MoEResidualCodes, moe_residual_encode

__all__ = ["MoEResidualCodes", "moe_residual_encode"]
