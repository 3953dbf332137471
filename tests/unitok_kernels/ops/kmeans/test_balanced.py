"""kmeans(balanced=True): the bounds hold, and no assignment within them is cheaper."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.clusters import blobs, inertia, skewed
from tests.unitok_kernels.helpers.oracle import integers, normal

EXAMPLES = 3 if os.environ.get("TRITON_INTERPRET") == "1" else 25


def bounds_hold(codes, num_codewords):
    counts = codes.bincount(minlength=num_codewords)
    rows = len(codes)
    assert len(counts) == num_codewords
    assert int(counts.min()) >= rows // (2 * num_codewords)
    assert int(counts.max()) <= -(-2 * rows // num_codewords)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_codewords=st.integers(1, 12),
    spare=st.integers(0, 150),
    power=st.floats(0.5, 12),
    clumps=st.integers(1, 4),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_bounds_hold_on_skewed_data(run, few, num_codewords, spare, power, clumps, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = num_codewords + few(spare, spare // 4)
    which = (torch.rand(rows, generator=generator) ** power * clumps).long()  # nearly all rows in the first clump
    x = which[:, None] * 20.0 + torch.rand(rows, 2, generator=generator) * (which[:, None] > 0)
    _, codes = run(uk.kmeans, x, num_codewords, iterations=few(iterations, iterations // 2), seed=seed, balanced=True)
    bounds_hold(codes, num_codewords)


def test_codes_are_the_nearest_where_no_bound_is_touched(run, few):
    each = few(30, 8)
    x = blobs(clusters=6, each=each)
    start = x[::each].contiguous()
    codebook, codes = run(uk.kmeans, x, 6, iterations=few(5, 1), seed=0, init=start, balanced=True)
    assert torch.equal(codes, torch.arange(6).repeat_interleave(each))
    oracle.assert_nearest(codes, x, codebook)


def least_inertia(x, codebook):
    """Of all assignments that keep the bounds: a codeword has `most` seats; empty ones are taken for free."""
    from scipy.optimize import linear_sum_assignment

    rows, num_codewords = len(x), len(codebook)
    fewest, most = rows // (2 * num_codewords), -(-2 * rows // num_codewords)
    distance = oracle.squared_distances(x, codebook).repeat_interleave(most, 1)
    must = (torch.arange(most) < fewest).repeat(num_codewords).double() * 1e9
    cost = torch.cat([distance, must.expand(num_codewords * most - rows, -1)]).numpy()
    return float(cost[linear_sum_assignment(cost)].sum())


@pytest.mark.parametrize("seed", range(12))
def test_codes_have_the_least_inertia_that_the_bounds_allow(run, interpreted, seed):
    if interpreted and seed not in (0, 3, 8):
        pytest.skip("the sizes beside it are enough for an interpreter")
    generator = torch.Generator().manual_seed(seed)
    num_codewords = 2 + seed
    x = normal(num_codewords + 9 * seed, 3, seed=seed) * torch.rand(1, 3, generator=generator) ** 4 + 5
    start = normal(num_codewords, 3, seed=seed + 100) + 5
    codebook, codes = run(uk.kmeans, x, num_codewords, iterations=0, seed=0, init=start, balanced=True)
    assert torch.equal(codebook, start)
    bounds_hold(codes, num_codewords)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


@pytest.mark.parametrize("distinct", [1, 3, 20])
def test_codes_of_equal_rows_have_the_least_inertia(run, few, distinct):
    x = normal(distinct, 2)[integers(distinct, few(150, 30), seed=1) // 2]
    start = normal(9, 2, seed=2)
    _, codes = run(uk.kmeans, x, 9, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 9)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


def test_codes_out_of_one_large_cluster_have_the_least_inertia(run, few):
    rows = few(700, 60)
    x, start = skewed(rows, 3) * 0.1, normal(5, 3, seed=2) * 4
    start[0] = 0
    assert int(uk.nearest_codeword(x, start)[0].bincount(minlength=5).max()) > 5 * rows / 7
    _, codes = run(uk.kmeans, x, 5, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 5)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


def test_codes_of_far_apart_clusters_have_the_least_inertia(run, few):
    x, start = oracle.two_clusters()
    x, start = x[: 260 : few(1, 3)], start[::8]  # 200 rows at 1000, 60 at -1000, 11 codewords: 11 to 48 rows each
    _, codes = run(uk.kmeans, x, 11, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 11)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-6)


def test_it_moves_as_many_rows_as_the_bounds_ask_for(run):
    # 10 rows, 2 codewords: at most 10 and at least 2 each; the two nearest to the right must go there.
    x = torch.linspace(0, 3, 10)[:, None]
    start = torch.tensor([[0.0], [100.0]])
    _, codes = run(uk.kmeans, x, 2, iterations=0, seed=0, init=start, balanced=True)
    assert codes.tolist() == [0] * 8 + [1] * 2
    # 12 rows, 4 codewords: 1 to 6 each. On a line the order of the rows is that of their codewords.
    x = torch.linspace(0, 3, 12)[:, None]
    start = torch.tensor([[0.0], [50.0], [-60.0], [-70.0]])
    _, codes = run(uk.kmeans, x, 4, iterations=0, seed=0, init=start, balanced=True)
    assert codes.tolist() == [3, 2] + [0] * 6 + [1] * 4


@pytest.mark.parametrize("init", ["k-means++", "random", "tensor"])
@pytest.mark.parametrize("width", [3, 16, 21])
def test_every_backend_gives_the_codes_of_the_reference(run, few, interpreted, init, width):
    if interpreted and (width == 16 or init == "random" or (width, init) == (3, "k-means++")):
        pytest.skip("the cases beside it are enough for an interpreter")
    x = skewed(few(300, 60), width)
    options = {"iterations": few(4, 1), "seed": 2, "init": x[:14] + 1 if init == "tensor" else init, "balanced": True}
    codebook, codes = run(uk.kmeans, x, 14, **options)
    expected, truth = uk.kmeans(x, 14, **options, backend="reference")
    assert torch.equal(codes, truth)
    torch.testing.assert_close(codebook, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rows", "codewords", "width"), [(1, 1, 1), (7, 7, 3), (101, 13, 1), (37, 1, 5)])
def test_awkward_shapes_keep_the_bounds(run, few, rows, codewords, width):
    x = normal(rows, width)
    codebook, codes = run(uk.kmeans, x, codewords, iterations=few(4, 1), seed=0, balanced=True)
    assert codebook.shape == (codewords, width)
    assert codes.shape == (rows,)
    bounds_hold(codes, codewords)


def test_seeds_decide_and_threads_change_nothing(run, few, one_and_two_threads):
    # More rows than a task takes, codewords that start empty, and bounds that bind.
    x = skewed(few(2100, 40), 9)
    start = torch.cat([x[: few(17, 5)], torch.full((3, 9), 1e3)])

    def fit(**options):
        return run(uk.kmeans, x, len(start), iterations=few(2, 1), balanced=True, **options)

    for options in ({"seed": 0, "init": start}, {"seed": 1}):
        (one, codes_one), (two, codes_two) = one_and_two_threads(lambda options=options: fit(**options))
        assert torch.equal(one, two)
        assert torch.equal(codes_one, codes_two)


def test_unchecked_bad_rows_are_left_out_of_the_bounds(run):
    x, start = skewed(40, 3), skewed(40, 3)[:5]
    clean = run(uk.kmeans, x[2:], 5, iterations=1, seed=0, init=start, balanced=True)
    x[0, 1], x[1] = torch.nan, torch.inf
    codebook, codes = run(uk.kmeans, x, 5, iterations=1, seed=0, init=start, balanced=True, check_finite=False)
    assert codes[:2].tolist() == [-1, -1]
    assert torch.equal(codes[2:], clean[1])
    assert torch.equal(codebook, clean[0])
