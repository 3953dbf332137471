"""Balanced assignment by entropic optimal transport."""

from unitok_kernels.ops.sinkhorn_assign.op import sinkhorn_assign

__all__ = ["sinkhorn_assign"]
