"""Codes back to vectors, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.codeword_statistics.reference import codeword_statistics
from unitok_kernels.ops.common import wide


def residual_decode(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> Tensor:
    """Reference of the operation."""
    num_codewords = codebooks.shape[1]
    if checks.reads_data(check_finite, codes):
        checks.finite("residual_decode", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("residual_decode", "codes", codes, num_codewords, minimum=-1)
    tables = wide(codebooks)
    quantized = tables.new_zeros(codes.shape[0], codebooks.shape[2])
    for code, table in zip(codes.unbind(1), tables, strict=True):
        named = (code >= 0) & (code < num_codewords)
        quantized = quantized + torch.where(named[:, None], table[torch.where(named, code, 0)], 0)
    return quantized.to(codebooks.dtype)


def residual_decode_backward(gradient: Tensor, codes: Tensor, num_codewords: int) -> Tensor:
    """Reference of the gradient in the codebooks: each codeword gets the sum over the rows with its code."""
    levels = [codeword_statistics(gradient, column, num_codewords, False)[0] for column in codes.unbind(1)]
    return torch.stack(levels).to(gradient.dtype)
