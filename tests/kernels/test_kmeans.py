from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unitok_kernels as uk
from tests.kernels import oracle
from tests.kernels.oracle import integers, normal, raises


def inertia(x, codebook, codes=None):
    distance = oracle.squared_distances(x, codebook)
    return float((distance.min(1).values if codes is None else distance.gather(1, codes[:, None])).sum())


@pytest.fixture
def run(run, interpreted):
    """As elsewhere, but the interpreter doesn't wait for large balanced assignments: Triton has the reference's own."""

    def call(operation, x, *arguments, **keywords):
        if interpreted and keywords.get("balanced") and len(x) > 50:
            pytest.skip("Triton takes the balanced assignment from the reference")
        return run(operation, x, *arguments, **keywords)

    return call


def blobs(clusters=12, each=40, width=5, spread=30.0):
    centers = normal(clusters, width, seed=1) * spread
    return centers.repeat_interleave(each, 0) + normal(clusters * each, width, seed=2)


@pytest.mark.parametrize("iterations", [1, 5, 60])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_no_worse_than_scikit_learn_from_the_same_start(run, interpreted, few, iterations, offset):
    from sklearn.cluster import KMeans

    if interpreted and iterations != 5:
        pytest.skip("some turns are enough for Triton's interpreter")
    x = normal(few(600, 100), 6) + offset
    start = x[:20].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = KMeans(20, init=start.double().numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        theirs.fit(x.double().numpy())
    codebook, codes = run(uk.kmeans, x, 20, iterations=iterations, seed=0, init=start)
    assert inertia(x, codebook, codes) <= theirs.inertia_ * (1 + 1e-4)


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_codes_are_nearest_to_the_returned_codebook(run, init, dtype):
    x = (normal(300, 4) * 5).to(dtype)
    call = uk.kmeans if dtype == torch.float64 else lambda *a, **k: run(uk.kmeans, *a, **k)
    codebook, codes = call(x, 13, iterations=3, seed=1, init=init)
    assert codebook.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert codebook.shape == (13, 4)
    oracle.assert_nearest(codes, x, codebook)


def test_codewords_are_the_means_of_their_rows_when_it_has_settled(run, few):
    rows, codewords, turns = few((300, 9, 200), (40, 3, 8))
    x = normal(rows, 4)
    codebook, codes = run(uk.kmeans, x, codewords, iterations=turns, seed=0)
    means = torch.stack([x[codes == code].double().mean(0) for code in range(codewords)])
    torch.testing.assert_close(codebook.double(), means, rtol=1e-6, atol=1e-6)
    more, _ = run(uk.kmeans, x, codewords, iterations=turns * 3 // 2, seed=0)
    assert torch.equal(more, codebook)


def test_more_turns_never_hurt(run, few):
    x = blobs(each=few(40, 10))
    course = [
        inertia(x, run(uk.kmeans, x, 12, iterations=turns, seed=3, init="random")[0])
        for turns in few((0, 1, 2, 5, 20), (0, 1, 3))
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(course))
    assert course[-1] < 0.9 * course[0]


def test_no_turns_keep_the_start(run):
    x, start = normal(50, 3), normal(7, 3, seed=1)
    before = start.clone()
    codebook, codes = run(uk.kmeans, x, 7, iterations=0, seed=0, init=start)
    assert torch.equal(codebook, before)
    oracle.assert_nearest(codes, x, before)
    codebook.zero_()
    assert torch.equal(start, before)  # a copy, not the start itself
    codebook, _ = run(uk.kmeans, x, 7, iterations=0, seed=0, init="random")
    assert all((x == word).all(1).any() for word in codebook)
    assert len(codebook.unique(dim=0)) == 7


def test_the_start_is_left_alone(run):
    x, start = normal(50, 3), normal(7, 3, seed=1)
    before = start.clone()
    codebook, _ = run(uk.kmeans, x, 7, iterations=4, seed=0, init=start)
    assert torch.equal(start, before)
    assert not torch.equal(codebook, before)


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("balanced", [False, True])
def test_seeds_decide_everything(run, few, one_and_two_threads, init, balanced):
    x, turns = normal(few(700, 100), 5), few(3, 1)

    def fit(seed=4):
        return run(uk.kmeans, x, 11, iterations=turns, seed=seed, init=init, balanced=balanced)

    (one, codes_one), (two, codes_two) = one_and_two_threads(fit)
    assert torch.equal(one, two)
    assert torch.equal(codes_one, codes_two)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(fit()[0], one)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched
    assert not torch.equal(fit(5)[0], one)


def test_plus_plus_beats_random_on_clusters(run, few):
    x, seeds = blobs(each=few(40, 10)), few(9, 1)
    cost = {
        init: sorted(inertia(x, run(uk.kmeans, x, 12, iterations=2, seed=seed, init=init)[0]) for seed in range(seeds))
        for init in ("k-means++", "random")
    }
    assert cost["k-means++"][seeds // 2] < 0.7 * cost["random"][seeds // 2]  # medians


def test_plus_plus_never_takes_a_row_twice_while_others_are_left(run):
    x = torch.tensor([[0.0], [1.0], [2.0], [50.0]]).repeat(25, 1)
    for seed in range(10):
        codebook, _ = run(uk.kmeans, x, 4, iterations=0, seed=seed)
        assert sorted(codebook.flatten().tolist()) == [0, 1, 2, 50]


def test_codewords_without_rows_are_revived(run, few):
    x = normal(few(200, 40), 3)
    start = torch.cat([x[:3], torch.full((5, 3), 1e4)])
    codebook, codes = run(uk.kmeans, x, 8, iterations=few(30, 3), seed=0, init=start)
    assert int(codes.bincount(minlength=8).min()) > 0
    assert float(codebook.abs().max()) < 10


def test_fewer_distinct_rows_than_codewords(run, few):
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]).repeat(6, 1)
    for init in few(("k-means++", "random"), ("k-means++",)):
        codebook, codes = run(uk.kmeans, x, 7, iterations=few(10, 2), seed=0, init=init)
        assert inertia(x, codebook) == 0
        assert bool(codebook.isfinite().all())
        oracle.assert_nearest(codes, x, codebook)
        assert torch.equal(codebook[codes], x)
    # With every row on a codeword there is nowhere to move the one without rows.
    start = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    assert torch.equal(run(uk.kmeans, x, 4, iterations=few(5, 2), seed=0, init=start)[0], start)


@pytest.mark.parametrize(("rows", "codewords", "width"), [(1, 1, 1), (7, 7, 3), (101, 13, 1), (37, 1, 5)])
@pytest.mark.parametrize("balanced", [False, True])
def test_awkward_shapes(run, rows, codewords, width, balanced):
    x = normal(rows, width)
    codebook, codes = run(uk.kmeans, x, codewords, iterations=4, seed=0, balanced=balanced)
    assert codebook.shape == (codewords, width)
    assert codes.shape == (rows,)
    if codewords == 1:
        torch.testing.assert_close(codebook[0], x.mean(0))
    if not balanced:
        oracle.assert_nearest(codes, x, codebook)


def test_any_layout(run, few):
    x, start, turns = normal(6, few(80, 40))[:4].T, normal(4, 9).T, few(3, 1)
    for one, two in zip(
        run(uk.kmeans, x, 9, iterations=turns, seed=0, init=start),
        run(uk.kmeans, x.contiguous(), 9, iterations=turns, seed=0, init=start.contiguous()),
        strict=True,
    ):
        assert torch.equal(one, two)


def bounds_hold(codes, num_codewords):
    counts = codes.bincount(minlength=num_codewords)
    rows = len(codes)
    assert len(counts) == num_codewords
    assert int(counts.min()) >= rows // (2 * num_codewords)
    assert int(counts.max()) <= -(-2 * rows // num_codewords)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_codewords=st.integers(1, 12),
    spare=st.integers(0, 150),
    power=st.floats(0.5, 12),
    clumps=st.integers(1, 4),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_balanced_bounds_hold_on_skewed_data(run, num_codewords, spare, power, clumps, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = num_codewords + spare
    which = (torch.rand(rows, generator=generator) ** power * clumps).long()  # nearly all rows in the first clump
    x = which[:, None] * 20.0 + torch.rand(rows, 2, generator=generator) * (which[:, None] > 0)
    _, codes = run(uk.kmeans, x, num_codewords, iterations=iterations, seed=seed, balanced=True)
    bounds_hold(codes, num_codewords)


def test_balanced_equals_nearest_where_no_bound_is_touched(run):
    x = blobs(clusters=6, each=30)
    start = x[::30].contiguous()
    codebook, codes = run(uk.kmeans, x, 6, iterations=5, seed=0, init=start, balanced=True)
    assert torch.equal(codes, torch.arange(6).repeat_interleave(30))
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
def test_balanced_codes_have_the_least_inertia_that_the_bounds_allow(run, seed):
    generator = torch.Generator().manual_seed(seed)
    num_codewords = 2 + seed
    x = normal(num_codewords + 9 * seed, 3, seed=seed) * torch.rand(1, 3, generator=generator) ** 4 + 5
    start = normal(num_codewords, 3, seed=seed + 100) + 5
    codebook, codes = run(uk.kmeans, x, num_codewords, iterations=0, seed=0, init=start, balanced=True)
    assert torch.equal(codebook, start)
    bounds_hold(codes, num_codewords)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


@pytest.mark.parametrize("distinct", [1, 3, 20])
def test_balanced_codes_of_equal_rows_have_the_least_inertia(run, distinct):
    x = normal(distinct, 2)[integers(distinct, 150, seed=1) // 2]
    start = normal(9, 2, seed=2)
    _, codes = run(uk.kmeans, x, 9, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 9)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


def test_balanced_codes_out_of_one_large_cluster_have_the_least_inertia(run):
    x, start = skewed(700, 3) * 0.1, normal(5, 3, seed=2) * 4
    start[0] = 0
    assert int(uk.nearest_codeword(x, start)[0].bincount(minlength=5).max()) > 500
    _, codes = run(uk.kmeans, x, 5, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 5)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-9)


def test_balanced_codes_of_far_apart_clusters_have_the_least_inertia(run):
    x, start = oracle.two_clusters()
    x, start = x[:260], start[::8]  # 200 rows at 1000, 60 at -1000, 11 codewords: 11 to 48 rows each
    _, codes = run(uk.kmeans, x, 11, iterations=0, seed=0, init=start, balanced=True)
    bounds_hold(codes, 11)
    assert inertia(x, start, codes) == pytest.approx(least_inertia(x, start), rel=1e-6)


def test_balanced_moves_as_many_rows_as_the_bounds_ask_for(run):
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


def skewed(rows, width):
    """Half of the rows in one cluster, a quarter in the next, and so on."""
    centres = normal(12, width, seed=1) * 4
    which = torch.frexp(torch.rand(rows, generator=torch.Generator().manual_seed(2)))[1].neg().clamp(max=11)
    return centres[which.long()] + normal(rows, width, seed=3)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("init", ["k-means++", "random", "tensor"])
@pytest.mark.parametrize("width", [3, 16, 21])
def test_every_backend_gives_the_codes_of_the_reference(run, few, init, balanced, width):
    x = skewed(few(300, 100), width)
    options = {
        "iterations": few(4, 2),
        "seed": 2,
        "init": x[:14] + 1 if init == "tensor" else init,
        "balanced": balanced,
    }
    codebook, codes = run(uk.kmeans, x, 14, **options)
    expected, truth = uk.kmeans(x, 14, **options, backend="reference")
    assert torch.equal(codes, truth)
    torch.testing.assert_close(codebook, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("balanced", [False, True])
def test_bits_are_those_of_one_thread(run, few, balanced):
    # More rows than a task takes, codewords that start empty, and bounds that bind.
    x = skewed(few(2100, 40), 9)
    start = torch.cat([x[: few(17, 5)], torch.full((3, 9), 1e3)])
    before, results = torch.get_num_threads(), []
    try:
        for threads in few((1, 2, 3), (1, 2)):
            torch.set_num_threads(threads)
            results.append(run(uk.kmeans, x, len(start), iterations=2, seed=0, init=start, balanced=balanced))
            results.append(run(uk.kmeans, x, few(20, 5), iterations=1, seed=0, balanced=balanced))
    finally:
        torch.set_num_threads(before)
    for alone, *more in (results[::2], results[1::2]):
        for codebook, codes in more:
            assert torch.equal(codebook, alone[0])
            assert torch.equal(codes, alone[1])


def test_unchecked_bad_rows_are_left_out(run):
    x = normal(60, 3)
    clean = run(uk.kmeans, x[2:], 5, iterations=3, seed=0)
    x[0, 1], x[1] = torch.nan, torch.inf
    codebook, codes = run(uk.kmeans, x, 5, iterations=3, seed=0, check_finite=False)
    assert codes[:2].tolist() == [-1, -1]
    assert torch.equal(codes[2:], clean[1])
    assert torch.equal(codebook, clean[0])


@pytest.mark.parametrize(
    ("x", "options", "match", "error"),
    [
        (normal(3), {}, r"x must be of shape \(N, D\), got \(3,\)", ValueError),
        (normal(5, 0), {}, "x's width must be at least 1, got 0", ValueError),
        (normal(1, 3), {}, "x's rows must be at least 2, got 1", ValueError),
        (normal(0, 3), {}, "x's rows must be at least 2, got 0", ValueError),
        (normal(5, 3), {"num_codewords": 0}, "num_codewords must be at least 1, got 0", ValueError),
        (normal(5, 3), {"iterations": -1}, "iterations must be at least 0, got -1", ValueError),
        (
            normal(5, 3),
            {"init": "kmeans++"},
            "init must be one of 'k-means\\+\\+', 'random', got 'kmeans\\+\\+'",
            ValueError,
        ),
        (normal(5, 3), {"init": normal(3)}, r"init must be of shape \(K, D\), got \(3,\)", ValueError),
        (normal(5, 3), {"init": normal(3, 3)}, "init must be of length 2, as num_codewords is, got 3", ValueError),
        (normal(5, 3), {"init": normal(2, 2)}, "init must be of width 3, as x is, got 2", ValueError),
        (normal(5, 3), {"init": normal(2, 3).to("meta")}, "init must be on cpu, as x is, got meta", ValueError),
        (
            normal(5, 3),
            {"init": torch.tensor([[0.0] * 3, [torch.nan] * 3])},
            "init must be finite, got nan at row 1",
            ValueError,
        ),
        (torch.tensor([[0.0], [1.0], [torch.inf]]), {}, "x must be finite, got inf at row 2", ValueError),
        (
            torch.tensor([[0.0], [torch.nan], [torch.inf]]),
            {"check_finite": False},
            "x's finite rows must be at least 2, got 1",
            ValueError,
        ),
        ([[1.0]], {}, "x must be a torch.Tensor, got list", TypeError),
        (integers(3, 5, 3), {}, "x must be float32, .*, got torch.int64", TypeError),
        (normal(5, 3), {"init": 3}, "init must be .*, got int", TypeError),
        (normal(5, 3), {"init": None}, "init must be .*, got NoneType", TypeError),
        (normal(5, 3), {"init": integers(2, 2, 3)}, "init must be float32, .*, got torch.int64", TypeError),
        (normal(5, 3), {"init": normal(2, 3).double()}, "x must be float64, as init is, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit(x, options, match, error):
    with raises("^kmeans: " + match, error):
        uk.kmeans(x, **{"num_codewords": 2, "iterations": 1, "seed": 0, **options})


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), 3, 2, 0),
        (normal(4, 9).T.half(), 3, 2, 0, "random", None, True, False, "reference"),
        (normal(9, 4), 3, 2, 0, "tensor", normal(4, 3).T),
        (normal(9, 4).double(), 3, 2, 0),
    ],
)
def test_opcheck(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.kmeans.default, arguments)


@pytest.mark.parametrize("init", ["random", normal(5, 4)], ids=["random", "tensor"])
def test_compiles_without_a_graph_break(init):
    def function(x):
        codebook, codes = uk.kmeans(x * 2, 5, iterations=3, seed=0, init=init)
        return codebook[codes]

    x = normal(40, 4)
    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))
