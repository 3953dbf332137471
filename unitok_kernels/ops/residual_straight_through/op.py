"""residual_straight_through: schema, checks, fake kernels, gradients and the function that the layers call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import wide_dtype
from unitok_kernels.ops.registry import define

OP = "residual_straight_through"
ESTIMATORS = ("straight", "rotation", "none")


class TrainingStep(NamedTuple):
    """Result of `residual_straight_through`."""

    quantized: Tensor
    level_error: Tensor
    sums: Tensor
    counts: Tensor


def _check(z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str, *_: Any) -> None:
    checks.floating(OP, "z", z, "(N, D)")
    checks.integral(OP, "codes", codes, "(N, L)")
    checks.floating(OP, "codebooks", codebooks, "(L, K, D)")
    checks.not_empty(OP, "codebooks", codebooks, "LKD")
    checks.same(OP, "z", z.shape[1], "codebooks", codebooks.shape[2], "width")
    checks.same(OP, "codes", codes.shape[0], "z", z.shape[0], "length")
    checks.same(OP, "codes", codes.shape[1], "codebooks", codebooks.shape[0], "number of levels")
    checks.no_mixed_float64(OP, z=z, codebooks=codebooks)
    checks.one_device(OP, z=z, codes=codes, codebooks=codebooks)
    checks.one_of(OP, "estimator", estimator, ESTIMATORS)


def _fake(
    z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str, cosine: bool, statistics: bool
) -> tuple[Tensor, ...]:
    dtype, (levels, size, width) = wide_dtype(z), codebooks.shape
    return (
        z.new_empty(z.shape),
        z.new_empty(levels, dtype=dtype),
        z.new_empty((levels, size, width) if statistics else (0,), dtype=dtype),
        z.new_empty((levels, size) if statistics else (0,), dtype=torch.int64),
    )


_backward_operation = define(
    f"{OP}_backward",
    "(Tensor gradient, Tensor by_error, Tensor z, Tensor codes, Tensor codebooks, str estimator, bool cosine, "
    "bool learns, str? backend=None) -> (Tensor, Tensor)",
    check=lambda *_: None,  # the operation has checked them
    fake=lambda gradient, by_error, z, codes, codebooks, estimator, cosine, learns: (
        z.new_empty(z.shape),
        codebooks.new_empty(codebooks.shape if learns else (0,)),
    ),
    folder=OP,
)


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what `backward` needs: rows, codes and codebooks."""
    z, codes, codebooks, ctx.estimator, ctx.cosine, _, ctx.backend = inputs
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(z, codes, codebooks)


@once_differentiable
def backward(ctx: Any, gradient: Tensor, by_error: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Give the gradients of z and, where they learn, of the codebooks."""
    learns = ctx.needs_input_grad[2]
    by_z, by_codebooks = _backward_operation(
        gradient, by_error, *ctx.saved_tensors, ctx.estimator, ctx.cosine, learns, ctx.backend
    )
    return by_z, None, by_codebooks if learns else None, *[None] * 4


_operation = define(
    OP,
    "(Tensor z, Tensor codes, Tensor codebooks, str estimator='straight', bool cosine=False, bool statistics=False, "
    "str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    fake=_fake,
    setup=setup,
    backward=backward,
)


@backends.documented(OP)
def residual_straight_through(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    *,
    estimator: str = "straight",
    cosine: bool = False,
    statistics: bool = False,
    backend: str | None = None,
) -> TrainingStep:
    """Sum the codewords of a chain so that gradients reach its rows, and take the statistics of a training step.

    x_l = r_l, or r_l / |r_l| with `cosine`;  q_l = C_l,code_l;  r_{l+1} = r_l - sg(q_l);
    quantized = sum_l T(x_l, q_l).

    T has the value q_l. Its gradient in x_l is the identity ("straight"), the rotation and scaling that takes x_l to
    q_l ("rotation"), or 0 ("none"); only with "none" do codebooks get one. level_error has gradients in both.

    Args:
        z: (N, D) float; the rows.
        codes: (N, L) integer; -1 adds nothing and leaves the row out of that level.
        codebooks: (L, K, D) float.
        estimator: "straight" | "rotation" | "none".
        cosine: whether the levels compare directions.
        statistics: whether to sum the inputs of each level by their codes.
        backend: {backends}.

    Returns:
        TrainingStep: quantized (N, D) in z's dtype; level_error (L,) float32, the mean over the rows with a code and
        over D of (x_l - q_l)^2, 0 if there are none; sums (L, K, D) float32 of the x_l of each codeword and counts
        (L, K) int64, both empty without `statistics`.

    Raises:
        ValueError: shapes or devices don't fit.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        van den Oord et al., "Neural discrete representation learning", 2017; Fifty et al., "Restructuring vector
        quantization with the rotation trick", arXiv 2410.06424, section 4.2.
    """
    checks.tensors(OP, z=z, codes=codes, codebooks=codebooks)
    return TrainingStep(*_operation(z, codes, codebooks, estimator, cosine, statistics, backend))
