"""An ordered linear layer on a GPU: one launch; every sum is one chain of fused multiply-adds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of


@triton.jit
def _kernel(
    p_x, p_weight, p_bias, p_y, N, inputs, outputs,
    RELU: tl.constexpr, BN: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """y_no = b_o + sum_i x_ni W_oi, feature after feature; the order depends on neither tiles nor compiler."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)[:, None]
    i_outputs = tl.cast(tl.program_id(1), tl.int64) * BO + tl.arange(0, BO)[None, :]
    m_rows, m_outputs = i_rows < N, i_outputs < outputs
    p_rows, p_features = p_x + i_rows * inputs, p_weight + i_outputs * inputs
    b_y = tl.zeros((BN, BO), tl.float64)
    for i in range(inputs):
        b_x = tl.load(p_rows + i, mask=m_rows, other=0.0).to(tl.float64)
        b_weight = tl.load(p_features + i, mask=m_outputs, other=0.0).to(tl.float64)
        b_y = tl.fma(b_x, b_weight, b_y)
    b_y += tl.load(p_bias + i_outputs, mask=m_outputs, other=0.0).to(tl.float64)
    if RELU:
        b_y = tl.where(b_y < 0, 0.0, b_y)  # NaN stays NaN
    tl.store(p_y + i_rows * outputs + i_outputs, b_y, mask=m_rows & m_outputs)


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Launch the kernel."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    config = configs.linear(target_of(x))
    y = x.new_empty(rows, outputs, dtype=torch.float64)
    grid = (triton.cdiv(rows, config.block_rows), triton.cdiv(outputs, config.block_columns))
    launch(
        _kernel, grid, x, weight, bias, y, rows, inputs, outputs,
        config=config, RELU=relu, BN=config.block_rows, BO=config.block_columns,
    )  # fmt: skip
    return y
