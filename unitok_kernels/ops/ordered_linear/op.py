"""ordered_linear: schema, checks, fake kernel and the function."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.registry import define

OP = "ordered_linear"


def _check(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> None:
    for name, value, shape in (("x", x, "(N, I)"), ("weight", weight, "(O, I)"), ("bias", bias, "(O,)")):
        checks.floating(OP, name, value, shape)
        if value.dtype not in (torch.float32, torch.float64):
            step = f"Convert it with {name}.float()."
            checks.fail(OP, name, "float32 or float64", value.dtype, step, TypeError)
    checks.same(OP, "x", x.shape[1], "weight", weight.shape[1], "width")
    checks.same(OP, "bias", bias.shape[0], "weight", weight.shape[0], "length")
    checks.one_device(OP, x=x, weight=weight, bias=bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float64)


_operation = define(
    OP,
    "(Tensor x, Tensor weight, Tensor bias, bool relu=False, str? backend=None) -> Tensor",
    check=_check,
    fake=_fake,
    takes_float64=True,
)


def ordered_linear(
    x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False, backend: str | None = None
) -> Tensor:
    """Apply a linear layer in double precision, with sums in one order.

    y_no = b_o + sum_i x_ni W_oi. On the backend "cpu" the products go into 8 chains of fused multiply-adds, chain j
    taking the features j, j + 8, ... from 0 on; the chains are added as (((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))).
    On "triton" they go into one chain, feature after feature, so that the last bits may differ between the two. The
    order is that for every batch, instruction set and number of threads: no row's result depends on another row.

    Args:
        x: (N, I) float32 or float64. N = 0 works.
        weight: (O, I) float32 or float64.
        bias: (O,) float32 or float64.
        relu: clamp the result at 0 from below.
        backend: None | "reference" | "cpu" | "triton".

    Returns:
        Tensor: (N, O) float64.

    Raises:
        ValueError: shapes or devices don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        UniTok.
    """
    checks.tensors(OP, x=x, weight=weight, bias=bias)
    checks.flag(OP, relu=relu)
    checks.settings(OP, check_finite=None, backend=backend)
    y: Tensor = _operation(x, weight, bias, relu, backend)
    return y
