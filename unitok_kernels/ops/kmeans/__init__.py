"""Lloyd's k-means."""

from unitok_kernels.ops.kmeans.op import kmeans

__all__ = ["kmeans"]
