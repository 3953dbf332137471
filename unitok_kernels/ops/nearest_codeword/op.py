"""nearest_codeword: schema, checks, fake kernel and the public function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import PRECISIONS, wide_dtype
from unitok_kernels.ops.pack_codebooks import PackedCodebooks, check_packed, parts
from unitok_kernels.ops.registry import define
from unitok_kernels.ops.stats import as_record


class NearestCodeword(NamedTuple):
    """Result of `nearest_codeword`."""

    codes: Tensor
    squared_distance: Tensor


def _check(
    x: Tensor, codebook: Tensor, precision: str, check_finite: bool | None, stats: bool, packed: Tensor | None
) -> None:
    op = "nearest_codeword"
    checks.floating(op, "x", x, "(N, D)")
    checks.floating(op, "codebook", codebook, "(K, D)")
    checks.not_empty(op, "codebook", codebook, "KD")
    checks.same(op, "x", x.shape[1], "codebook", codebook.shape[1], "width")
    checks.no_mixed_float64(op, x=x, codebook=codebook)
    checks.one_device(op, x=x, codebook=codebook)
    checks.one_of(op, "precision", precision, PRECISIONS)
    check_packed(op, "codebook", codebook, packed)


def _fake(x: Tensor, codebook: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[0]
    return (
        x.new_empty(rows, dtype=torch.int64),
        x.new_empty(rows, dtype=wide_dtype(x)),
        x.new_empty(2, dtype=torch.int64),
    )


_operation = define(
    "nearest_codeword",
    "(Tensor x, Tensor codebook, str precision='exact', bool? check_finite=None, bool stats=False, "
    "Tensor? packed=None, str? backend=None) -> (Tensor, Tensor, Tensor)",
    check=_check,
    fake=_fake,
)


@backends.documented("nearest_codeword")
def nearest_codeword(
    x: Tensor,
    codebook: Tensor | PackedCodebooks,
    *,
    precision: str = "exact",
    check_finite: bool | None = None,
    stats: bool = False,
    backend: str | None = None,
) -> Any:
    """Find each row's nearest codeword.

    code_n = argmin_k |x_n - c_k|^2; ties take the lowest index.

    Args:
        x: (N, D) float; the rows. N may be 0.
        codebook: (K, D) float, K >= 1; its dtype may differ from x's. May be packed; see `pack_codebooks`.
        precision: "exact" gives the float64 argmin unless the two best squared distances differ by less than 1e-5 of
            the best; "fast" lets a backend skip the proof. With Triton, if rounding can't tell two codewords apart, the
            choice may then depend on the other rows.
        check_finite: raise for NaN and infinity; None means on, except on CUDA, where it would synchronise. If
            unchecked, bad rows get code -1 and distance NaN.
        stats: append an `EncodeStats`.
        backend: {backends}.

    Returns:
        NearestCodeword: codes (N,) int64, squared_distance (N,) float32; with `stats`, a plain tuple of both and the
        record.

    Raises:
        ValueError: shapes, devices or values don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Linde, Buzo and Gray, "An algorithm for vector quantizer design", 1980.
    """
    codebook, packed = parts(codebook)
    checks.tensors("nearest_codeword", x=x, codebook=codebook)
    checks.settings("nearest_codeword", check_finite=check_finite, backend=backend, precision=precision, stats=stats)
    codes, distance, counts = _operation(x, codebook, precision, check_finite, stats, packed, backend)
    result = NearestCodeword(codes, distance)
    return (*result, as_record(counts)) if stats else result
