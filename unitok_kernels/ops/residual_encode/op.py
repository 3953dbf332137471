"""residual_encode: schema, checks, fake kernel and the public function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import PRECISIONS, wide_dtype
from unitok_kernels.ops.pack_codebooks import PackedCodebooks, check_packed, parts
from unitok_kernels.ops.registry import define
from unitok_kernels.ops.stats import as_record


class ResidualCodes(NamedTuple):
    """Result of `residual_encode`."""

    codes: Tensor
    quantized: Tensor
    level_error: Tensor


def _check(
    z: Tensor, codebooks: Tensor, precision: str, check_finite: bool | None, stats: bool, packed: Tensor | None
) -> None:
    op = "residual_encode"
    checks.floating(op, "z", z, "(N, D)")
    checks.floating(op, "codebooks", codebooks, "(L, K, D)")
    checks.not_empty(op, "codebooks", codebooks, "LKD")
    checks.same(op, "z", z.shape[1], "codebooks", codebooks.shape[2], "width")
    checks.no_mixed_float64(op, z=z, codebooks=codebooks)
    checks.one_device(op, z=z, codebooks=codebooks)
    checks.one_of(op, "precision", precision, PRECISIONS)
    check_packed(op, "codebooks", codebooks, packed)


def _fake(z: Tensor, codebooks: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    levels = codebooks.shape[0]
    return (
        z.new_empty(z.shape[0], levels, dtype=torch.int64),
        z.new_empty(z.shape),
        z.new_empty(levels, dtype=wide_dtype(z)),
        z.new_empty(2, dtype=torch.int64),
    )


_operation = define(
    "residual_encode",
    "(Tensor z, Tensor codebooks, str precision='exact', bool? check_finite=None, bool stats=False, "
    "Tensor? packed=None, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    fake=_fake,
)


@backends.documented("residual_encode")
def residual_encode(
    z: Tensor,
    codebooks: Tensor | PackedCodebooks,
    *,
    precision: str = "exact",
    check_finite: bool | None = None,
    stats: bool = False,
    backend: str | None = None,
) -> Any:
    """Quantise rows by a chain of codebooks; each level quantises what the one before it left.

    r_0 = z;  code_l = argmin_k |r_l - C_lk|^2;  r_{l+1} = r_l - C_l,code_l;  quantized = sum_l C_l,code_l.

    Args:
        z: (N, D) float; the rows. N may be 0.
        codebooks: (L, K, D) float; their dtype may differ from z's. May be packed; see `pack_codebooks`.
        precision: "exact" | "fast"; see `nearest_codeword`.
        check_finite: raise for NaN and infinity; None means on, except on CUDA, where it would synchronise. If
            unchecked, bad rows get code -1 on every level, decode to zeros and are left out of level_error.
        stats: append an `EncodeStats`.
        backend: {backends}.

    Returns:
        ResidualCodes: codes (N, L) int64; quantized (N, D), the float32 sum of the codewords in level order, rounded
        once to z's dtype; level_error (L,) float32, the mean over rows and D of r_{l+1}^2, 0 if N = 0. With
        `stats`, a plain tuple of the three and the record.

    Raises:
        ValueError: shapes, devices or values don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Juang and Gray, "Multiple stage vector quantization for speech coding", 1982.
    """
    codebooks, packed = parts(codebooks)
    checks.tensors("residual_encode", z=z, codebooks=codebooks)
    checks.settings("residual_encode", check_finite=check_finite, backend=backend, precision=precision, stats=stats)
    *values, counts = _operation(z, codebooks, precision, check_finite, stats, packed, backend)
    result = ResidualCodes(*values)
    return (*result, as_record(counts)) if stats else result
