"""sinkhorn_assign: schema, checks, fake kernel and the public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.registry import define


def _check(x: Tensor, codebook: Tensor, epsilon: float, iterations: int, check_finite: bool | None) -> None:
    op = "sinkhorn_assign"
    checks.floating(op, "x", x, "(N, D)")
    checks.floating(op, "codebook", codebook, "(K, D)")
    checks.not_empty(op, "codebook", codebook, "KD")
    checks.same(op, "x", x.shape[1], "codebook", codebook.shape[1], "width")
    checks.no_mixed_float64(op, x=x, codebook=codebook)
    checks.one_device(op, x=x, codebook=codebook)
    if not epsilon > 0:
        checks.fail(op, "epsilon", "positive", epsilon, "0.05 is usual; smaller is closer to the nearest codeword.")
    checks.at_least(op, "iterations", iterations, 1, "50 is usual.")


def _fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


_operation = define(
    "sinkhorn_assign",
    "(Tensor x, Tensor codebook, float epsilon, int iterations, bool? check_finite=None, str? backend=None) -> Tensor",
    check=_check,
    fake=_fake,
)


@backends.documented("sinkhorn_assign")
def sinkhorn_assign(
    x: Tensor,
    codebook: Tensor,
    *,
    epsilon: float,
    iterations: int,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """Assign rows to codewords so that all codewords are used equally.

    codes_n = argmax_k P_nk, where the plan P minimises sum P (C + epsilon log P) with rows of mass 1/N and columns of
    mass 1/K, and C = squared distance / its mean. A row's code depends on the other rows: use it to train, not to
    tokenize.

    Args:
        x: (N, D) float; the rows. N may be 0.
        codebook: (K, D) float.
        epsilon: entropy weight, > 0, in units of the mean cost.
        iterations: Sinkhorn iterations, at least 1.
        check_finite: raise for NaN and infinity; None means on, except on CUDA, where it would synchronise. If
            unchecked, bad rows are left out and get code -1.
        backend: {backends}.

    Returns:
        Tensor: codes (N,) int64; ties take the lowest index. No N x K memory is used.

    Raises:
        ValueError: shapes, devices or values don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Cuturi, "Sinkhorn distances", 2013; Asano et al., "Self-labelling via simultaneous clustering", 2020.
    """
    checks.tensors("sinkhorn_assign", x=x, codebook=codebook)
    checks.number("sinkhorn_assign", epsilon=epsilon)
    checks.whole("sinkhorn_assign", iterations=iterations)
    checks.settings("sinkhorn_assign", check_finite=check_finite, backend=backend)
    codes: Tensor = _operation(x, codebook, epsilon, iterations, check_finite, backend)
    return codes
