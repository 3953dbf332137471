"""ordered_linear: schema, checks, fake kernel and the function."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import backends, checks
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


@backends.documented(OP)
def ordered_linear(
    x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False, backend: str | None = None
) -> Tensor:
    """Apply a linear layer in double precision, with sums in a fixed order.

    y_no = b_o + sum_i x_ni W_oi. The CPU kernel sums the products in 8 chains of fused multiply-adds: chain j takes the
    features j, j + 8, ... from 0 on, and the chains are added as (((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))). The
    Triton kernel sums them in one chain, feature after feature, so the last bits of the two may differ. The order is
    the same for every batch, instruction set and number of threads: no row's result depends on another row.

    Args:
        x: (N, I) float32 or float64. N may be 0.
        weight: (O, I) float32 or float64.
        bias: (O,) float32 or float64.
        relu: replace negative results by 0.
        backend: {backends}.

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
