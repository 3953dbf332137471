"""Lloyd's k-means by the CUDA kernels of a search and of sums; all else of a turn is Triton's."""

from __future__ import annotations

from torch import Tensor

from unitok_kernels import backends
from unitok_kernels.ops.codeword_statistics.cuda import codeword_statistics
from unitok_kernels.ops.native_cuda import instead
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
    """Launch the kernels; the reference, where there is no Triton, waits for the device."""
    kernels = {"search": nearest_codeword, "statistics": codeword_statistics} if backends.available()["triton"] else {}
    call = (x, num_codewords, iterations, seed, init, start, balanced, check_finite)
    return instead("kmeans").kmeans(*call, **kernels)
