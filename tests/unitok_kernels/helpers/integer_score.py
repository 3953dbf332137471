"""The integer scores of `ops._triton.tiles.search` in torch, step by step, and the bound on their error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 127 * 256 + 127


class Book(NamedTuple):
    """What `unitok_kernels.ops._triton.packing` makes of a codebook.

    Attributes:
        centre: (D,) float32.
        high: (K, D) int64 digits, as are the low ones.
        low: (K, D).
        whole: (K,) int64, |c'|^2 where the largest is 2^30.
        half: the largest |c'|^2 / (512 t).
        absolute: the largest |C|_1.
        low_length: the largest |L|.
        per_step: 1 / t.
    """

    centre: Tensor
    high: Tensor
    low: Tensor
    whole: Tensor
    half: Tensor
    absolute: Tensor
    low_length: Tensor
    per_step: Tensor


def digits(x: Tensor, per_step: Tensor) -> tuple[Tensor, Tensor]:
    """High and low digits of float32 values."""
    steps = (x * per_step + 12582912.0).view(torch.int32).long() - 0x4B400000
    high = (steps + 128) >> 8
    return high, steps - 256 * high


def pack(codebook: Tensor, centre: Tensor | None = None) -> Book:
    """Digits of a float32 codebook that has two different codewords at least."""
    if centre is None:
        centre = (codebook[torch.arange(16) * len(codebook) // 16] / 16).sum(0)
    c = codebook - centre
    per_step = STEPS / c.abs().max()
    high, low = digits(c, per_step)
    halves = (c.double().square().sum(1) * per_step.double() / 512).float()
    whole = (halves * (2.0**30 / halves.max()) + 0.5).long()
    absolute, low_length = (256 * high + low).abs().sum(1).max().float(), low.square().sum(1).max().float().sqrt()
    return Book(centre, high, low, whole, halves.max(), absolute, low_length, per_step)


def step(r: Tensor, book: Book) -> Tensor:
    """1 / s of each tile of centred rows, (T, N, D) -> (T, 1, 1)."""
    farthest = r.abs().amax((1, 2))
    least = torch.maximum(book.half * 2.0**-28, farthest * book.absolute * 2.0**-37)
    return (1 / torch.maximum(farthest / STEPS, least))[:, None, None]


class Scores(NamedTuple):
    """Of tiles of rows.

    Attributes:
        found: (T, N, K) int64.
        exact: (T, N, K) float64, what they stand for, in the same unit.
        bound: (T, N, 1) float32, how far they may be off.
        unit: (T, 1, 1) float64, 256 s t, what 1 of them is worth.
    """

    found: Tensor
    exact: Tensor
    bound: Tensor
    unit: Tensor


def scores(x: Tensor, codebook: Tensor, centre: Tensor | None = None) -> Scores:
    """|c'|^2 / 2 - r'.c' as the search has it, and in float64.

    Args:
        x: (T, N, D) float32, T tiles of rows, each of which has its step.
        codebook: (K, D) float32.
        centre: (D,) float32; by default that of the packed codebook.
    """
    book = pack(codebook, centre)
    r = x - book.centre
    per_step = step(r, book)
    high, low = digits(r, -per_step)
    bias = book.whole * (book.half * per_step * 4).long() >> 32
    first = 256 * product(high, book.high) + bias
    second = first + product(low, book.high)
    found = second + product(high, book.low)
    assert all(int(part.abs().max()) < 2**31 for part in (first, second, found))

    absolute = (256 * high + low).abs().sum(2, keepdim=True).float()
    low_length = low.square().sum(2, keepdim=True).float().sqrt()
    bound = 0.51 * (book.absolute + absolute + x.shape[2]) + low_length * book.low_length
    r, c = x.double() - book.centre.double(), codebook.double() - book.centre.double()
    unit = 256 / (per_step.double() * book.per_step.double())
    exact = (0.5 * c.square().sum(1) - r @ c.T) / unit
    return Scores(found, exact, bound / 256 + 2 + book.half * per_step * 2.0**-20, unit)


def product(rows: Tensor, codewords: Tensor) -> Tensor:
    """Products of integers, which float64 holds."""
    return (rows.double() @ codewords.double().T).long()
