"""residual_decode: schema, checks, fake kernel, gradient and the public function."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.registry import define


def _check(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> None:
    op = "residual_decode"
    checks.integral(op, "codes", codes, "(N, L)")
    checks.floating(op, "codebooks", codebooks, "(L, K, D)")
    checks.not_empty(op, "codebooks", codebooks, "LKD")
    checks.same(op, "codes", codes.shape[1], "codebooks", codebooks.shape[0], "number of levels")
    checks.one_device(op, codebooks=codebooks, codes=codes)


def _fake(codes: Tensor, codebooks: Tensor, check_finite: bool | None) -> Tensor:
    return codebooks.new_empty(codes.shape[0], codebooks.shape[2])


def _check_backward(gradient: Tensor, codes: Tensor, num_codewords: int) -> None:
    op = "residual_decode_backward"
    checks.floating(op, "gradient", gradient, "(N, D)")
    checks.integral(op, "codes", codes, "(N, L)")
    checks.same(op, "codes", codes.shape[0], "gradient", gradient.shape[0], "length")
    checks.at_least(op, "num_codewords", num_codewords, 1, "Pass the codebooks' number of rows.")
    checks.one_device(op, gradient=gradient, codes=codes)


_backward_operation = define(
    "residual_decode_backward",
    "(Tensor gradient, Tensor codes, int num_codewords, str? backend=None) -> Tensor",
    check=_check_backward,
    fake=lambda gradient, codes, num_codewords: gradient.new_empty(codes.shape[1], num_codewords, gradient.shape[1]),
    folder="residual_decode",
)


def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what `backward` needs: the codes."""
    codes, codebooks, _, ctx.backend = inputs
    ctx.save_for_backward(codes)
    ctx.num_codewords = codebooks.shape[1]


def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
    """Give the codebooks' gradient: the sum of the rows that each codeword is in."""
    (codes,) = ctx.saved_tensors
    return None, _backward_operation(gradient, codes, ctx.num_codewords, ctx.backend), None, None


_operation = define(
    "residual_decode",
    "(Tensor codes, Tensor codebooks, bool? check_finite=None, str? backend=None) -> Tensor",
    check=_check,
    fake=_fake,
    setup=setup,
    backward=backward,
)


@backends.documented("residual_decode")
def residual_decode(
    codes: Tensor, codebooks: Tensor, *, check_finite: bool | None = None, backend: str | None = None
) -> Tensor:
    """Sum the codewords that the codes name.

    quantized_n = sum_l C_l,code_nl;  differentiable in codebooks.

    Args:
        codes: (N, L) integer; -1 adds nothing. N may be 0.
        codebooks: (L, K, D) float.
        check_finite: raise for NaN and infinity, and for codes outside -1 .. K - 1; None means on, except on CUDA,
            where it would synchronise. If unchecked, such codes add nothing.
        backend: {backends}.

    Returns:
        Tensor: (N, D), the float32 sum in level order, rounded once to codebooks' dtype.

    Raises:
        ValueError: shapes, devices or codes don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Juang and Gray, "Multiple stage vector quantization for speech coding", 1982.
    """
    checks.tensors("residual_decode", codes=codes, codebooks=codebooks)
    checks.settings("residual_decode", check_finite=check_finite, backend=backend)
    quantized: Tensor = _operation(codes, codebooks, check_finite, backend)
    return quantized
