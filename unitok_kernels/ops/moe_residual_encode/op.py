"""moe_residual_encode: schema, checks, fake kernel, gradients and the public function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import PRECISIONS, wide_dtype
from unitok_kernels.ops.pack_codebooks import PackedCodebooks, check_packed, parts
from unitok_kernels.ops.registry import define
from unitok_kernels.ops.stats import as_record

OP = "moe_residual_encode"


class MoEResidualCodes(NamedTuple):
    """Result of `moe_residual_encode`; the shared fields are None without shared codebooks."""

    codes: Tensor
    shared_codes: Tensor | None
    combined: Tensor
    level_error: Tensor
    shared_level_error: Tensor | None


def _check(
    z: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    precision: str,
    check_finite: bool | None,
    stats: bool,
    packed: Tensor | None,
    packed_shared: Tensor | None,
) -> None:
    checks.floating(OP, "z", z, "(N, D)")
    checks.floating(OP, "codebooks", codebooks, "(E, L, K, D)")
    checks.integral(OP, "expert_ids", expert_ids, "(N, S)")
    checks.floating(OP, "expert_weights", expert_weights, "(N, S)")
    checks.not_empty(OP, "codebooks", codebooks, "ELKD")
    checks.same(OP, "z", z.shape[1], "codebooks", codebooks.shape[3], "width")
    checks.same(OP, "expert_ids", expert_ids.shape[0], "z", z.shape[0], "length")
    checks.same(OP, "expert_weights", expert_weights.shape[0], "z", z.shape[0], "length")
    checks.same(OP, "expert_weights", expert_weights.shape[1], "expert_ids", expert_ids.shape[1], "slots")
    checks.at_least(OP, "expert_ids", expert_ids.shape[1], 1, "Give every row at least one slot.")
    if shared_codebooks is not None:
        checks.floating(OP, "shared_codebooks", shared_codebooks, "(L, K, D)")
        checks.not_empty(OP, "shared_codebooks", shared_codebooks, "LKD")
        checks.same(OP, "shared_codebooks", shared_codebooks.shape[2], "z", z.shape[1], "width")
        check_packed(OP, "shared_codebooks", shared_codebooks, packed_shared)
    checks.no_mixed_float64(
        OP, z=z, codebooks=codebooks, expert_weights=expert_weights, shared_codebooks=shared_codebooks
    )
    checks.one_device(
        OP,
        z=z,
        codebooks=codebooks,
        expert_ids=expert_ids,
        expert_weights=expert_weights,
        shared_codebooks=shared_codebooks,
    )
    checks.one_of(OP, "precision", precision, PRECISIONS)
    check_packed(OP, "codebooks", codebooks, packed)


def _fake(
    z: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    shared_codebooks: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    levels = codebooks.shape[1]
    shared_levels = 0 if shared_codebooks is None else shared_codebooks.shape[0]
    return (  # the differentiable output comes first: torch.library.opcheck sums all outputs in its dtype
        z.new_empty(z.shape),
        z.new_empty(*expert_ids.shape, levels, dtype=torch.int64),
        z.new_empty(z.shape[0], shared_levels, dtype=torch.int64),
        z.new_empty(levels, dtype=wide_dtype(z)),
        z.new_empty(shared_levels, dtype=wide_dtype(z)),
        z.new_empty(2, dtype=torch.int64),
    )


def _check_backward(gradient: Tensor, *_: Any) -> None:
    checks.floating("moe_residual_encode_backward", "gradient", gradient, "(N, D)")


def _fake_backward(
    gradient: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    codes: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    shared_codes: Tensor,
    with_codebooks: bool,
) -> tuple[Tensor, ...]:
    dtype = wide_dtype(gradient)
    none = gradient.new_empty(0, dtype=dtype)
    shared = none.clone()
    if with_codebooks and shared_codebooks is not None:
        shared = shared_codebooks.new_empty(shared_codebooks.shape, dtype=dtype)
    return (
        gradient.new_empty(gradient.shape, dtype=dtype),
        codebooks.new_empty(codebooks.shape, dtype=dtype) if with_codebooks else none,
        expert_weights.new_empty(expert_weights.shape, dtype=dtype),
        shared,
    )


_backward_operation = define(
    "moe_residual_encode_backward",
    "(Tensor gradient, Tensor codebooks, Tensor expert_ids, Tensor expert_weights, Tensor codes, "
    "Tensor? shared_codebooks, float shared_weight, Tensor shared_codes, bool with_codebooks, str? backend=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    check=_check_backward,
    fake=_fake_backward,
    folder=OP,
)


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what `backward` needs: the codes, and what they were found in."""
    z, codebooks, expert_ids, expert_weights, shared_codebooks, ctx.shared_weight, *_, ctx.backend = inputs
    _, codes, shared_codes, *_ = output
    ctx.save_for_backward(codebooks, expert_ids, expert_weights, codes, shared_codebooks, shared_codes)
    ctx.dtype = z.dtype


