"""How matrix units round, in torch: the score of `unitok_kernels.ops.tiles.search` as each of them would give it.

A unit is told by how many products a step adds to the accumulator, and at how many bits below the largest of these all
are cut off. Source: Xie et al., "MMA-Sim: Bit-accurate reference model of tensor cores and matrix cores", 2025; none of
these units keeps less than the one that is called "worst" here.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNITS = {
    "worst": (16, 23),
    "sm_80": (8, 24),
    "sm_90, sm_100, sm_120": (16, 25),
    "gfx942": (8, None),  # rounds otherwise, see `_add_on_gfx942`
    "multiply-add": (1, None),  # no matrix unit: a chain in float32
}


def bfloat16_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two bfloat16, as float32, that make up most of x."""
    high = x.bfloat16().float()
    return high, (x - high).bfloat16().float()


def tf32(x: Tensor) -> Tensor:
    """Round to 10 bits of mantissa, halves away from zero, as a conversion to tf32 does."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _place(x: Tensor, bits: int) -> Tensor:
    """Value of the last of so many bits behind the leading one of float64."""
    return ((x.view(torch.int64) >> 52 & 0x7FF) - bits << 52).view(torch.float64).clamp_min(2.0**-400)


def _cut(x: Tensor, place: Tensor) -> Tensor:
    return (x / place).trunc_().mul_(place)


def _add(total: Tensor, products: Tensor, bits: int) -> Tensor:
    """One step in float64, which holds all of it exactly: every term cut off, then their sum."""
    place = _place(torch.maximum(total.abs(), products.abs().amax(0)), bits)
    total = _cut(total, place) + _cut(products, place).sum(0)
    return _cut(total, _place(total, 23).clamp_min(2.0**-149))


def _add_on_gfx942(total: Tensor, products: Tensor) -> Tensor:
    """One step: the products cut off at 24 bits; their sum at 31 and the accumulator at 24 rounded down; to nearest."""
    added = _cut(products, _place(products.abs().amax(0), 24)).sum(0)
    largest = torch.maximum(total.abs(), added.abs())
    parts = [(x / place).floor() * place for x, bits in ((added, 31), (total, 24)) for place in [_place(largest, bits)]]
    return (parts[0] + parts[1]).float().double()


def dot(a: Tensor, b: Tensor, unit: str, total: Tensor | None = None) -> Tensor:
    """total + sum of a b over the first dimension, in the unit's steps, in float64."""
    products = a.double() * b.double()  # exact
    total = torch.zeros_like(products[0]) if total is None else total
    width, bits = UNITS[unit]
    for step in products.split(width):
        if unit == "gfx942":
            total = _add_on_gfx942(total, step)
        elif bits is None:
            total = (total + step[0]).float().double()
        else:
            total = _add(total, step, bits)
    return total


def _centred(x: Tensor, c: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """In float32, columns first."""
    return (x - centre).movedim(-1, 0).contiguous(), (c - centre).movedim(-1, 0).contiguous()


def score(x: Tensor, c: Tensor, centre: Tensor, unit: str, order: Tensor | None = None) -> Tensor:
    """|c'|^2 / 2 - x'.c' of float32 rows and codewords, which broadcast against each other, as the search has it.

    Args:
        x: (..., D) float32.
        c: (..., D) float32.
        centre: (D,) float32.
        unit: one of `UNITS`.
        order: (D,), in which columns are added up; as they are where it is None.
    """
    x, c = _centred(x, c, centre)
    half = torch.zeros_like(c[0])
    for column in c:
        half = half + column * column
    if order is not None:
        x, c = x[order], c[order]
    (x_high, x_low), (c_high, c_low) = bfloat16_halves(x), bfloat16_halves(c)
    total = dot(x_low, c_high, unit)
    total = dot(x_high, c_low, unit, total)
    return 0.5 * half - dot(x_high, c_high, unit, total).float()


def tf32_score(x: Tensor, c: Tensor, centre: Tensor) -> Tensor:
    """The same from one product of values rounded to tf32."""
    x, c = _centred(x, c, centre)
    return 0.5 * c.square().sum(0) - dot(tf32(x), tf32(c), "worst").float()


def exact_score(x: Tensor, c: Tensor, centre: Tensor) -> Tensor:
    """The same in float64."""
    x, c = x.double() - centre.double(), c.double() - centre.double()
    return 0.5 * c.square().sum(-1) - (x * c).sum(-1)


def bound(x: Tensor, c: Tensor, centre: Tensor) -> Tensor:
    """B of `unitok_kernels.ops.tiles`, of each row with each codeword alone: the search takes the longest codeword's."""
    width = x.shape[-1]
    length, radius = ((rows.double() - centre.double()).norm(dim=-1) + width * 2.0**-62 for rows in (x, c))
    products = 2.0**-15 + 9 / 8 * 16 * -(-width // 16) * 2.0**-23 + 2.0**-21
    return products * length * radius + (width / 2 + 4) * 2.0**-24 * radius**2 + width * 2.0**-119
