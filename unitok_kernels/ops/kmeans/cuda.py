"""Lloyd's k-means with the CUDA kernels for search and sums, inside the turns of the next backend."""

from __future__ import annotations

from torch import Tensor

from unitok_kernels.ops._native.cuda import instead
from unitok_kernels.ops.codeword_statistics.cuda import codeword_statistics
from unitok_kernels.ops.nearest_codeword.cuda import nearest_codeword


def kmeans(
    x: Tensor,
    num_codewords: int,
    iterations: int,
    seed: int,
    init: str,
    start: Tensor | None,
    balanced: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels inside the next backend's turns; the reference's use their own, and wait for the device."""
    turns = instead("kmeans")
    takes = getattr(turns, "TAKES_KERNELS", False)
    given = {"search": nearest_codeword, "statistics": codeword_statistics} if takes else {}
    return turns.kmeans(x, num_codewords, iterations, seed, init, start, balanced, check_finite, **given)
