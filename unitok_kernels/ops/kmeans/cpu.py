"""k-means by csrc/cpu/ops/kmeans.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import float32, kernels
from unitok_kernels.ops.common import finite_rows


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
    """Draw the start as the reference does, and launch the kernel on the finite rows."""
    if checks.reads_data(check_finite, x):
        checks.finite("kmeans", "x", x)
        if start is not None:
            checks.finite("kmeans", "init", start)
    good = finite_rows(x)
    all_good = bool(good.all())
    rows = float32(x if all_good else x[good])
    checks.at_least(
        "kmeans", "x's finite rows", len(rows), num_codewords, "Repair the others or ask for fewer codewords."
    )
    size = (rows.data_ptr(), *rows.shape)
    generator = torch.Generator().manual_seed(seed)
    if start is not None:
        codebook = start.float().clone()
    elif init == "random":
        codebook = rows[torch.randperm(len(rows), generator=generator)[:num_codewords]]
    else:
        draws = torch.rand(num_codewords, generator=generator, dtype=torch.float64)
        chosen = torch.empty(num_codewords, dtype=torch.int64)
        kernels.kmeans_start(*size, num_codewords, draws.data_ptr(), chosen.data_ptr(), torch.get_num_threads())
        codebook = rows[chosen]
    codes = torch.empty(len(rows), dtype=torch.int64)
    kernels.kmeans(
        *size, codebook.data_ptr(), num_codewords, iterations, balanced, codes.data_ptr(), torch.get_num_threads()
    )
    if all_good:
        return codebook, codes
    everywhere = torch.full((len(x),), -1)
    everywhere[good] = codes
    return codebook, everywhere
