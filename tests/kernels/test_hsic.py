from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unitok_kernels as uk
from tests.kernels.oracle import integers, normal, raises


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


@pytest.mark.parametrize("bandwidth", ["median", 0.3, 2.0, 30.0])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equals_the_matrix_form_in_each_segment(run, bandwidth, normalised, offset):
    x, z, segments = case()
    x, z = x + offset, z - offset
    values = run(uk.hsic, x, z, segments, num_segments=3, bandwidth=bandwidth, normalised=normalised)
    assert values.dtype == torch.float32
    for segment in range(3):
        rows = segments == segment
        expected = matrix_form(x[rows], z[rows], bandwidth, normalised)
        torch.testing.assert_close(values[segment].double(), expected, rtol=1e-5, atol=1e-10)


def test_the_median_is_taken_over_strided_rows(run):
    x, z, _ = case(rows=1100)
    x[::2] *= 9  # beyond 1,024 rows the median sees every other row: here the large ones
    values = run(uk.hsic, x, z, torch.zeros(1100, dtype=torch.int64), num_segments=1)
    torch.testing.assert_close(values[0].double(), matrix_form(x, z, "median"), rtol=1e-5, atol=0)


def test_duplicates_do_not_drag_the_median_to_zero(run):
    x, z, _ = case(rows=40)
    x, z = x.repeat_interleave(5, 0)[:60], z.repeat_interleave(5, 0)[:60]
    x[:50] = x[0]
    values = run(uk.hsic, x, z, torch.zeros(60, dtype=torch.int64), num_segments=1)
    torch.testing.assert_close(values[0].double(), matrix_form(x, z, "median"), rtol=1e-5, atol=0)


def test_more_rows_than_a_tile(run):
    x, z, segments = case(rows=800, segments=2)
    segments[:] = torch.arange(800) % 7 == 0  # one segment of several tiles, one of less than one
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
def test_any_number_of_rows_and_any_width(run, interpreted, rows, x_width, z_width, normalised):
    rows = min(rows, 150) if interpreted else rows
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


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_median_follows_any_scale(run, scale):
    x, z, segments = case()
    plain = run(uk.hsic, x, z, segments, num_segments=3)
    scaled = run(uk.hsic, x * scale, z * scale, segments, num_segments=3)
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=0)


def test_equal_bits_for_any_number_of_threads(run, interpreted, one_and_two_threads):
    rows = 120 if interpreted else 1500
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
def test_the_order_of_rows_and_segments_does_not_matter(run, normalised):
    x, z, segments = case()
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    options = {"num_segments": 4, "bandwidth": 1.0, "normalised": normalised}
    values = run(uk.hsic, x, z, segments, **options)
    torch.testing.assert_close(run(uk.hsic, x[shuffled], z[shuffled], segments[shuffled], **options), values)
    torch.testing.assert_close(run(uk.hsic, x, z, (segments + 1) % 4, **options)[1:], values[:3])
    assert float(values[3]) == 0  # no rows


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


def test_two_rows_by_hand(run):
    x, z = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    u, v = torch.exp(torch.tensor(-0.5)), torch.exp(torch.tensor(-2.0))
    values = run(uk.hsic, x, z, torch.tensor([0, 0]), num_segments=1, bandwidth=1.0)
    torch.testing.assert_close(values[0], (1 - u) * (1 - v))


def test_normalised_lies_between_zero_and_one(run):
    x, _, segments = case(rows=300)
    same = run(uk.hsic, x, x, segments, num_segments=3, normalised=True)
    torch.testing.assert_close(same, torch.ones(3))
    doubled = run(uk.hsic, x, x * 2 + 5, segments, num_segments=3, normalised=True)
    torch.testing.assert_close(doubled, torch.ones(3))  # the median follows the scale
    some = run(uk.hsic, x, x + normal(300, 5, seed=8), segments, num_segments=3, normalised=True)
    none = run(uk.hsic, x, normal(300, 5, seed=9), segments, num_segments=3, normalised=True)
    assert bool((none < some).all())
    assert bool((some < 1).all())
    assert bool((none >= 0).all())
    raw = run(uk.hsic, x, x * 2 + 5, segments, num_segments=3)
    assert bool((raw < 0.2).all())


@pytest.mark.parametrize("bandwidth", ["median", 1.0])
def test_rows_that_are_all_equal_tell_nothing(run, bandwidth):
    x, z = normal(30, 3), torch.full((30, 2), 0.1).requires_grad_()
    for normalised in (False, True):
        values = run(uk.hsic, x, z, torch.zeros(30).long(), num_segments=1, bandwidth=bandwidth, normalised=normalised)
        assert values.detach().abs().max() < 1e-12
        values.sum().backward()
        assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("normalised", [False, True])
def test_gradcheck(normalised):
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


def test_the_number_of_segments_is_read_from_them_on_the_cpu():
    x, z, segments = case()
    assert torch.equal(uk.hsic(x, z, segments), uk.hsic(x, z, segments, num_segments=3))
    assert uk.hsic(x[:0], z[:0], segments[:0]).tolist() == [0]


def test_any_layout_and_any_integer(run):
    x, z, segments = case()
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


