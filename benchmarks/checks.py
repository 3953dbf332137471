"""Checks of results, made before timing: a wrong result raises WrongResultError, and the benchmark fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Level, WrongResultError

MARGIN = 1e-5  # what our kernels promise: see the docstring of residual_encode
PEERS_MARGIN = 1e-4  # float32 in the expanded form, at the benchmarks' spread and without an offset
DIFFERING = 1e-3  # share of rows that may be so close to a tie


def truth(z: Tensor, codebooks: Tensor) -> Tensor:
    """Return the codes (N, L) of a chain that searches in float64 and keeps residuals in float32."""
    parts = []
    for block in z.split(4096):
        residual, codes = block, []
        for codebook in codebooks:
            table = codebook.double()
            codes.append(torch.addmm(table.square().sum(1), residual.double(), table.T, alpha=-2).min(1).indices)
            residual = residual - codebook[codes[-1]]
        parts.append(torch.stack(codes, 1))
    return torch.cat(parts)


def near_truth(name: str, codes: Tensor, z: Tensor, codebooks: Tensor, right: Tensor, margin: float) -> None:
    """Refuse codes if many rows differ from the true ones, or one of them isn't within `margin` of a tie at a level."""
    if codes.shape != right.shape:
        raise WrongResultError(f"{name}: codes of shape {tuple(codes.shape)}, not {tuple(right.shape)}")
    rows = (codes != right).any(1).nonzero().squeeze(1)
    if len(rows) > max(1, DIFFERING * len(z)):
        raise WrongResultError(f"{name}: {len(rows)} of {len(z)} rows have other codes than the float64 search")
    residual = z[rows]
    for level, codebook in enumerate(codebooks):
        code = codes[rows, level]
        distance = (residual.double()[:, None] - codebook.double()).square().sum(2)
        best, chosen = distance.min(1).values, distance.gather(1, code[:, None]).squeeze(1)
        if bool((chosen - best > margin * best).any()):
            lost = ((chosen - best) / best).max().item()
            raise WrongResultError(f"{name}: a code at level {level + 1} is {lost:.1e} farther than the nearest")
        residual = residual - codebook[code]


class SameCodes:
    """Our instruction sets must agree in every code, even at near ties."""

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def __call__(self, level: Level, codes: Tensor) -> None:
        if level.isa is None:
            return
        self.first = codes if self.first is None else self.first
        if not torch.equal(codes, self.first):
            raise WrongResultError(f"{level.name}: other codes than on another instruction set")


class ChainCheck:
    """Codes must agree with the float64 search; ours also with each other, and must exactly sum to `quantized`."""

    def __init__(self, z: Tensor, codebooks: Tensor) -> None:
        self.z, self.codebooks, self.right = z, codebooks, truth(z, codebooks)
        self.same = SameCodes()

    def __call__(self, level: Level, result: Any) -> None:
        codes = result if isinstance(result, Tensor) else result[0]
        is_ours = level.name.startswith("ours")
        margin = MARGIN if is_ours else PEERS_MARGIN
        near_truth(level.name, codes, self.z, self.codebooks, self.right, margin)
        self.same(level, codes)
        if is_ours and not isinstance(result, Tensor) and not torch.equal(result[1], self._sum(codes)):
            raise WrongResultError(f"{level.name}: quantized isn't the float32 sum of its codewords in level order")

    def _sum(self, codes: Tensor) -> Tensor:
        total = torch.zeros_like(self.z)
        for code, codebook in zip(codes.unbind(1), self.codebooks, strict=True):
            total += codebook[code]
        return total


def close(name: str, found: Any, expected: Any, tolerance: float) -> None:
    """Refuse tensors, or tuples of them, that differ from the expected by over `tolerance` of its largest value."""
    if isinstance(expected, Tensor):
        found, expected = (found,), (expected,)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            raise WrongResultError(f"{name}: result {number} has shape {tuple(a.shape)}, not {tuple(b.shape)}")
        off = (a.detach().double() - b.double()).abs().max().item() / max(b.abs().max().item(), 1e-300)
        if not off <= tolerance:
            raise WrongResultError(f"{name}: result {number} is {off:.1e} off, more than {tolerance:.0e}")


class CloseCheck:
    """Every level's tensors must be within `tolerance` of the expected, relative to the largest value."""

    def __init__(self, expected: Any, tolerance: float = 1e-5) -> None:
        self.expected, self.tolerance = expected, tolerance

    def __call__(self, level: Level, result: Any) -> None:
        close(level.name, result, self.expected, self.tolerance)


def inertia(x: Tensor, codebook: Tensor, codes: Tensor | None = None) -> float:
    """Sum the squared distances to the codewords of the codes, or to the nearest codewords, in float64."""
    codes = truth(x, codebook[None])[:, 0] if codes is None else codes
    return (x.double() - codebook.double()[codes]).square().sum().item()


class InertiaCheck:
    """Refuse a codebook that is worse than the expected one. A better one is accepted: ours gives empty clusters a row.

    Plain Lloyd leaves an empty cluster as it is, which costs inertia to the end.
    """

    def __init__(self, x: Tensor, expected: Tensor) -> None:
        self.x, self.least = x, inertia(x, expected)

    def __call__(self, level: Level, result: Any) -> None:
        above = inertia(self.x, result[0]) / self.least - 1
        if not above <= 1e-4:
            raise WrongResultError(f"{level.name}: inertia {above:.1e} above that of Lloyd in float64")
