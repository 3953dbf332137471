"""hsic is the matrix form in each segment, at any scale, without a square matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.matrix_form import case, matrix_form
from tests.unitok_kernels.helpers.oracle import normal, raises

X, Z, SEGMENTS = case(rows=6)


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


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_median_follows_any_scale(run, scale):
    x, z, segments = case()
    plain = run(uk.hsic, x, z, segments, num_segments=3)
    scaled = run(uk.hsic, x * scale, z * scale, segments, num_segments=3)
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_order_of_rows_and_segments_does_not_matter(run, normalised):
    x, z, segments = case()
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    options = {"num_segments": 4, "bandwidth": 1.0, "normalised": normalised}
    values = run(uk.hsic, x, z, segments, **options)
    torch.testing.assert_close(run(uk.hsic, x[shuffled], z[shuffled], segments[shuffled], **options), values)
    torch.testing.assert_close(run(uk.hsic, x, z, (segments + 1) % 4, **options)[1:], values[:3])
    assert float(values[3]) == 0  # no rows


def test_two_rows_give_what_is_worked_out_by_hand(run):
    x, z = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    u, v = torch.exp(torch.tensor(-0.5)), torch.exp(torch.tensor(-2.0))
    values = run(uk.hsic, x, z, torch.tensor([0, 0]), num_segments=1, bandwidth=1.0)
    torch.testing.assert_close(values[0], (1 - u) * (1 - v))


def test_normalised_lies_between_zero_and_one(run, few):
    rows = few(300, 120)
    x, _, segments = case(rows=rows)
    same = run(uk.hsic, x, x, segments, num_segments=3, normalised=True)
    torch.testing.assert_close(same, torch.ones(3))
    doubled = run(uk.hsic, x, x * 2 + 5, segments, num_segments=3, normalised=True)
    torch.testing.assert_close(doubled, torch.ones(3))  # the median follows the scale
    some = run(uk.hsic, x, x + normal(rows, 5, seed=8), segments, num_segments=3, normalised=True)
    none = run(uk.hsic, x, normal(rows, 5, seed=9), segments, num_segments=3, normalised=True)
    assert bool((none < some).all())
    assert bool((some < 1).all())
    assert bool((none >= 0).all())
    raw = run(uk.hsic, x, x * 2 + 5, segments, num_segments=3)
    assert bool((raw < 0.2).all())


def test_the_number_of_segments_is_read_from_them_on_the_cpu():
    x, z, segments = case()
    assert torch.equal(uk.hsic(x, z, segments), uk.hsic(x, z, segments, num_segments=3))
    assert uk.hsic(x[:0], z[:0], segments[:0]).tolist() == [0]


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
def test_what_does_not_fit_is_refused(change, match, error):
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
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.hsic.default, arguments)
