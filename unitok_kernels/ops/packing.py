"""Codebooks as the CUDA kernels search them: csrc/cuda/packed.cuh."""

from __future__ import annotations

from torch import Tensor

from unitok_kernels.ops.native_cuda import FLOATS, kernels, place, workspace


def takes(*codebooks: Tensor | None) -> bool:
    """Tell whether the kernels search such codebooks: wider rows are another backend's."""
    return all(
        c is None or (c.shape[-1] <= kernels.widest and c.shape[-2] <= kernels.most_codewords) for c in codebooks
    )


def pack_codebooks(codebooks: Tensor) -> Tensor:
    """Pack codebooks (..., K, D), one after another."""
    *tables, codewords, width = codebooks.shape
    count = 1
    for size in tables:
        count *= size
    packed = workspace(codebooks, count * kernels.packed_bytes(codewords, width))
    kernels.pack_codebooks(
        codebooks.data_ptr(), FLOATS[codebooks.dtype], count, codewords, width, packed.data_ptr(), *place(codebooks)
    )
    return packed
