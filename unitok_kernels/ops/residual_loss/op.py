"""moe_residual_loss and residual_loss: schema, checks, fake kernel, gradients and the public functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import asks_gradient, wide_dtype
from unitok_kernels.ops.registry import define

OP = "moe_residual_loss"


def _check(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    codebook_weight: float,
    commitment_weight: float,
    check_finite: bool | None,
    with_gradient: bool,
) -> None:
    checks.floating(OP, "z", z, "(N, D)")
    checks.integral(OP, "codes", codes, "(N, S, L)")
    checks.floating(OP, "codebooks", codebooks, "(E, L, K, D)")
    checks.integral(OP, "expert_ids", expert_ids, "(N, S)")
    checks.not_empty(OP, "codebooks", codebooks, "ELKD")
    checks.same(OP, "z", z.shape[1], "codebooks", codebooks.shape[3], "width")
    checks.same(OP, "codes", codes.shape[0], "z", z.shape[0], "length")
    checks.same(OP, "codes", codes.shape[2], "codebooks", codebooks.shape[1], "number of levels")
    checks.same(OP, "expert_ids", expert_ids.shape[0], "codes", codes.shape[0], "length")
    checks.same(OP, "expert_ids", expert_ids.shape[1], "codes", codes.shape[1], "slots")
    checks.no_mixed_float64(OP, z=z, codebooks=codebooks)
    checks.one_device(OP, z=z, codes=codes, codebooks=codebooks, expert_ids=expert_ids)


def _fake(z: Tensor, codes: Tensor, codebooks: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype, with_gradient = wide_dtype(z), options[-1]
    shapes = (z.shape, codebooks.shape) if with_gradient else ((0,), (0,))
    by_z, by_codebooks = (z.new_empty(shape, dtype=dtype) for shape in shapes)
    return z.new_empty((), dtype=dtype), by_z, by_codebooks


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what `backward` needs: both gradients, made along with the loss."""
    z, _, codebooks, *_ = inputs
    _, by_z, by_codebooks = output
    ctx.mark_non_differentiable(by_z, by_codebooks)
    ctx.save_for_backward(by_z, by_codebooks)
    ctx.dtypes = z.dtype, codebooks.dtype


def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Give the kept gradients of z and the codebooks, by that of the loss."""
    by_z, by_codebooks = ctx.saved_tensors
    z_dtype, codebooks_dtype = ctx.dtypes
    return (gradient * by_z).to(z_dtype), None, (gradient * by_codebooks).to(codebooks_dtype), *[None] * 6


_operation = define(
    OP,
    "(Tensor z, Tensor codes, Tensor codebooks, Tensor expert_ids, float codebook_weight=1.0, "
    "float commitment_weight=0.25, bool? check_finite=None, bool with_gradient=True, str? backend=None) "
    "-> (Tensor, Tensor, Tensor)",
    check=_check,
    fake=_fake,
    folder="residual_loss",
    setup=setup,
    backward=backward,
)


def _check_chain(z: Tensor, codes: Tensor, codebooks: Tensor, *_: Any) -> None:
    op = "residual_loss"
    checks.floating(op, "z", z, "(N, D)")
    checks.integral(op, "codes", codes, "(N, L)")
    checks.floating(op, "codebooks", codebooks, "(L, K, D)")
    checks.not_empty(op, "codebooks", codebooks, "LKD")
    checks.same(op, "z", z.shape[1], "codebooks", codebooks.shape[2], "width")
    checks.same(op, "codes", codes.shape[0], "z", z.shape[0], "length")
    checks.same(op, "codes", codes.shape[1], "codebooks", codebooks.shape[0], "number of levels")
    checks.no_mixed_float64(op, z=z, codebooks=codebooks)
    checks.one_device(op, z=z, codes=codes, codebooks=codebooks)


_chain_operation = define(
    "residual_loss",
    "(Tensor z, Tensor codes, Tensor codebooks, float codebook_weight=1.0, float commitment_weight=0.25, "
    "bool? check_finite=None, bool with_gradient=True, str? backend=None) -> (Tensor, Tensor, Tensor)",
    check=_check_chain,
    fake=_fake,
    setup=setup,
    backward=lambda ctx, *gradients: backward(ctx, *gradients)[:-1],  # it has no experts
)


@backends.documented("residual_loss")
def moe_residual_loss(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    *,
    codebook_weight: float = 1.0,
    commitment_weight: float = 0.25,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute the loss that draws codewords to the residuals they stand for, and residuals to their codewords.

    loss = 1/N sum_n sum_s sum_l  codebook_weight |sg(r_l) - c_l|^2 + commitment_weight |r_l - sg(c_l)|^2,
    sg = stop gradient. The first term has a gradient only in codebooks, the second only in z.

    Args:
        z: (N, D) float; the rows that were quantised. N may be 0; the loss is then 0.
        codes: (N, S, L) integer, as `moe_residual_encode` returns them; -1 is left out.
        codebooks: (E, L, K, D) float.
        expert_ids: (N, S) integer.
        codebook_weight: weight of the codebook term.
        commitment_weight: weight of the commitment term.
        check_finite: raise for NaN and infinity, and for codes and expert ids out of range; None means on, except on
            CUDA, where it would synchronise. If unchecked, such codes and ids are left out.
        backend: {backends}.

    Returns:
        Tensor: float32 scalar, in squared units of z.

    Raises:
        ValueError: shapes, devices or codes don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        van den Oord et al., "Neural discrete representation learning", 2017, eq. 3; UniTok, arXiv 2511.12922.
    """
    checks.tensors(OP, z=z, codes=codes, codebooks=codebooks, expert_ids=expert_ids)
    checks.number(OP, codebook_weight=codebook_weight, commitment_weight=commitment_weight)
    checks.settings(OP, check_finite=check_finite, backend=backend)
    options = (codebook_weight, commitment_weight, check_finite, _with_gradient(z, codebooks), backend)
    loss: Tensor = _operation(z, codes, codebooks, expert_ids, *options)[0]
    return loss


@backends.documented("residual_loss")
def residual_loss(
    z: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    *,
    codebook_weight: float = 1.0,
    commitment_weight: float = 0.25,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute the loss of a single chain: `moe_residual_loss` with one expert.

    loss = 1/N sum_n sum_l  codebook_weight |sg(r_l) - c_l|^2 + commitment_weight |r_l - sg(c_l)|^2.

    Args:
        z: (N, D) float; the rows that were quantised. N may be 0; the loss is then 0.
        codes: (N, L) integer, as `residual_encode` returns them; -1 is left out.
        codebooks: (L, K, D) float.
        codebook_weight: weight of the codebook term.
        commitment_weight: weight of the commitment term.
        check_finite: as in `moe_residual_loss`.
        backend: {backends}.

    Returns:
        Tensor: float32 scalar, in squared units of z.

    Raises:
        ValueError: shapes, devices or codes don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        van den Oord et al., "Neural discrete representation learning", 2017, eq. 3.
    """
    op = "residual_loss"
    checks.tensors(op, z=z, codes=codes, codebooks=codebooks)
    checks.number(op, codebook_weight=codebook_weight, commitment_weight=commitment_weight)
    checks.settings(op, check_finite=check_finite, backend=backend)
    options = (codebook_weight, commitment_weight, check_finite, _with_gradient(z, codebooks), backend)
    loss: Tensor = _chain_operation(z, codes, codebooks, *options)[0]
    return loss


def _with_gradient(z: Tensor, codebooks: Tensor) -> bool:
    """One walk along the chains gives the loss and its gradients, so both are made at once if both are wanted."""
    return asks_gradient(z) or asks_gradient(codebooks)
