"""Residual decoding on a GPU: a program takes some rows through all levels; the gradient sums all levels together."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.segments import cut
from unitok_kernels.ops._triton.tiles import load_rows, store_rows
from unitok_kernels.ops.codeword_statistics.triton import add_rows


@triton.jit
def sum_codewords(
    p_codes, p_tables, i_first, m_rows, K, L, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Sum the codewords of rows in level order; codes out of range add nothing.

    p_codes: (BN,) pointers to each row's first code. p_tables: (any, D), codebooks one after the other. i_first: where
    each row's L codebooks begin there, (BN,) int64 or a number. Returns (BN, BD) float32, zeros for masked rows.
    """
    b_sum = tl.zeros((BN, BD), tl.float32)
    for level in range(L):
        b_code = tl.load(p_codes + level, mask=m_rows, other=-1)
        m_named = (b_code >= 0) & (b_code < K)
        b_sum += load_rows(p_tables, i_first + tl.cast(level, tl.int64) * K + b_code, m_named, D, BD)
    return b_sum


@triton.jit
def _kernel(
    p_codes, p_tables, p_quantized, N, K, L, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """quantized_n = sum_l C_l,code_nl."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_sum = sum_codewords(p_codes + i_rows * L, p_tables, 0, m_rows, K, L, D, BD, BN)
    store_rows(p_quantized, b_sum, i_rows, m_rows, D, BD)


def residual_decode(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> Tensor:
    """Launch the kernel."""
    (rows, levels), (_, codewords, width) = codes.shape, codebooks.shape
    if checks.reads_data(check_finite, codes):
        checks.finite("residual_decode", "codebooks", codebooks, "Remove or repair it.")
        checks.in_range("residual_decode", "codes", codes, codewords, minimum=-1)
    config = configs.rowwise(target_of(codes), width)
    quantized = codebooks.new_empty(rows, width)
    launch(
        _kernel, (triton.cdiv(rows, config.block_rows),), codes, codebooks, quantized, rows, codewords, levels,
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
    )  # fmt: skip
    return quantized


def residual_decode_backward(gradient: Tensor, codes: Tensor, num_codewords: int) -> Tensor:
    """Each codeword gets the sum over the rows with its code; all levels together."""
    levels = codes.shape[1]
    firsts = num_codewords * torch.arange(levels, device=codes.device)
    keys = torch.where((codes >= 0) & (codes < num_codewords), codes + firsts, -1).T
    sums = add_rows(gradient, cut(keys, levels * num_codewords))
    return sums.view(levels, num_codewords, -1).to(gradient.dtype)