MEMORY = """
import re, sys, torch, unitok_kernels as uk
def peak():  # not getrusage: that peak is inherited from the parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) / 1024
backend, warm, rows, x_width, z_width = sys.argv[1], *map(int, sys.argv[2:])
x, z = torch.randn(rows, x_width), torch.randn(rows, z_width, requires_grad=True)
segments = torch.zeros(rows, dtype=torch.int64)
def step(rows):
    z.grad = torch.zeros_like(z)
    values = uk.hsic(x[:rows], z[:rows], segments[:rows], num_segments=1, normalised=True, backend=backend)
    values.sum().backward()
step(warm)
before = peak()
step(rows)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    # rows of the step before, of the step that is measured, and the two widths; MiB, half of what a square matrix takes
    ("name", "sizes", "most"),
    [("reference", (1200, 4000, 8, 4), 60), ("cpu", (100, 3000, 384, 32), 16)],
)
def test_no_square_matrix_is_kept(name, sizes, most):
    # One 4,000 x 4,000 matrix is 128 MB in float64 and 64 MB in float32; one of 3,000 is 36 MB.
    if not uk.backends.available()[name]:
        pytest.skip("the native module is not built")
    command = [sys.executable, "-c", MEMORY, name, *map(str, sizes)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(found.stdout) < most


X, Z, SEGMENTS = case(rows=6)


@pytest.mark.parametrize(
    ("change", "match", "error"),
    [
        ({"x": X[0]}, r"x must be of shape \(N, D_in\), got \(5,\)", ValueError),
        ({"z": Z[0]}, r"z must be of shape \(N, D\), got \(3,\)", ValueError),
        ({"segments": SEGMENTS[:, None]}, r"segments must be of shape \(N,\), got \(6, 1\)", ValueError),
        ({"z": Z[:5]}, "z must be of length 6, as x is, got 5", ValueError),
        ({"segments": SEGMENTS[:5]}, "segments must be of length 6, as x is, got 5", ValueError),
        ({"z": Z.to("meta")}, "z must be on cpu, as x is, got meta", ValueError),
        (
            {"segments": SEGMENTS.to("meta"), "num_segments": None},
            "num_segments must be given on meta, got None",
            ValueError,
        ),
        ({"num_segments": 0}, "num_segments must be at least 1, got 0", ValueError),
        ({"bandwidth": 0.0}, "bandwidth must be positive or 'median', got 0.0", ValueError),
        ({"bandwidth": -1}, "bandwidth must be positive or 'median', got -1.0", ValueError),
        ({"bandwidth": torch.nan}, "bandwidth must be positive or 'median', got nan", ValueError),
        ({"bandwidth": "mean"}, "bandwidth must be positive or 'median', got 'mean'", ValueError),
        ({"segments": SEGMENTS + 1}, "segments must be between 0 and 2, got 3 at row ", ValueError),
        ({"segments": SEGMENTS - 9}, "segments must be between 0 and 2, got -[789] at row 0", ValueError),
        (
            {"segments": SEGMENTS - 9, "num_segments": None},
            "segments must be between 0 and 0, got -[789] at row 0. Number the domains from 0.",
            ValueError,
        ),
        (
            {"segments": Z[:, 0] * torch.nan, "num_segments": None},
            "segments must be an integer tensor, got torch.float32",
            TypeError,
        ),
        ({"x": X / torch.tensor([[1.0]] * 5 + [[0]])}, "x must be finite, got -?inf at row 5", ValueError),
        ({"z": Z.log()}, r"z must be finite, got nan at row \d", ValueError),
        ({"x": None}, "x must be a torch.Tensor, got NoneType", TypeError),
        ({"segments": Z[:, 0]}, "segments must be an integer tensor, got torch.float32", TypeError),
        ({"z": SEGMENTS[:, None]}, "z must be float32, .*, got torch.int64", TypeError),
    ],
)
def test_what_does_not_fit(change, match, error):
    given = {"x": X, "z": Z, "segments": SEGMENTS, "num_segments": 3}
    uk.hsic(**given)
    with raises("^hsic: " + match, error):
        uk.hsic(**{**given, **change})


def test_the_number_of_segments_is_needed_in_a_compiled_function():
    with pytest.raises(Exception, match=r"num_segments must be given under torch\.compile"):
        torch.compile(lambda z: uk.hsic(X, z, SEGMENTS), fullgraph=True, backend="eager")(Z)


@pytest.mark.parametrize(
    "arguments",
    [
        (X, Z, SEGMENTS, 3),
        (X, Z.clone().requires_grad_(), SEGMENTS, 3),
        (X, Z.clone().requires_grad_(), SEGMENTS, 3, None, False, True),
        (X.T.contiguous().T.half(), Z.T.contiguous().T.half(), SEGMENTS.int(), 4, 0.5, True, True, False, "reference"),
        (X.half(), Z.half().requires_grad_(), SEGMENTS.int(), 4, 0.5, True, True),
        (X.double(), Z.double().requires_grad_(), SEGMENTS, 3, 1.0, True, True),
        (X[:0], Z[:0], SEGMENTS[:0], 2, None, False, True),
    ],
)
def test_opcheck(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.hsic.default, arguments)


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
