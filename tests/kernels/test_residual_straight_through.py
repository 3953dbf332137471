from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.kernels.oracle import integers, level_order_sum, normal, raises
from unitok_kernels.ops.residual_straight_through import residual_straight_through

ESTIMATORS = ["straight", "rotation", "none"]


def case(rows=40, dtype=torch.float32):
    codes = integers(8, rows, 3, seed=1)
    codes[::7] = -1  # padding
    codes[3::5, 2:] = -1  # a dropped level
    return normal(rows, 6).to(dtype), codes, normal(3, 8, 6, seed=2).to(dtype)


def plain(z, codes, codebooks, estimator, cosine):
    """The definition, left to autograd."""
    residual, total, errors, sums = z, 0, [], []
    for level, codebook in enumerate(codebooks):
        x = F.normalize(residual, eps=1e-6) if cosine else residual
        has = codes[:, level, None] >= 0
        q = torch.where(has, codebook[codes[:, level].clamp(min=0)], 0)
        fixed = q.detach()
        if estimator == "straight":
            carried = fixed + x - x.detach()
        elif estimator == "rotation":
            u, v = F.normalize(x.detach(), eps=1e-6), F.normalize(fixed, eps=1e-6)
            w = F.normalize(u + v, eps=1e-6)
            scale = fixed.norm(dim=1) / x.detach().norm(dim=1).clamp(min=1e-6)
            turned = x - 2 * w * (w * x).sum(1, keepdim=True) + 2 * v * (u * x).sum(1, keepdim=True)
            turned = scale[:, None] * turned
            carried = fixed + turned - turned.detach()
        else:
            carried = q
        total = total + torch.where(has, carried, 0)
        errors.append(torch.where(has, x - q, 0).square().sum() / (has.sum().clamp(min=1) * z.shape[1]))
        one_hot = F.one_hot(codes[:, level].clamp(min=0), len(codebook)) * has
        sums.append(one_hot.to(z.dtype).T @ x.detach())
        residual = residual - fixed
    return total, torch.stack(errors), torch.stack(sums)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("cosine", [False, True])
def test_values_gradients_and_statistics(estimator, cosine):
    z, codes, codebooks = case(dtype=torch.float64)
    upstream, weights = normal(40, 6, seed=3).double(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    results = []
    for function in (plain, residual_straight_through):
        rows, tables = z.clone().requires_grad_(), codebooks.clone().requires_grad_()
        options = {} if function is plain else {"statistics": True}
        total, errors, sums, *counts = function(rows, codes, tables, estimator=estimator, cosine=cosine, **options)
        ((total * upstream).sum() + (errors * weights).sum()).backward()
        results.append((total.detach(), errors.detach(), sums, rows.grad, tables.grad))
    torch.testing.assert_close(results[1], results[0])
    for level in range(3):
        used = codes[:, level][codes[:, level] >= 0]
        assert torch.equal(counts[0][level], torch.bincount(used, minlength=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quantized_is_the_sum_in_level_order_rounded_once(dtype):
    z, codes, codebooks = case()
    codes = codes.clamp(min=0)
    step = residual_straight_through(z.to(dtype), codes, codebooks)
    assert torch.equal(step.quantized, level_order_sum(codes, codebooks, dtype))
    assert step.level_error.dtype == torch.float32
    assert step.sums.numel() == step.counts.numel() == 0


def test_many_rows_cross_blocks():
    z, codes, codebooks = normal(30_000, 6), integers(8, 30_000, 3, seed=1), normal(3, 8, 6, seed=2)
    gradients = []
    for part in (slice(None), slice(20_000, None)):
        rows = z[part].clone().requires_grad_()
        step = residual_straight_through(rows, codes[part], codebooks, estimator="rotation")
        step.quantized.sum().backward()
        gradients.append(rows.grad)
    assert torch.equal(gradients[0][20_000:], gradients[1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_without_length_get_finite_gradients(estimator):
    z, codes, codebooks = case()
    z[0], codes[0], codebooks[:, 0] = 0, 0, 0
    z[1], codes[1] = -codebooks[0, 1], 1
    for cosine in (False, True):
        rows = z.clone().requires_grad_()
        step = residual_straight_through(rows, codes, codebooks, estimator=estimator, cosine=cosine)
        (step.quantized.sum() + step.level_error.sum()).backward()
        assert bool(rows.grad.isfinite().all())


def test_bad_rows_without_a_code_reach_nothing():
    z, codes, codebooks = case()
    z[0] = torch.nan
    rows = z.requires_grad_()
    step = residual_straight_through(rows, codes, codebooks, estimator="rotation", statistics=True)
    (step.quantized.sum() + step.level_error.sum()).backward()
    assert step.quantized[0].eq(0).all()
    assert all(bool(value.isfinite().all()) for value in (rows.grad, *step))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_opcheck(estimator):
    z, codes, codebooks = case()
    arguments = (z.requires_grad_(), codes, codebooks.requires_grad_(), estimator, False, True)
    torch.library.opcheck(torch.ops.unitok_kernels.residual_straight_through.default, arguments)


def test_what_does_not_fit():
    z, codes, codebooks = case()
    with raises("residual_straight_through: estimator must be one of"):
        residual_straight_through(z, codes, codebooks, estimator="gumbel")
    with raises("residual_straight_through: codes must be of number of levels 3"):
        residual_straight_through(z, codes[:, :2], codebooks)
    with raises("residual_straight_through: z must be a torch.Tensor", TypeError):
        residual_straight_through(1, codes, codebooks)
