"""sinkhorn_assign takes the argmax of the dense plan, uses all codewords alike, and makes no table."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import integers, normal, raises


def dense(x, codebook, epsilon, iterations):
    """The whole plan in the log domain and float64: (N, K) log P, rows scaled last but one, columns last."""
    cost = oracle.squared_distances(x, codebook)
    cost = cost / cost.mean()
    rows, columns = torch.zeros(len(x), 1), torch.zeros(1, len(codebook))
    for _ in range(iterations):
        rows = -math.log(len(x)) - torch.logsumexp(-cost / epsilon + columns, 1, keepdim=True)
        columns = -math.log(len(codebook)) - torch.logsumexp(-cost / epsilon + rows, 0, keepdim=True)
    return -cost / epsilon + rows + columns


def skewed(rows=1200, width=6):
    """Most rows near the first of eight codewords."""
    codebook = normal(8, width) * 1.5
    which = (torch.rand(rows, generator=torch.Generator().manual_seed(1)) ** 4 * 8).long()
    return codebook[which] + normal(rows, width, seed=2), codebook


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("iterations", [1, 3, 40])
def test_codes_are_the_argmax_of_the_dense_plan(run, interpreted, epsilon, iterations):
    x, codebook = skewed(rows=300 if interpreted else 1200)
    iterations = min(iterations, 12) if interpreted else iterations
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=epsilon, iterations=iterations)
    two = dense(x, codebook, epsilon, iterations).topk(2, 1)
    clear = two.values[:, 0] - two.values[:, 1] > 1e-5
    assert float(clear.double().mean()) > 0.99
    assert torch.equal(codes[clear], two.indices[clear, 0])


@pytest.mark.parametrize("offset", [1000.0, 1e12])
def test_far_from_the_origin_nothing_changes(run, offset):
    x, codebook = (integers(9, 300, 4) - 4.0), (integers(9, 6, 4, seed=1) - 4.0)
    scale = 1.0 if offset == 1000 else 2.0**20  # whole numbers that float32 holds exactly at the offset
    near = run(uk.sinkhorn_assign, x, codebook, epsilon=0.1, iterations=20)
    far = run(uk.sinkhorn_assign, x * scale + offset, codebook * scale + offset, epsilon=0.1, iterations=20)
    two = dense(x, codebook, 0.1, 20).topk(2, 1)
    clear = two.values[:, 0] - two.values[:, 1] > 1e-3
    assert torch.equal(near[clear], far[clear])


def test_all_codewords_are_used_alike_on_skewed_data(run, interpreted):
    x, codebook = skewed()
    nearest = oracle.squared_distances(x, codebook).argmin(1).bincount(minlength=8)
    counts = run(uk.sinkhorn_assign, x, codebook, epsilon=0.05, iterations=25 if interpreted else 100).bincount(
        minlength=8
    )
    assert int(nearest.max()) > 2 * 150
    assert int(nearest.min()) < 0.6 * 150
    assert int(counts.max()) < 1.2 * 150
    assert int(counts.min()) > 0.8 * 150


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 1e-2])
def test_a_small_epsilon_gives_the_nearest_codeword_where_that_is_balanced(run, interpreted, epsilon):
    codebook = torch.eye(6) * 10
    x = codebook.repeat_interleave(20, 0) + normal(120, 6) * 0.3
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=epsilon, iterations=10 if interpreted else 50)
    assert torch.equal(codes, torch.arange(6).repeat_interleave(20))


def test_a_small_epsilon_stays_in_range_on_skewed_data(run):
    x, codebook = skewed()
    cost = oracle.squared_distances(x, codebook)
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=1e-6, iterations=20)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 8
    paid = cost.gather(1, codes[:, None]).mean()
    assert float(paid) < 0.7 * float(cost.mean())  # a random code would pay the mean


@pytest.mark.parametrize(("rows", "codewords", "width"), [(0, 5, 3), (1, 1, 1), (1, 7, 2), (13, 1, 5), (2051, 3, 1)])
def test_awkward_shapes_take_the_argmax_of_the_plan(run, rows, codewords, width):
    x, codebook = normal(rows, width), normal(codewords, width, seed=1)
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=0.1, iterations=7)
    assert codes.shape == (rows,)
    assert codes.dtype == torch.int64
    if rows:
        plan = dense(x, codebook, 0.1, 7)
        lost = plan.amax(1) - plan.gather(1, codes[:, None])[:, 0]
        assert float(lost.max()) < 1e-5  # a single row's mass is 1/K everywhere: all codewords tie but for rounding


def test_all_rows_on_all_codewords_take_the_lowest_index(run):
    codes = run(uk.sinkhorn_assign, torch.ones(5, 3), torch.ones(4, 3), epsilon=0.1, iterations=5)
    assert codes.tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_and_any_layout_give_the_same_codes(run, dtype):
    x, codebook = (v.to(dtype) for v in skewed(rows=200))
    codes = run(uk.sinkhorn_assign, x.T.contiguous().T, codebook.T.contiguous().T, epsilon=0.1, iterations=9)
    plain = run(uk.sinkhorn_assign, x.float(), codebook.float(), epsilon=0.1, iterations=9)
    assert torch.equal(codes, plain)


def test_unchecked_bad_rows_are_left_out(run):
    x, codebook = skewed(rows=100)
    clean = run(uk.sinkhorn_assign, x[2:], codebook, epsilon=0.1, iterations=9)
    x[0, 1], x[1] = torch.nan, -torch.inf
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=0.1, iterations=9, check_finite=False)
    assert codes[:2].tolist() == [-1, -1]
    assert torch.equal(codes[2:], clean)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.05])
def test_codes_are_the_reference_s_where_codewords_starve(run, epsilon):
    # With so small an epsilon a far codeword's mass is far below any double: only its logarithm is left.
    x, codebook = skewed(rows=5000)
    codebook = torch.cat([codebook, codebook[:3] + 40, normal(90, 6, seed=5) * 2])
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=epsilon, iterations=6)
    assert torch.equal(codes, uk.sinkhorn_assign(x, codebook, epsilon=epsilon, iterations=6, backend="reference"))


def test_codes_are_equal_for_any_number_of_threads(run, interpreted, one_and_two_threads):
    x, codebook = normal(400 if interpreted else 4000, 7), normal(37, 7, seed=1)
    one, two = one_and_two_threads(lambda: run(uk.sinkhorn_assign, x, codebook, epsilon=0.03, iterations=8))
    assert torch.equal(one, two)


def test_unchecked_bad_codewords_give_codes_in_range(run):
    x, codebook = skewed(rows=100)
    codebook[3, 1] = torch.nan
    codes = run(uk.sinkhorn_assign, x, codebook, epsilon=0.1, iterations=3, check_finite=False)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 8


MEMORY = """
import re, torch, unitok_kernels as uk
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) / 1024
x, codebook = torch.randn(40_000, 4), torch.randn(500, 4)
uk.sinkhorn_assign(x[:10], codebook, epsilon=0.1, iterations=1, backend="cpu")
before = peak()
uk.sinkhorn_assign(x, codebook, epsilon=0.1, iterations=1, backend="cpu")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.skipif(not uk.backends.available()["cpu"], reason="the native module is not built")
def test_the_native_kernel_keeps_no_table_either():
    # 40,000 x 500 scores are 80 MB in float32.
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 8