def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """Give the gradients of what has one: z, codebooks, weights and the shared codebooks."""
    codebooks, expert_ids, expert_weights, codes, shared_codebooks, shared_codes = ctx.saved_tensors
    needed = ctx.needs_input_grad  # as long as the arguments that were given
    with_codebooks = any((*needed[1:2], *needed[4:5]))
    by_z, by_codebooks, by_weights, by_shared = _backward_operation(
        gradients[0],
        codebooks,
        expert_ids,
        expert_weights,
        codes,
        shared_codebooks,
        ctx.shared_weight,
        shared_codes,
        with_codebooks,
        ctx.backend,
    )
    return (
        by_z.to(ctx.dtype),
        by_codebooks.to(codebooks.dtype) if with_codebooks else None,
        None,
        by_weights.to(expert_weights.dtype),
        by_shared.to(shared_codebooks.dtype) if with_codebooks and shared_codebooks is not None else None,
        *[None] * 7,
    )


_operation = define(
    OP,
    "(Tensor z, Tensor codebooks, Tensor expert_ids, Tensor expert_weights, Tensor? shared_codebooks=None, "
    "float shared_weight=1.0, str precision='exact', bool? check_finite=None, bool stats=False, "
    "Tensor? packed=None, Tensor? packed_shared=None, str? backend=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    fake=_fake,
    setup=setup,
    backward=backward,
)


@backends.documented(OP)
def moe_residual_encode(
    z: Tensor,
    codebooks: Tensor | PackedCodebooks,
    expert_ids: Tensor,
    expert_weights: Tensor,
    shared_codebooks: Tensor | PackedCodebooks | None = None,
    shared_weight: float = 1.0,
    *,
    precision: str = "exact",
    check_finite: bool | None = None,
    stats: bool = False,
    backend: str | None = None,
) -> Any:
    """Quantise each row by the residual chains of its experts and of the shared expert, and combine them.

    combined = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z), every Q_e a separate residual chain on z.
    Differentiable in expert_weights, in the codebooks, and in z: straight through each chain, so that
    d combined / dz = (sum_s w_s + shared_weight) I; residuals subtract codewords as constants.

    Args:
        z: (N, D) float; the rows. N may be 0.
        codebooks: (E, L, K, D) float; one chain per expert. May be packed, as may the shared ones; see
            `pack_codebooks`.
        expert_ids: (N, S) integer in 0 .. E - 1; each row's experts.
        expert_weights: (N, S) float; their weights.
        shared_codebooks: (L, K, D) float or None; the chain of the shared expert; its L and K may differ.
        shared_weight: weight of the shared chain.
        precision: "exact" | "fast"; see `nearest_codeword`.
        check_finite: raise for NaN, infinity and expert ids out of range; None means on, except on CUDA, where it would
            synchronise. If unchecked, bad rows and slots with a bad expert or weight get code -1 and decode to zeros.
        stats: append an `EncodeStats`.
        backend: {backends}.

    Returns:
        MoEResidualCodes: codes (N, S, L) int64; shared_codes (N, L) int64 or None; combined (N, D), summed in float32
        in the order of the formula and rounded once to z's dtype; level_error (L,) float32, the mean of r_{l+1}^2 over
        rows, slots and D; shared_level_error (L,) or None. With `stats`, a plain tuple of these and the record.

    Raises:
        ValueError: shapes, devices or values don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        UniTok (TokenMoE), arXiv 2511.12922.
    """
    codebooks, packed = parts(codebooks)
    shared_codebooks, packed_shared = parts(shared_codebooks)
    checks.tensors(OP, z=z, codebooks=codebooks, expert_ids=expert_ids, expert_weights=expert_weights)
    checks.number(OP, shared_weight=shared_weight)
    checks.settings(OP, check_finite=check_finite, backend=backend, precision=precision, stats=stats)
    if shared_codebooks is not None:
        checks.tensors(OP, shared_codebooks=shared_codebooks)
    combined, codes, shared_codes, error, shared_error, counts = _operation(
        z,
        codebooks,
        expert_ids,
        expert_weights,
        shared_codebooks,
        shared_weight,
        precision,
        check_finite,
        stats,
        packed,
        packed_shared,
        backend,
    )
    has_shared = shared_codebooks is not None
    result = MoEResidualCodes(
        codes,
        shared_codes if has_shared else None,
        combined,
        error.detach(),
        shared_error.detach() if has_shared else None,
    )
    return (*result, as_record(counts)) if stats else result
