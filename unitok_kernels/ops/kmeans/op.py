"""kmeans: schema, checks, fake kernel and the public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.common import wide_dtype
from unitok_kernels.ops.registry import define

STARTS = ("k-means++", "random")


def _check(
    x: Tensor,
    num_codewords: int,
    iterations: int,
    seed: int,
    init: str,
    start: Tensor | None,
    balanced: bool,
    check_finite: bool | None,
) -> None:
    checks.floating("kmeans", "x", x, "(N, D)")
    checks.at_least("kmeans", "x's width", x.shape[1], 1, "Give the rows a feature.")
    checks.at_least("kmeans", "num_codewords", num_codewords, 1, "Ask for at least one codeword.")
    checks.at_least("kmeans", "iterations", iterations, 0, "0 keeps the start.")
    checks.at_least("kmeans", "x's rows", x.shape[0], num_codewords, "Ask for fewer codewords or give more rows.")
    if start is None:
        checks.one_of("kmeans", "init", init, STARTS)
        return
    checks.floating("kmeans", "init", start, "(K, D)")
    checks.same("kmeans", "init", start.shape[0], "num_codewords", num_codewords, "length")
    checks.same("kmeans", "init", start.shape[1], "x", x.shape[1], "width")
    checks.no_mixed_float64("kmeans", x=x, init=start)
    checks.one_device("kmeans", x=x, init=start)


def _fake(x: Tensor, num_codewords: int, *_: Any) -> tuple[Tensor, Tensor]:
    codebook = x.new_empty(num_codewords, x.shape[1], dtype=wide_dtype(x))
    return codebook, x.new_empty(x.shape[0], dtype=torch.int64)


_operation = define(
    "kmeans",
    "(Tensor x, int num_codewords, int iterations, int seed, str init='k-means++', Tensor? start=None, "
    "bool balanced=False, bool? check_finite=None, str? backend=None) -> (Tensor, Tensor)",
    check=_check,
    fake=_fake,
)


@backends.documented("kmeans")
def kmeans(
    x: Tensor,
    num_codewords: int,
    *,
    iterations: int,
    seed: int,
    init: str | Tensor = "k-means++",
    balanced: bool = False,
    check_finite: bool | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Cluster rows by Lloyd's algorithm.

    Minimises sum_n |x_n - c_code(n)|^2 over codes and codewords in turn. A codeword without rows is moved to the row
    that is farthest from its codeword. Stops early when nothing changes.

    Args:
        x: (N, D) float, N >= num_codewords.
        num_codewords: K.
        iterations: the most turns it takes; 0 keeps the start.
        seed: for drawing the start; equal seeds give equal results.
        init: "k-means++", "random" (distinct rows), or a codebook (K, D).
        balanced: assign between floor(N / 2K) and ceil(2N / K) rows to every codeword.
        check_finite: raise for NaN and infinity; None means on, except on CUDA, where it would synchronise. If
            unchecked, bad rows are left out and get code -1.
        backend: {backends}.

    Returns:
        tuple: codebook (K, D) float32; codes (N,) int64, the nearest codewords, or with `balanced` the balanced
        assignment.

    Raises:
        ValueError: shapes, devices or values don't fit; the backend can't run the call.
        TypeError: an argument isn't a tensor or has the wrong dtype.

    Source:
        Lloyd, "Least squares quantization in PCM", 1982; Arthur and Vassilvitskii, "k-means++", 2007.
    """
    checks.tensors("kmeans", x=x)
    checks.whole("kmeans", num_codewords=num_codewords, iterations=iterations, seed=seed)
    checks.flag("kmeans", balanced=balanced)
    checks.settings("kmeans", check_finite=check_finite, backend=backend)
    start = init if isinstance(init, Tensor) else None
    name = "tensor" if isinstance(init, Tensor) else init
    if not isinstance(name, str):
        checks.fail("kmeans", "init", "'k-means++', 'random' or a tensor", type(init).__name__, "Pick one.", TypeError)
    codebook, codes = _operation(x, num_codewords, iterations, seed, name, start, balanced, check_finite, backend)
    return codebook, codes
