"""HSIC and its gradient by csrc/cpu/ops/hsic.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._native.cpu import float32, kernels
from unitok_kernels.ops.hsic.reference import check_data


def hsic(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    num_segments: int,
    bandwidth: float | None,
    normalised: bool,
    with_gradient: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel; its status tells whether the data need checking."""
    wide_x, wide_z = float32(x), float32(z)
    values = torch.empty(num_segments)
    pull = torch.empty(z.shape[0] if with_gradient else 0, z.shape[1])
    left_out = kernels.hsic(
        wide_x.data_ptr(),
        x.shape[1],
        wide_z.data_ptr(),
        z.shape[1],
        segments.data_ptr(),
        z.shape[0],
        num_segments,
        0.0 if bandwidth is None else bandwidth,
        normalised,
        values.data_ptr(),
        pull.data_ptr() if with_gradient else 0,
        torch.get_num_threads(),
    )
    if left_out and checks.reads_data(check_finite, z):
        check_data(x, z, segments, num_segments)
    return values, pull
