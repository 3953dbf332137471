"""Residual decoding by csrc/cuda/residual_decode.cu."""

from __future__ import annotations

from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cuda import FLOATS, MOST, kernels, place, workspace
from unitok_kernels.ops.residual_decode import reference


def residual_decode(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> Tensor:
    """Launch the kernel."""
    (rows, levels), (_, codewords, width) = codes.shape, codebooks.shape
    if checks.reads_data(check_finite, codes):
        checks.finite("residual_decode", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("residual_decode", "codes", codes, codewords, minimum=-1)
    quantized = codebooks.new_empty(rows, width)
    kernels.residual_decode(
        codes.data_ptr(),
        rows,
        levels,
        codebooks.data_ptr(),
        FLOATS[codebooks.dtype],
        codewords,
        width,
        quantized.data_ptr(),
        *place(codes),
    )
    return quantized


def residual_decode_backward(gradient: Tensor, codes: Tensor, num_codewords: int) -> Tensor:
    """Launch the kernels of the gradient in the codebooks, for all levels at once."""
    (rows, width), levels = gradient.shape, codes.shape[1]
    if max(rows, num_codewords) > MOST:
        return reference.residual_decode_backward(gradient, codes, num_codewords)
    by_codebooks = gradient.new_empty(levels, num_codewords, width)
    kept = workspace(codes, kernels.codeword_statistics_workspace(rows, width, levels, num_codewords))
    kernels.residual_decode_backward(
        gradient.data_ptr(),
        FLOATS[gradient.dtype],
        rows,
        width,
        codes.data_ptr(),
        levels,
        num_codewords,
        by_codebooks.data_ptr(),
        kept.data_ptr(),
        *place(codes),
    )
    return by_codebooks
