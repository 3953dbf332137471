"""The gradient of hsic is that of the matrix form, to the bit the same for any number of threads."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.matrix_form import assert_gradient, case, matrix_form
from tests.unitok_kernels.helpers.oracle import normal

X, Z, SEGMENTS = case(rows=6)


@pytest.mark.parametrize("normalised", [False, True])
def test_torch_s_gradcheck_passes(normalised):
    x, z, segments = (v[:14] for v in case(noise=1.0))
    z = z.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: uk.hsic(x.double(), z, segments, num_segments=3, bandwidth=1.5, normalised=normalised), (z,)
    )


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_median_is_constant_in_the_gradient(run, normalised, dtype):
    x, z, segments = case()
    z = z.to(dtype).requires_grad_()
    upstream = torch.tensor([1.0, -0.5, 2.0])
    values = run(uk.hsic, x.to(dtype), z, segments, num_segments=3, normalised=normalised)
    values.backward(upstream)
    truth = z.detach().double().requires_grad_()
    rows = [segments == s for s in range(3)]
    expected = torch.stack([matrix_form(x.to(dtype)[r], truth[r], "median", normalised) for r in rows])
    expected.backward(upstream.double())
    assert z.grad.dtype == dtype
    rtol = 1e-4 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(z.grad.double(), truth.grad, rtol=rtol, atol=1e-8)


def test_more_rows_than_a_tile_get_the_matrix_form_s_gradient(run, few):
    x, z, segments = case(rows=few(800, 200), segments=2)
    segments[:] = torch.arange(len(x)) % 7 == 0  # one segment of several tiles, one of less than one
    upstream = torch.tensor([1.0, -2.0])
    z.requires_grad_()
    values = run(uk.hsic, x, z, segments, num_segments=2, bandwidth=1.5, normalised=True)
    (values * upstream).sum().backward()
    truth = z.detach().double().requires_grad_()
    expected = torch.stack([matrix_form(x[segments == s], truth[segments == s], 1.5, True) for s in range(2)])
    (expected * upstream).sum().backward()
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=0)
    assert_gradient(z.grad, truth.grad)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("rows", "x_width", "z_width"), [(700, 100, 33), (48, 384, 32), (49, 1, 65), (97, 129, 7)])
def test_any_number_of_rows_and_any_width_give_the_matrix_form_s_gradient(run, few, rows, x_width, z_width, normalised):
    rows = few(rows, min(rows, 100))
    x, z = normal(rows, x_width), normal(rows, z_width, seed=1).requires_grad_()
    x[:, 0] += z.detach()[:, 0] * 3
    value = run(uk.hsic, x, z, torch.zeros(rows).long(), num_segments=1, normalised=normalised)
    value.sum().backward()
    truth = z.detach().double().requires_grad_()
    expected = matrix_form(x, truth, "median", normalised)
    expected.backward()
    torch.testing.assert_close(value[0].double(), expected.detach(), rtol=1e-5, atol=0)
    assert_gradient(z.grad, truth.grad)


@pytest.mark.parametrize("width", [3, 80])
def test_rows_far_from_their_mean_and_near_each_other_keep_their_distances(run, width):
    # |x|^2 + |y|^2 - 2 x.y has no digit left here, and centring on one mean doesn't help.
    x, z = normal(120, width), normal(120, width, seed=1)
    x, z = (rows + 3000 * (torch.arange(120) % 2)[:, None] for rows in (x, z + x))
    z.requires_grad_()
    value = run(uk.hsic, x, z, torch.zeros(120).long(), num_segments=1, bandwidth=width**0.5)
    value.sum().backward()
    truth = z.detach().double().requires_grad_()
    expected = matrix_form(x, truth, width**0.5)
    expected.backward()
    torch.testing.assert_close(value[0].double(), expected.detach(), rtol=1e-5, atol=0)
    assert float((z.grad.double() - truth.grad).norm() / truth.grad.norm()) < 1e-3


def test_bits_are_equal_for_any_number_of_threads(run, few, one_and_two_threads):
    rows = few(1500, 80)
    x, z, segments = case(rows=rows, segments=4, width=70)
    segments[: rows * 3 // 5] = 0  # one segment of many rows, which threads share, and three of few

    def step():
        leaf = z.clone().requires_grad_()
        values = run(uk.hsic, x, leaf, segments, num_segments=4, normalised=True)
        values.sum().backward()
        return values.detach(), leaf.grad

    (values, gradient), (other_values, other_gradient) = one_and_two_threads(step)
    assert torch.equal(values, other_values)
    assert torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("bandwidth", ["median", 1.0])
def test_segments_under_two_rows_give_zero_and_no_gradient(run, normalised, bandwidth):
    x, z, _ = case(rows=20)
    z.requires_grad_()
    segments = torch.tensor([1] + [3] * 19)
    values = run(uk.hsic, x, z, segments, num_segments=5, bandwidth=bandwidth, normalised=normalised)
    assert values[[0, 1, 2, 4]].tolist() == [0] * 4
    assert float(values[3].detach()) > 0
    values.sum().backward()
    assert z.grad[0].eq(0).all()
    assert z.grad[1:].ne(0).any(1).all()
    assert run(uk.hsic, x[:0], z[:0], segments[:0], num_segments=2).tolist() == [0, 0]


@pytest.mark.parametrize("bandwidth", ["median", 1.0])
def test_rows_that_are_all_equal_tell_nothing(run, bandwidth):
    x, z = normal(30, 3), torch.full((30, 2), 0.1).requires_grad_()
    for normalised in (False, True):
        values = run(uk.hsic, x, z, torch.zeros(30).long(), num_segments=1, bandwidth=bandwidth, normalised=normalised)
        assert values.detach().abs().max() < 1e-12
        values.sum().backward()
        assert bool(z.grad.isfinite().all())


def test_fifty_steps_up_the_gradient_raise_it(run, interpreted):
    # The trap of the field: an estimate that is 0, or detached, so that nothing is learned.
    x, _, segments = case()
    z = normal(150, 3, seed=7).requires_grad_()
    steps = 3 if interpreted else 50
    optimizer = torch.optim.Adam([z], lr=2.5 / steps, maximize=True)
    course = []
    for _ in range(steps):
        value = run(uk.hsic, x, z, segments, num_segments=3, normalised=True).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value.detach()))
    assert course[0] > 0
    assert course[-1] > 2 * course[0]


def test_any_layout_and_any_integer_give_the_same_bits(run, few):
    x, z, segments = case(few(150, 60))
    plain = run(uk.hsic, x, z, segments, num_segments=3)
    z_strided = z.T.contiguous().T.requires_grad_()
    strided = run(
        uk.hsic, x.T.contiguous().T, z_strided, segments.repeat(2).view(2, -1)[1].to(torch.uint8), num_segments=3
    )
    assert torch.equal(strided, plain)
    strided.sum().backward()
    plain_z = z.clone().requires_grad_()
    run(uk.hsic, x, plain_z, segments, num_segments=3).sum().backward()
    torch.testing.assert_close(z_strided.grad, plain_z.grad)


def test_unchecked_bad_rows_and_segments_are_left_out(run):
    x, z, segments = case()
    bad_x, bad_z, bad_segments = x.clone(), z.clone(), segments.clone()
    bad_x[0, 1], bad_z[1, 0] = torch.nan, torch.inf
    bad_segments[2:6] = torch.tensor([-1, 3, 2**62, -(2**62)])
    bad_z.requires_grad_()
    for normalised in (False, True):
        clean = run(uk.hsic, x[6:], z[6:], segments[6:], num_segments=3, bandwidth=1.0, normalised=normalised)
        values = run(
            uk.hsic,
            bad_x,
            bad_z,
            bad_segments,
            num_segments=3,
            bandwidth=1.0,
            normalised=normalised,
            check_finite=False,
        )
        torch.testing.assert_close(values, clean)
    values.sum().backward()
    assert bad_z.grad[:6].eq(0).all()
    assert bool(bad_z.grad.isfinite().all())


def test_the_gradient_is_made_where_it_is_asked_for(run):
    z = Z.clone().requires_grad_()
    operation = torch.ops.unitok_kernels.hsic
    values, pull = operation(X, z, SEGMENTS, 3)
    assert not values.requires_grad
    assert pull.shape == (0, 3)
    values, pull = operation(X, z, SEGMENTS, 3, with_gradient=True)
    assert values.requires_grad
    assert not pull.requires_grad
    assert pull.shape == (6, 3)
    with torch.no_grad():
        assert torch.equal(run(uk.hsic, X, z, SEGMENTS, num_segments=3), run(uk.hsic, X, Z, SEGMENTS, num_segments=3))


def test_the_gradient_has_no_gradient(run):
    z = Z.clone().requires_grad_()
    values = run(uk.hsic, X, z, SEGMENTS, num_segments=3)
    (gradient,) = torch.autograd.grad(values.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice|does not require grad"):
        gradient.sum().backward()


def test_an_endless_gradient_of_an_empty_segment_reaches_no_row(run):
    z = Z.clone().requires_grad_()
    segments = torch.tensor([0, 0, 0, 2, 2, 1])
    run(uk.hsic, X, z, segments, num_segments=4).backward(torch.tensor([1.0, torch.inf, 1.0, torch.nan]))
    assert bool(z.grad.isfinite().all())
    assert z.grad[5].eq(0).all()


def test_compiles_with_its_gradient():
    def function(z):
        return uk.hsic(X, z * 2, SEGMENTS, num_segments=3, normalised=True).var()

    one, two = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    torch.compile(function, fullgraph=True, backend="aot_eager")(one).backward()
    function(two).backward()
    torch.testing.assert_close(one.grad, two.grad)
    assert bool(one.grad.ne(0).any())
