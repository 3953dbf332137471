"""HSIC and its gradient tile by tile, in plain torch and float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.common import finite_rows, wide_dtype

_TILE_VALUES = 1 << 18  # such a tile of whole rows of the kernel matrix fits into the L2 cache
_MEDIAN_ROWS = 1024


class _Gaussian:
    """The centred Gaussian kernel matrix of some rows, computed tile by tile."""

    def __init__(self, rows: Tensor, bandwidth: float | None) -> None:
        self.rows = rows - rows.mean(0)  # distances stay the same, but the expanded form is rounded less
        self.norms = self.rows.square().sum(1)
        self.variance = self._median() if bandwidth is None else rows.new_tensor(bandwidth**2)
        self.row_means = torch.empty_like(self.norms)
        for part in self._parts():
            self.row_means[part] = self._tile(part).mean(1)
        self.mean = self.row_means.mean()

    def _parts(self) -> Iterator[slice]:
        step = max(1, _TILE_VALUES // len(self.rows))
        for start in range(0, len(self.rows), step):
            yield slice(start, min(start + step, len(self.rows)))

    def _squared_distances(self, part: slice) -> Tensor:
        products = self.rows[part] @ self.rows.T
        squared = (self.norms[part, None] + self.norms - 2 * products).clamp_(min=0)
        squared[torch.arange(part.stop - part.start), torch.arange(part.start, part.stop)] = 0
        return squared

    def _median(self) -> Tensor:
        stride = -(-len(self.rows) // _MEDIAN_ROWS)
        some = self.rows[::stride]
        squared = torch.pdist(some).square()
        median = torch.where(squared > 0, squared, torch.nan).nanmedian()
        return torch.nan_to_num(median, nan=1.0)

    def _tile(self, part: slice) -> Tensor:
        return torch.exp(self._squared_distances(part) / (-2 * self.variance))

    def tiles(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, kernel tile, centred kernel tile)."""
        for part in self._parts():
            tile = self._tile(part)
            yield part, tile, tile - self.row_means[part, None] - self.row_means + self.mean


def _estimate(a: _Gaussian, b: _Gaussian) -> Tensor:
    """trace(U H V H) / (n-1)^2 = sum of (HUH) * V: it is enough to centre one side, since H is idempotent."""
    total = sum((u * v).sum() for (_, _, u), (_, v, _) in zip(a.tiles(), b.tiles(), strict=True))
    return torch.as_tensor(total) / (len(a.rows) - 1) ** 2


def _gradient(a: _Gaussian, z: _Gaussian) -> Tensor:
    """Compute d sum_ij (HUH)_ij V_ij / dz with U held constant: with A = (HUH) * V, -2/sigma^2 (rowsum(A) z - A z)."""
    pull = torch.empty_like(z.rows)  # filled in place: a list of small results would fragment the freed tiles' memory
    for (part, _, centred), (_, kernel, _) in zip(a.tiles(), z.tiles(), strict=True):
        attraction = centred * kernel
        pull[part] = attraction.sum(1, keepdim=True) * z.rows[part] - attraction @ z.rows
    return pull * (-2 / z.variance) / (len(z.rows) - 1) ** 2


def _members(x: Tensor, z: Tensor, segments: Tensor, num_segments: int) -> Iterator[tuple[int, Tensor]]:
    good = finite_rows(x) & finite_rows(z)
    for segment in range(num_segments):
        rows = (good & (segments == segment)).nonzero().squeeze(1)
        if rows.numel() >= 2:
            yield segment, rows


def hsic(
    x: Tensor,
    z: Tensor,
    segments: Tensor,
    num_segments: int,
    bandwidth: float | None,
    normalised: bool,
    with_gradient: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Reference of the operation: the values and each row's pull, with the bandwidths held constant."""
    if checks.reads_data(check_finite, z):
        check_data(x, z, segments, num_segments)
    values = torch.zeros(num_segments, dtype=torch.float64, device=z.device)
    pulls = torch.zeros_like(z if with_gradient else z[:0], dtype=torch.float64)
    for segment, rows in _members(x, z, segments, num_segments):
        u, v = _Gaussian(x[rows].double(), bandwidth), _Gaussian(z[rows].double(), bandwidth)
        value = _estimate(u, v)
        scale, share = torch.ones_like(value), torch.zeros_like(value)
        if normalised:
            own = _estimate(v, v)
            scale = (_estimate(u, u) * own).sqrt()
            scale = torch.where(scale > 0, scale, 1.0)  # all rows equal: HSIC is 0, and so is its share
            share = torch.where(own > 0, value / own, 0)
        values[segment] = value / scale
        if with_gradient:
            pull = _gradient(u, v)
            pulls[rows] = (pull - share * _gradient(v, v) if normalised else pull) / scale
    return values.to(wide_dtype(z)), pulls.to(wide_dtype(z))


def check_data(x: Tensor, z: Tensor, segments: Tensor, num_segments: int) -> None:
    """Raise for NaN, infinity and segments out of range."""
    checks.finite("hsic", "x", x)
    checks.finite("hsic", "z", z)
    checks.in_range("hsic", "segments", segments, num_segments, step="Number the domains from 0.")
