"""The float64 truth that codes are held to, the plain float32 search that fails it, and the inputs that show both."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unitok_kernels.ops  # noqa: F401  (registers torch.ops.unitok_kernels)

MARGIN = 1e-5  # a code may differ from the oracle's where the two best squared distances are closer than this
MESSAGE = re.compile(r"[A-Za-z_]+: .+ must be .+, got .+\. .+\.", re.DOTALL)


def squared_distances(x: Tensor, codebook: Tensor) -> Tensor:
    """(N, K) in float64 by differencing: relative error about D 2^-53, whatever the offset."""
    table = codebook.double()
    return torch.cat([(part[:, None] - table).square().sum(2) for part in x.double().split(64)])


def assert_nearest(codes: Tensor, x: Tensor, codebook: Tensor) -> int:
    """Hold codes to the promise; returns how many rows of them made use of the margin."""
    distance = squared_distances(x, codebook)
    best, truth = distance.min(1)
    assert codes.dtype == torch.int64
    assert codes.shape == truth.shape
    other = (codes != truth).nonzero().squeeze(1)
    lost = distance[other, codes[other]] - best[other]
    assert bool((lost < MARGIN * best[other]).all()), f"{other.numel()} rows differ by up to {lost.max().item()}"
    return other.numel()


def assert_chain(codes: Tensor, z: Tensor, codebooks: Tensor) -> Tensor:
    """Hold every level of a chain to the promise, on the float32 residuals that its own codes leave.

    Returns:
        Tensor: (L, N, D) float32, the residuals r_1 .. r_L.
    """
    residual, residuals = z.float(), []
    for level, codebook in enumerate(codebooks.float()):
        assert_nearest(codes[:, level], residual, codebook)
        residual = residual - codebook[codes[:, level]]
        residuals.append(residual)
    return torch.stack(residuals)


def level_order_sum(codes: Tensor, codebooks: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The float32 sum of codewords in level order, rounded once; written without a tensor sum, whose order is free."""
    total = torch.zeros(codes.shape[0], codebooks.shape[2])
    for level in range(codes.shape[1]):
        total = total + codebooks[level].float()[codes[:, level]]
    return total.to(dtype)


def expanded_form(x: Tensor, codebook: Tensor) -> Tensor:
    """What other libraries do: argmin of |x|^2 - 2 x.c + |c|^2 in float32."""
    scores = x.square().sum(1, keepdim=True) - 2 * x @ codebook.T + codebook.square().sum(1)
    return scores.argmin(1)


def wrong_share(codes: Tensor, x: Tensor, codebook: Tensor) -> float:
    """Share of rows whose code breaks the promise."""
    distance = squared_distances(x, codebook)
    best = distance.min(1).values
    chosen = distance.gather(1, codes[:, None]).squeeze(1)
    return ((chosen - best) >= MARGIN * best).logical_and(chosen > best).double().mean().item()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def at_offset(
    offset: float, scale: float, rows: int = 200, codewords: int = 41, width: int = 24
) -> tuple[Tensor, Tensor]:
    """Rows and a codebook of unit spread around `offset`, all times `scale`."""
    x, codebook = normal(rows, width, seed=1), normal(codewords, width, seed=2)
    return (x + offset) * scale, (codebook + offset) * scale


def two_clusters(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows and codewords at +1000 and at -1000 in one codebook: no single mean to centre on helps."""
    above, below = at_offset(1000, scale), at_offset(-1000, scale)
    return torch.cat([above[0], below[0]]), torch.cat([above[1], below[1]])


HARD: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    **{f"offset{offset}": (lambda o=offset: at_offset(o, 1.0)) for offset in (0, 10, 100, 1000)},
    **{f"scale{scale:.0e}": (lambda s=scale: at_offset(3, s)) for scale in (1e-15, 1e-12, 1e12, 1e15)},
    **{f"offset1000scale{scale:.0e}": (lambda s=scale: at_offset(1000, s)) for scale in (1e-15, 1e12)},
    "clusters": two_clusters,
    "clusters1e-12": lambda: two_clusters(1e-12),
}
BROKEN = [name for name in HARD if "1000" in name or "clusters" in name]  # where the expanded form must fail


def every_hard_input() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("hard", HARD)


def raises(match: str, error: type[Exception] = ValueError) -> _Raises:
    """pytest.raises that also holds the message to the form `<op>: <argument> must be <rule>, got <value>. <step>.`"""
    return _Raises(match, error)


class _Raises:
    def __init__(self, match: str, error: type[Exception]) -> None:
        self.match, self.context = match, pytest.raises(error)

    def __enter__(self) -> pytest.ExceptionInfo[Exception]:
        self.info = self.context.__enter__()
        return self.info

    def __exit__(self, *exception: object) -> bool:
        caught = bool(self.context.__exit__(*exception))
        message = str(self.info.value)
        assert MESSAGE.fullmatch(message), f"not in the house's form: {message}"
        assert re.search(self.match, message), f"{self.match!r} is not in: {message}"
        return caught
