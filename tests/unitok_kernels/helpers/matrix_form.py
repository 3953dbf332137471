"""HSIC by whole matrices in float64, and rows with a known dependence to try it on."""

from __future__ import annotations

import torch

from tests.unitok_kernels.helpers.oracle import integers, normal


def sigma_squared(rows, bandwidth):
    """The (lower) median positive squared distance over at most 1,024 strided rows, or the given sigma squared."""
    if bandwidth != "median":
        return bandwidth**2
    squared = torch.pdist(rows[:: -(-len(rows) // 1024)].detach()).square()
    positive = squared[squared > 0]
    return positive.median() if len(positive) else 1.0


def kernel(rows, bandwidth):
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.exp(-squared / (2 * sigma_squared(rows, bandwidth)))


def matrix_form(x, z, bandwidth, normalised=False):
    """trace(U H V H) / (n - 1)^2 in float64 with whole matrices, differentiable by autograd."""
    u, v = kernel(x.double(), bandwidth), kernel(z.double(), bandwidth)
    center = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)

    def value(a, b):
        return torch.trace(a @ center @ b @ center) / (len(x) - 1) ** 2

    return value(u, v) / (value(u, u) * value(v, v)).sqrt() if normalised else value(u, v)


def assert_gradient(found, truth):
    """Within 1e-5 of the gradient's norm, and within 1e-4 of each value that isn't small beside the largest."""
    assert float((found.double() - truth).norm() / truth.norm()) < 1e-5
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-6 * float(truth.abs().max()))


def case(rows=150, segments=3, width=5, noise=0.5):
    x = normal(rows, width)
    return x, x[:, :3] * 2 + noise * normal(rows, 3, seed=1), integers(segments, rows, seed=2)
