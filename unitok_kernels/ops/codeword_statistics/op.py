"""codeword_statistics: schema, checks, fake kernel and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import wide_dtype
from unitok_kernels.ops.registry import define


def _check(x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None) -> None:
    op = "codeword_statistics"
    checks.floating(op, "x", x, "(N, D)")
    checks.integral(op, "codes", codes, "(N,)")
    checks.same(op, "codes", codes.shape[0], "x", x.shape[0], "length")
    checks.at_least(op, "num_codewords", num_codewords, 1, "Pass the codebook's number of rows.")
    checks.one_device(op, x=x, codes=codes)


def _fake(x: Tensor, codes: Tensor, num_codewords: int, check_finite: bool | None) -> tuple[Tensor, Tensor]:
    sums = x.new_empty(num_codewords, x.shape[1], dtype=wide_dtype(x))
    return sums, x.new_empty(num_codewords, dtype=torch.int64)


_operation = define(
    "codeword_statistics",
    "(Tensor x, Tensor codes, int num_codewords, bool? check_finite=None, str? backend=None) -> (Tensor, Tensor)",
    check=_check,
    fake=_fake,
)


@backends.documented("codeword_statistics")
def codeword_statistics(
    x: Tensor,
    codes: Tensor,
    num_codewords: int,
    *,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum and count the rows of each codeword; the result is the same bit by bit in every run.

    sums_k = sum over n with code_n = k of x_n;  counts_k = the number of these rows.

    Args:
        x: (N, D) float; the rows. N may be 0.
        codes: (N,) integer; -1 skips the row.
        num_codewords: K, at least 1.
        check_finite: raise for NaN and infinity, and for codes outside -1 .. K - 1; None means on, except on CUDA,
            where it would synchronise. If unchecked, rows with such codes are skipped, and NaN stays in its sum.
        backend: {backends}.

    Returns:
        tuple: sums (K, D) float32, counts (K,) int64.

    Raises:
        ValueError: shapes, devices or codes don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        The update step of Lloyd, "Least squares quantization in PCM", 1982.
    """
    checks.tensors("codeword_statistics", x=x, codes=codes)
    checks.whole("codeword_statistics", num_codewords=num_codewords)
    checks.settings("codeword_statistics", check_finite=check_finite, backend=backend)
    sums, counts = _operation(x, codes, num_codewords, check_finite, backend)
    return sums, counts
