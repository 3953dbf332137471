"""hsic: schema, checks, fake kernel, gradient and the public function.

Besides the values, the kernels give each row's pull: the gradient of its segment's value in that row of z. So the
backward pass is a single product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import asks_gradient, wide_dtype
from unitok_kernels.ops.registry import define


def _check(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    num_segments: int,
    bandwidth: float | None,
    normalised: bool,
    with_gradient: bool,
    check_finite: bool | None,
) -> None:
    checks.floating("hsic", "x", x, "(N, D_in)")
    checks.floating("hsic", "z", z, "(N, D)")
    checks.integral("hsic", "segments", segments, "(N,)")
    checks.same("hsic", "z", z.shape[0], "x", x.shape[0], "length")
    checks.same("hsic", "segments", segments.shape[0], "x", x.shape[0], "length")
    checks.at_least("hsic", "num_segments", num_segments, 1, "Pass the number of domains.")
    if bandwidth is not None and not bandwidth > 0:
        checks.fail("hsic", "bandwidth", "positive or 'median'", bandwidth, "It is the sigma of the Gaussian kernel.")
    checks.one_device("hsic", x=x, z=z, segments=segments)


def _fake(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    num_segments: int,
    bandwidth: float | None,
    normalised: bool,
    with_gradient: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    dtype, rows = wide_dtype(z), z.shape[0] if with_gradient else 0
    return z.new_empty(num_segments, dtype=dtype), z.new_empty(rows, z.shape[1], dtype=dtype)


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what `backward` needs: the pull on z, made along with the values."""
    _, z, segments, num_segments, _, _, with_gradient, *_ = inputs
    values, pull = output
    if with_gradient:
        ctx.mark_non_differentiable(pull)
        ctx.save_for_backward(segments, pull)
        ctx.last_segment, ctx.dtype = num_segments - 1, z.dtype
    else:
        ctx.mark_non_differentiable(values, pull)


@once_differentiable
def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give z's gradient: the kept pull, by the gradient of each row's segment."""
    segments, pull = ctx.saved_tensors
    by_row = gradient[segments.long().clamp(0, ctx.last_segment)].unsqueeze(1)
    by_z = torch.where(pull == 0, 0, by_row * pull)  # rows of no segment stay 0, even if another gradient is NaN
    return None, by_z.to(ctx.dtype), *[None] * 7


_operation = define(
    "hsic",
    "(Tensor x, Tensor z, Tensor segments, int num_segments, float? bandwidth=None, bool normalised=False, "
    "bool with_gradient=False, bool? check_finite=None, str? backend=None) -> (Tensor, Tensor)",
    check=_check,
    fake=_fake,
    setup=setup,
    backward=backward,
)


@backends.documented("hsic")
def hsic(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    *,
    num_segments: int | None = None,
    bandwidth: float | str = "median",
    normalised: bool = False,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """Measure how much z tells about x within each segment of rows.

    HSIC = trace(U H V H) / (n - 1)^2 with U_ij = exp(-|x_i - x_j|^2 / 2 sigma_x^2), V likewise on z, H = I - 11'/n.
    `normalised` divides by sqrt(HSIC(x, x) HSIC(z, z)), which gives a value between 0 and 1 (CKA). Differentiable in z.

    Args:
        x: (N, D_in) float; it gets no gradient.
        z: (N, D) float.
        segments: (N,) integer in 0 .. num_segments - 1, in any order; the domain of each row.
        num_segments: number of segments; None reads it from `segments`, on the CPU in eager mode only.
        bandwidth: sigma for both kernels, or "median": the median positive distance over at most 1,024 evenly spaced
            rows of the segment, for x and z separately; it gets no gradient.
        normalised: return CKA instead of the raw estimate.
        check_finite: raise for NaN, infinity and segments out of range; None means on, except on CUDA, where it would
            synchronise. If unchecked, bad rows and rows of no segment are left out.
        backend: {backends}.

    Returns:
        Tensor: (num_segments,) float32, unitless; 0 for a segment of fewer than 2 rows. Memory is O(N): no n x n matrix
        is kept.

    Raises:
        ValueError: shapes, devices or values don't fit; num_segments is missing where it can't be read.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", 2005; Kornblith et al.,
        "Similarity of neural network representations revisited", 2019 (CKA); UniTok, arXiv 2511.12922 (L_mi).
    """
    checks.tensors("hsic", x=x, z=z, segments=segments)
    checks.flag("hsic", normalised=normalised)
    checks.settings("hsic", check_finite=check_finite, backend=backend)
    if not isinstance(bandwidth, str):
        checks.number("hsic", bandwidth=bandwidth)
    elif bandwidth != "median":
        checks.fail("hsic", "bandwidth", "positive or 'median'", repr(bandwidth), "Pass a number or 'median'.")
    if num_segments is None:
        if segments.device.type != "cpu" or torch.compiler.is_compiling():
            where = "under torch.compile" if segments.device.type == "cpu" else f"on {segments.device.type}"
            checks.fail("hsic", "num_segments", f"given {where}", None, "Pass the number of domains.")
        checks.integral("hsic", "segments", segments, "(N,)")
        num_segments = max(int(segments.max()), 0) + 1 if segments.numel() else 1
    checks.whole("hsic", num_segments=num_segments)
    sigma = None if isinstance(bandwidth, str) else float(bandwidth)
    with_gradient = asks_gradient(z)  # it costs little along with the value, much afterwards
    values: Tensor
    values, _ = _operation(x, z, segments, num_segments, sigma, normalised, with_gradient, check_finite, backend)
    return values
