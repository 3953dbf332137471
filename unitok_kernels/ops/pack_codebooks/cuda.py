"""Codebooks packed by csrc/cuda/pack_codebooks.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, kernels, place, takes


def words(codebooks: Tensor) -> int:
    """Give the size of a packed codebook in int64 words; 0 if the kernels can't search it."""
    return kernels.packed_bytes(int(codebooks.shape[-2]), int(codebooks.shape[-1])) // 8 if takes(codebooks) else 0


def pack_codebooks(codebooks: Tensor) -> Tensor:
    """Launch the kernel for all codebooks together."""
    *tables, codewords, width = codebooks.shape
    packed = codebooks.new_empty(*tables, words(codebooks), dtype=torch.int64)
    if packed.numel() > 0:
        given = codebooks.data_ptr(), FLOATS[codebooks.dtype], math.prod(tables), codewords, width
        kernels.pack_codebooks(*given, packed.data_ptr(), *place(codebooks))
    return packed


def packing(operation: str, codebooks: Tensor, packed: Tensor | None) -> Tensor:
    """Use the packing that a caller passes, or make one."""
    if packed is None or packed.shape[-1] == 0:
        return pack_codebooks(codebooks)
    if packed.shape[-1] != words(codebooks) or packed.data_ptr() % 16 != 0:
        rule, step = f"as packed from codebooks {tuple(codebooks.shape)}", "Pack them again by pack_codebooks."
        checks.fail(operation, "packed", rule, f"shape {tuple(packed.shape)}", step)
    return packed
