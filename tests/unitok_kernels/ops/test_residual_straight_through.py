"""residual_straight_through: values, gradients and statistics are those of the plain form."""

from __future__ import annotations

import copy
import os
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, level_order_sum, normal, raises
from unitok_kernels.nn import ResidualVQ
from unitok_kernels.ops.residual_straight_through import residual_straight_through

ESTIMATORS = ["straight", "rotation", "none"]


def case(rows=40, width=6):
    codes = integers(8, rows, 3, seed=1)
    codes[::7] = -1  # padding
    codes[3::5, 2:] = -1  # a dropped level
    return normal(rows, width), codes, normal(3, 8, width, seed=2)


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
@pytest.mark.parametrize("width", [6, 33])
def test_values_gradients_and_statistics_are_those_of_the_plain_form(run, width, estimator, cosine):
    z, codes, codebooks = case(width=width)
    upstream, weights = normal(40, width, seed=3), torch.tensor([1.0, 2.0, 3.0])
    results = []
    for is_plain in (True, False):
        dtype = torch.float64 if is_plain else torch.float32
        rows, tables = z.to(dtype, copy=True).requires_grad_(), codebooks.to(dtype, copy=True).requires_grad_()
        if is_plain:
            total, errors, sums = plain(rows, codes, tables, estimator, cosine)
        else:
            options = {"estimator": estimator, "cosine": cosine, "statistics": True}
            total, errors, sums, *counts = run(residual_straight_through, rows, codes, tables, **options)
        ((total * upstream).sum() + (errors * weights).sum()).backward()
        results.append([value.detach().float() for value in (total, errors, sums, rows.grad, tables.grad)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    for level in range(3):
        used = codes[:, level][codes[:, level] >= 0]
        assert torch.equal(counts[0][level], torch.bincount(used, minlength=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quantized_is_the_sum_in_level_order_rounded_once(run, dtype):
    z, codes, codebooks = case(width=33)
    codes = codes.clamp(min=0)
    step = run(residual_straight_through, z.to(dtype), codes, codebooks)
    assert torch.equal(step.quantized, level_order_sum(codes, codebooks, dtype))
    assert step.level_error.dtype == torch.float32
    assert step.sums.numel() == step.counts.numel() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_rows_get_narrow_gradients(run, dtype):
    z, codes, codebooks = case()
    gradients = []
    for rows in (z.to(dtype), z.to(dtype).float()):
        rows.requires_grad_()
        step = run(residual_straight_through, rows, codes, codebooks, estimator="rotation")
        (step.quantized.float().sum() + step.level_error.sum()).backward()
        gradients.append(rows.grad)
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(gradients[0], gradients[1].to(dtype))


@pytest.mark.parametrize("cosine", [False, True])
def test_statistics_are_those_of_the_operation(run, home, interpreted, few, cosine, one_and_two_threads):
    same = torch.equal if home[1] == "cpu" else torch.allclose  # devices round a sum in their own way
    if cosine and (interpreted or home[1] != "cpu"):  # and lengths: it moves a sum of unit rows, however small that is
        same = partial(torch.allclose, rtol=1e-5, atol=1e-5)
    rows = few(3000, 700)
    z, codes, codebooks = normal(rows, 33), integers(8, rows, 2, seed=1), normal(2, 8, 33, seed=2)
    one, two = one_and_two_threads(
        lambda: run(residual_straight_through, z, codes, codebooks, cosine=cosine, statistics=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    residual = z
    for level in range(2):
        x = F.normalize(residual, eps=1e-6) if cosine else residual
        sums, counts = uk.codeword_statistics(x, codes[:, level], 8, backend="reference")
        assert same(one.sums[level], sums)
        assert torch.equal(one.counts[level], counts)
        residual = residual - codebooks[level][codes[:, level]]


def test_many_rows_cross_blocks(run, home, few):
    count = few(30_000, 600)
    z, codes, codebooks = normal(count, 6), integers(8, count, 3, seed=1), normal(3, 8, 6, seed=2)
    tail = 2 * count // 3
    gradients = []
    for part in (slice(None), slice(tail, None)):
        rows = z[part].clone().requires_grad_()
        step = run(residual_straight_through, rows, codes[part], codebooks, estimator="rotation")
        step.quantized.sum().backward()
        gradients.append(rows.grad)
    same = torch.equal if home[1] == "cpu" else torch.allclose
    assert same(gradients[0][tail:], gradients[1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_without_length_get_finite_gradients(run, estimator):
    z, codes, codebooks = case()
    z[0], codes[0], codebooks[:, 0] = 0, 0, 0
    z[1], codes[1] = -codebooks[0, 1], 1
    for cosine in (False, True):
        rows = z.clone().requires_grad_()
        step = run(residual_straight_through, rows, codes, codebooks, estimator=estimator, cosine=cosine)
        (step.quantized.sum() + step.level_error.sum()).backward()
        assert bool(rows.grad.isfinite().all())


def test_bad_rows_without_a_code_reach_nothing(run):
    z, codes, codebooks = case()
    z[0] = torch.nan
    rows = z.requires_grad_()
    step = run(residual_straight_through, rows, codes, codebooks, estimator="rotation", statistics=True)
    (step.quantized.sum() + step.level_error.sum()).backward()
    assert step.quantized[0].eq(0).all()
    assert all(bool(value.isfinite().all()) for value in (rows.grad, *step))


def test_a_second_derivative_is_refused():
    z, codes, codebooks = case()
    weights = torch.ones(6, requires_grad=True)
    quantized = residual_straight_through(z.requires_grad_(), codes, codebooks).quantized
    (gradient,) = torch.autograd.grad((quantized * weights).sin().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_torch_s_opcheck_passes(estimator, home):
    if home[0] == "cuda":
        pytest.skip("it has no kernel for this operation")
    z, codes, codebooks = (tensor.to(home[1]) for tensor in case())
    arguments = (z.requires_grad_(), codes, codebooks.requires_grad_(), estimator, False, True, home[0])
    torch.library.opcheck(torch.ops.unitok_kernels.residual_straight_through.default, arguments)


def test_what_does_not_fit_is_refused():
    z, codes, codebooks = case()
    with raises("residual_straight_through: estimator must be one of"):
        residual_straight_through(z, codes, codebooks, estimator="gumbel")
    with raises("residual_straight_through: codes must be of number of levels 3"):
        residual_straight_through(z, codes[:, :2], codebooks)
    with raises("residual_straight_through: z must be a torch.Tensor", TypeError):
        residual_straight_through(1, codes, codebooks)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the backend triton needs its interpreter")
@pytest.mark.parametrize("cosine", [False, True])
def test_layers_train_on_triton_alone(monkeypatch, cosine):
    sizes = {"dim": 6, "codebook_size": 8, "num_quantizers": 2, "use_cosine_sim": cosine}
    torch.manual_seed(0)
    expected = ResidualVQ(**sizes)
    layer, results = copy.deepcopy(expected), []
    for trained, backend in ((expected, "reference"), (layer, "triton")):
        monkeypatch.setenv("UNITOK_BACKEND", backend)
        x = normal(1, 40, 6).requires_grad_()
        quantized, codes, losses = trained(x)
        (quantized.square().sum() + losses.sum()).backward()
        results.append([codes, quantized, losses, x.grad, *trained.state_dict().values()])
    torch.testing.assert_close(results[1], results[0])