def test_no_table_of_rows_times_codewords_is_made():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            found = function(*arguments, **(keywords or {}))
            if isinstance(found, torch.Tensor):
                self.size = max(self.size, found.numel())
            return found

    from unitok_kernels.ops.sinkhorn_assign.reference import sinkhorn_assign

    x, codebook = normal(20_000, 2), normal(64, 2, seed=1)
    with Largest() as largest:
        sinkhorn_assign(x, codebook, 0.1, 1, None)
    assert 0 < largest.size < 20_000 * 64 / 8


@pytest.mark.parametrize(
    ("x", "codebook", "options", "match", "error"),
    [
        (normal(3), normal(2, 3), {}, r"x must be of shape \(N, D\), got \(3,\)", ValueError),
        (normal(3, 3), normal(3), {}, r"codebook must be of shape \(K, D\), got \(3,\)", ValueError),
        (normal(3, 3), normal(2, 4), {}, "x must be of width 4, as codebook is, got 3", ValueError),
        (normal(3, 3), normal(0, 3), {}, r"codebook must be .*\(K = 0\)", ValueError),
        (normal(3, 3), normal(2, 3).to("meta"), {}, "codebook must be on cpu, as x is, got meta", ValueError),
        (normal(3, 3), normal(2, 3), {"epsilon": 0.0}, "epsilon must be positive, got 0.0", ValueError),
        (normal(3, 3), normal(2, 3), {"epsilon": -1.0}, "epsilon must be positive, got -1.0", ValueError),
        (normal(3, 3), normal(2, 3), {"epsilon": torch.nan}, "epsilon must be positive, got nan", ValueError),
        (normal(3, 3), normal(2, 3), {"iterations": 0}, "iterations must be at least 1, got 0", ValueError),
        (torch.tensor([[0.0], [torch.nan]]), normal(2, 1), {}, "x must be finite, got nan at row 1", ValueError),
        (normal(2, 1), torch.tensor([[0.0], [torch.inf]]), {}, "codebook must be finite, got inf at row 1", ValueError),
        ("x", normal(2, 3), {}, "x must be a torch.Tensor, got str", TypeError),
        (integers(2, 3, 3), normal(2, 3), {}, "x must be float32, .*, got torch.int64", TypeError),
        (normal(3, 3), normal(2, 3).double(), {}, "x must be float64, as codebook is, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(x, codebook, options, match, error):
    with raises("^sinkhorn_assign: " + match, error):
        uk.sinkhorn_assign(x, codebook, **{"epsilon": 0.1, "iterations": 3, **options})


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), normal(3, 4), 0.1, 3),
        (normal(0, 4), normal(3, 4), 0.1, 3),
        (normal(4, 9).T.half(), normal(3, 4), 0.1, 3, False, "reference"),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.sinkhorn_assign.default, arguments)


def test_compiles_without_a_graph_break():
    def function(x, codebook):
        return uk.sinkhorn_assign(x * 2, codebook, epsilon=0.1, iterations=3) + 1

    x, codebook = skewed(rows=50)
    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(x, codebook), function(x, codebook))
