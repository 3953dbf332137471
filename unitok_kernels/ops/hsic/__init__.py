"""The Hilbert-Schmidt independence criterion over segments of rows."""

from unitok_kernels.ops.hsic.op import hsic

__all__ = ["hsic"]
