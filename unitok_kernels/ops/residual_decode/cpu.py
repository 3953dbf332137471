"""Decoding by csrc/cpu/ops/residual_decode.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import FLOATS, kernels


def residual_decode(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> Tensor:
    """Launch the kernel; it reports whether the data need checking."""
    rows, levels = codes.shape
    _, codewords, width = codebooks.shape
    quantized = codebooks.new_empty(rows, width)
    checked = checks.reads_data(check_finite, codes)
    good = kernels.residual_decode(
        codes.data_ptr(),
        rows,
        levels,
        codebooks.data_ptr(),
        FLOATS[codebooks.dtype],
        codewords,
        width,
        quantized.data_ptr(),
        checked,
        torch.get_num_threads(),
    )
    if checked and not good:
        checks.finite("residual_decode", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("residual_decode", "codes", codes, codewords, minimum=-1)
    return quantized


def residual_decode_backward(gradient: Tensor, codes: Tensor, num_codewords: int) -> Tensor:
    """Launch the kernel of the gradient in the codebooks."""
    rows, width = gradient.shape
    levels = codes.shape[1]
    by_codebooks = gradient.new_empty(levels, num_codewords, width)
    kernels.residual_decode_backward(
        gradient.data_ptr(),
        FLOATS[gradient.dtype],
        rows,
        width,
        codes.data_ptr(),
        levels,
        num_codewords,
        by_codebooks.data_ptr(),
        torch.get_num_threads(),
    )
    return by_codebooks
