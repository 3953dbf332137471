"""Encoding and decoding with numpy and the native module alone: no torch is imported.

The results are those that the operations of `unitok_kernels` give for the same input by their CPU kernels.
`threads` is the number of threads; None means OMP_NUM_THREADS, or every processor that this process may use.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unitok_kernels import arrays, rules
from unitok_kernels.backends.records.cpu import MODULE, REMEDY

try:
    _cpu: Any = importlib.import_module(MODULE)
except ImportError as error:
    if str(error).startswith(MODULE):  # it is built, and says itself what it needs
        raise
    raise ImportError(
        f"unitok_kernels.numpy: the native module must be built, got {error}. To build it, {REMEDY}."
    ) from error

__all__ = ["MoEResidualCodes", "ResidualCodes", "decode", "encode", "moe_encode", "ordered_linear"]

Array = NDArray[Any]

_FLOATS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}  # `Float` in csrc/cpu/simd/number.h
_PRECISIONS = ("exact", "fast")


def __dir__() -> list[str]:
    return sorted(__all__)


class ResidualCodes(NamedTuple):
    """Result of `encode`, like that of `unitok_kernels.residual_encode`."""

    codes: NDArray[np.int64]
    quantized: Array
    level_error: NDArray[np.float32]


class MoEResidualCodes(NamedTuple):
    """Result of `moe_encode`, like that of `unitok_kernels.moe_residual_encode`."""

    codes: NDArray[np.int64]
    shared_codes: NDArray[np.int64] | None
    combined: Array
    level_error: NDArray[np.float32]
    shared_level_error: NDArray[np.float32] | None


def encode(
    z: Array, codebooks: Array, *, precision: str = "exact", check_finite: bool = True, threads: int | None = None
) -> ResidualCodes:
    """Quantise rows by a chain of codebooks; each level quantises what the one before it left.

    r_0 = z;  code_l = argmin_k |r_l - C_lk|^2;  r_{l+1} = r_l - C_l,code_l;  quantized = sum_l C_l,code_l.

    Args:
        z: (N, D) float32 or float16; the rows. N may be 0.
        codebooks: (L, K, D) float32 or float16.
        precision: "exact" | "fast"; see `unitok_kernels.nearest_codeword`.
        check_finite: raise for NaN and infinity. Unchecked bad rows get code -1 on every level, decode to nothing and
            are left out of level_error.
        threads: number of threads; None means OMP_NUM_THREADS, or every processor.

    Returns:
        ResidualCodes: codes (N, L) int64; quantized (N, D) in z's dtype; level_error (L,) float32.

    Raises:
        ValueError: shapes or values don't fit.
        TypeError: an argument isn't an array or has the wrong dtype.

    Source:
        Juang and Gray, "Multiple stage vector quantization for speech coding", 1982.
    """
    op = "encode"
    z, codebooks = arrays.floating(op, "z", z, "(N, D)"), _codebooks(op, "codebooks", codebooks, "LKD")
    rules.same(op, "z", z.shape[1], "codebooks", codebooks.shape[2], "width")
    _settings(op, precision, check_finite)
    levels, size, width = codebooks.shape
    found = ResidualCodes(np.empty((len(z), levels), np.int64), np.empty_like(z), np.empty(levels, np.float32))
    counts = np.empty(2, np.int64)
    status = _cpu.residual_encode(
        z.ctypes.data,
        _FLOATS[z.dtype],
        len(z),
        width,
        codebooks.ctypes.data,
        levels,
        size,
        found.codes.ctypes.data,
        found.quantized.ctypes.data,
        found.level_error.ctypes.data,
        counts.ctypes.data,
        _threads(op, threads),
        precision == "fast",
        False,
    )
    if status and check_finite:
        arrays.finite(op, "z", z)
        arrays.finite(op, "codebooks", codebooks)
    return found


def decode(codes: Array, codebooks: Array, *, check_finite: bool = True) -> Array:
    """Sum the codewords that the codes name.

    quantized_n = sum_l C_l,code_nl.

    Args:
        codes: (N, L) integer; -1 adds nothing. N may be 0.
        codebooks: (L, K, D) float32 or float16.
        check_finite: raise for NaN and infinity, and for codes outside -1 .. K - 1; unchecked, such codes add nothing.

    Returns:
        ndarray: (N, D), the float32 sum in level order, rounded once to codebooks' dtype.

    Raises:
        ValueError: shapes or codes don't fit.
        TypeError: an argument isn't an array or has the wrong dtype.

    Source:
        Juang and Gray, "Multiple stage vector quantization for speech coding", 1982.
    """
    op = "decode"
    codes, tables = arrays.integral(op, "codes", codes, "(N, L)"), _codebooks(op, "codebooks", codebooks, "LKD")
    rules.same(op, "codes", codes.shape[1], "codebooks", tables.shape[0], "number of levels")
    rules.flag(op, check_finite=check_finite)
    size = tables.shape[1]
    if check_finite:
        arrays.finite(op, "codebooks", tables, "Remove or repair it.")
        arrays.in_range(op, "codes", codes, size, minimum=-1)
    quantized = np.zeros((len(codes), tables.shape[2]), np.float32)
    for column, table in zip(codes.T, tables, strict=True):
        named = (column >= 0) & (column < size)
        quantized += np.where(named[:, None], table[np.where(named, column, 0)], np.float32(0))
    return quantized.astype(codebooks.dtype.newbyteorder("="))


def moe_encode(
    z: Array,
    codebooks: Array,
    expert_ids: Array,
    expert_weights: Array,
    shared_codebooks: Array | None = None,
    shared_weight: float = 1.0,
    *,
    precision: str = "exact",
    check_finite: bool = True,
    threads: int | None = None,
) -> MoEResidualCodes:
    """Quantise rows by the chains of their experts and of the shared expert, if there is one.

    combined = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z), each Q a chain as in `encode`.

    Args:
        z: (N, D) float32 or float16. N may be 0.
        codebooks: (E, L, K, D) float32 or float16.
        expert_ids: (N, S) integer in 0 .. E - 1.
        expert_weights: (N, S) float32 or float16.
        shared_codebooks: (L', K', D) float32 or float16, or None.
        shared_weight: weight of the shared chain.
        precision: "exact" | "fast"; see `unitok_kernels.nearest_codeword`.
        check_finite: raise for NaN, infinity and expert ids out of range. Unchecked, bad slots get code -1 and decode
            to nothing.
        threads: number of threads; None means OMP_NUM_THREADS, or every processor.

    Returns:
        MoEResidualCodes: codes (N, S, L) int64, shared_codes (N, L') int64 or None, combined (N, D) in z's dtype,
        level_error (L,) float32 and shared_level_error (L',) float32 or None.

    Raises:
        ValueError: shapes or values don't fit.
        TypeError: an argument isn't an array or has the wrong dtype.

    Source:
        UniTok (TokenMoE), arXiv 2511.12922.
    """
    op = "moe_encode"
    z, tables = arrays.floating(op, "z", z, "(N, D)"), _codebooks(op, "codebooks", codebooks, "ELKD")
    ids, given = (
        arrays.integral(op, "expert_ids", expert_ids, "(N, S)"),
        arrays.floating(op, "expert_weights", expert_weights, "(N, S)"),
    )
    rules.same(op, "z", z.shape[1], "codebooks", tables.shape[3], "width")
    for name, value in (("expert_ids", ids), ("expert_weights", given)):
        rules.same(op, name, value.shape[0], "z", z.shape[0], "length")
    rules.same(op, "expert_weights", given.shape[1], "expert_ids", ids.shape[1], "slots")
    rules.at_least(op, "expert_ids", ids.shape[1], 1, "Give every row at least one slot.")
    shared = None if shared_codebooks is None else _codebooks(op, "shared_codebooks", shared_codebooks, "LKD")
    if shared is not None:
        rules.same(op, "shared_codebooks", shared.shape[2], "z", z.shape[1], "width")
    rules.number(op, shared_weight=shared_weight)
    _settings(op, precision, check_finite)
    weights = given.astype(np.float32, copy=False)
    experts, levels, size, width = tables.shape
    shared_levels, shared_size = (0, 0) if shared is None else shared.shape[:2]
    codes, combined = np.empty((*ids.shape, levels), np.int64), np.empty_like(z)
    shared_codes, counts = np.empty((len(z), shared_levels), np.int64), np.empty(2, np.int64)
    level_error, shared_error = np.empty(levels, np.float32), np.empty(shared_levels, np.float32)
    status = _cpu.moe_residual_encode(
        z.ctypes.data,
        _FLOATS[z.dtype],
        len(z),
        width,
        tables.ctypes.data,
        experts,
        levels,
        size,
        ids.ctypes.data,
        weights.ctypes.data,
        ids.shape[1],
        0 if shared is None else shared.ctypes.data,
        shared_levels,
        shared_size,
        shared_weight,
        combined.ctypes.data,
        codes.ctypes.data,
        shared_codes.ctypes.data,
        level_error.ctypes.data,
        shared_error.ctypes.data,
        counts.ctypes.data,
        _threads(op, threads),
        precision == "fast",
        False,
    )
    if status and check_finite:
        for name, array in (("z", z), ("codebooks", tables), ("expert_weights", given)):
            arrays.finite(op, name, array)
        arrays.in_range(op, "expert_ids", ids, experts)
        if shared is not None:
            arrays.finite(op, "shared_codebooks", shared)
    if shared is None:
        return MoEResidualCodes(codes, None, combined, level_error, None)
    return MoEResidualCodes(codes, shared_codes, combined, level_error, shared_error)


def ordered_linear(
    x: Array, weight: Array, bias: Array, *, relu: bool = False, threads: int | None = None
) -> NDArray[np.float64]:
    """Apply a linear layer in double precision, in a fixed order: no row's result depends on another row.

    y_no = b_o + sum_i x_ni W_oi; see `unitok_kernels.ops.ordered_linear`.

    Args:
        x: (N, I) float32 or float64. N may be 0.
        weight: (O, I) float32 or float64.
        bias: (O,) float32 or float64.
        relu: replace negative results by 0.
        threads: number of threads; None means OMP_NUM_THREADS, or every processor.

    Returns:
        ndarray: (N, O) float64.

    Raises:
        ValueError: shapes don't fit.
        TypeError: an argument isn't an array or has the wrong dtype.

    Source:
        UniTok.
    """
    op, sizes = "ordered_linear", (4, 8)
    x, weight = arrays.floating(op, "x", x, "(N, I)", sizes), arrays.floating(op, "weight", weight, "(O, I)", sizes)
    added = arrays.floating(op, "bias", bias, "(O,)", sizes).astype(np.float64)
    rules.same(op, "x", x.shape[1], "weight", weight.shape[1], "width")
    rules.same(op, "bias", len(added), "weight", len(weight), "length")
    rules.flag(op, relu=relu)
    y = np.empty((len(x), len(weight)))
    _cpu.ordered_linear(
        x.ctypes.data,
        x.itemsize == 8,
        *x.shape,
        weight.ctypes.data,
        weight.itemsize == 8,
        len(weight),
        added.ctypes.data,
        relu,
        y.ctypes.data,
        _threads(op, threads),
    )
    return y


def _threads(op: str, threads: int | None) -> int:
    rules.threads(op, threads)
    if threads is not None:
        return int(threads)
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has a number per level of nesting
    if told.isdecimal() and int(told) > 0:
        return min(int(told), rules.MOST_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settings(op: str, precision: str, check_finite: bool) -> None:
    rules.typed(op, "precision", precision, (str,), "a str")
    rules.one_of(op, "precision", precision, _PRECISIONS)
    rules.flag(op, check_finite=check_finite)


def _codebooks(op: str, name: str, value: Array, letters: str) -> Array:
    found = arrays.floating(op, name, value, f"({', '.join(letters)})")
    rules.not_empty(op, name, found, letters)
    return found.astype(np.float32, copy=False)
