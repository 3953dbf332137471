"""kmeans: no worse than scikit-learn's from one start, decided by its seed, on every backend alike."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.clusters import blobs, inertia, skewed
from tests.unitok_kernels.helpers.oracle import integers, normal, raises


@pytest.mark.parametrize("iterations", [1, 5, 60])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_it_ends_no_worse_than_scikit_learn_from_the_same_start(run, interpreted, few, iterations, offset):
    if interpreted and (iterations != 5 or offset == 0):
        pytest.skip("some turns at an offset are enough for Triton's interpreter")
    from sklearn.cluster import KMeans

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
def test_codes_are_nearest_to_the_returned_codebook(run, few, init, dtype):
    x = (normal(few(300, 120), 4) * 5).to(dtype)
    call = uk.kmeans if dtype == torch.float64 else lambda *a, **k: run(uk.kmeans, *a, **k)
    codebook, codes = call(x, 13, iterations=few(3, 1), seed=1, init=init)
    assert codebook.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert codebook.shape == (13, 4)
    oracle.assert_nearest(codes, x, codebook)


def test_codewords_are_the_means_of_their_rows_when_it_has_settled(run, few):
    rows, codewords, turns = few((300, 9, 200), (20, 2, 6))
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
def test_seeds_decide_everything(run, few, one_and_two_threads, init):
    x, codewords, turns = normal(few(700, 100), 5), few(11, 5), few(3, 1)

    def fit(seed=4):
        return run(uk.kmeans, x, codewords, iterations=turns, seed=seed, init=init)

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


def test_plus_plus_never_takes_a_row_twice_while_others_are_left(run, few):
    x = torch.tensor([[0.0], [1.0], [2.0], [50.0]]).repeat(25, 1)
    for seed in range(few(10, 4)):
        codebook, _ = run(uk.kmeans, x, 4, iterations=0, seed=seed)
        assert sorted(codebook.flatten().tolist()) == [0, 1, 2, 50]


def test_codewords_without_rows_are_revived(run, few):
    x = normal(few(200, 40), 3)
    start = torch.cat([x[:3], torch.full((5, 3), 1e4)])
    codebook, codes = run(uk.kmeans, x, 8, iterations=few(30, 3), seed=0, init=start)
    assert int(codes.bincount(minlength=8).min()) > 0
    assert float(codebook.abs().max()) < 10


def test_fewer_distinct_rows_than_codewords_work(run, few):
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]).repeat(6, 1)
    for init in few(("k-means++", "random"), ("k-means++",)):
        codebook, codes = run(uk.kmeans, x, 7, iterations=few(10, 1), seed=0, init=init)
        assert inertia(x, codebook) == 0
        assert bool(codebook.isfinite().all())
        oracle.assert_nearest(codes, x, codebook)
        assert torch.equal(codebook[codes], x)
    # With every row on a codeword there is nowhere to move the one without rows.
    start = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    assert torch.equal(run(uk.kmeans, x, 4, iterations=few(5, 2), seed=0, init=start)[0], start)


@pytest.mark.parametrize(("rows", "codewords", "width"), [(1, 1, 1), (7, 7, 3), (101, 13, 1), (37, 1, 5)])
def test_awkward_shapes_work(run, few, rows, codewords, width):
    x = normal(rows, width)
    codebook, codes = run(uk.kmeans, x, codewords, iterations=few(4, 2), seed=0)
    assert codebook.shape == (codewords, width)
    assert codes.shape == (rows,)
    if codewords == 1:
        torch.testing.assert_close(codebook[0], x.mean(0))
    oracle.assert_nearest(codes, x, codebook)


def test_any_layout_gives_the_same_bits(run, few):
    x, start, turns = normal(6, few(80, 40))[:4].T, normal(4, 9).T, few(3, 1)
    for one, two in zip(
        run(uk.kmeans, x, 9, iterations=turns, seed=0, init=start),
        run(uk.kmeans, x.contiguous(), 9, iterations=turns, seed=0, init=start.contiguous()),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("init", ["k-means++", "random", "tensor"])
@pytest.mark.parametrize("width", [3, 16, 21])
def test_every_backend_gives_the_codes_of_the_reference(run, few, interpreted, init, width):
    if interpreted and width == 16:
        pytest.skip("the widths beside it are enough for an interpreter")
    x = skewed(few(300, 100), width)
    options = {"iterations": few(4, 2), "seed": 2, "init": x[:14] + 1 if init == "tensor" else init}
    codebook, codes = run(uk.kmeans, x, 14, **options)
    expected, truth = uk.kmeans(x, 14, **options, backend="reference")
    assert torch.equal(codes, truth)
    torch.testing.assert_close(codebook, expected, rtol=1e-6, atol=1e-6)


def test_bits_are_those_of_one_thread(run, few):
    # More rows than a task takes, and codewords that start empty.
    x = skewed(few(2100, 24), 9)
    start = torch.cat([x[: few(17, 5)], torch.full((3, 9), 1e3)])
    before, results = torch.get_num_threads(), []
    try:
        for threads in few((1, 2, 3), (1, 2)):
            torch.set_num_threads(threads)
            results.append(run(uk.kmeans, x, len(start), iterations=2, seed=0, init=start))
            results.append(run(uk.kmeans, x, few(20, 5), iterations=1, seed=0))
    finally:
        torch.set_num_threads(before)
    for alone, *more in (results[::2], results[1::2]):
        for codebook, codes in more:
            assert torch.equal(codebook, alone[0])
            assert torch.equal(codes, alone[1])


def test_unchecked_bad_rows_are_left_out(run, few):
    x, turns = normal(60, 3), few(3, 1)
    clean = run(uk.kmeans, x[2:], 5, iterations=turns, seed=0)
    x[0, 1], x[1] = torch.nan, torch.inf
    codebook, codes = run(uk.kmeans, x, 5, iterations=turns, seed=0, check_finite=False)
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
def test_what_does_not_fit_is_refused(x, options, match, error):
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
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.kmeans.default, arguments)


@pytest.mark.parametrize("init", ["random", normal(5, 4)], ids=["random", "tensor"])
def test_compiles_without_a_graph_break(init):
    def function(x):
        codebook, codes = uk.kmeans(x * 2, 5, iterations=3, seed=0, init=init)
        return codebook[codes]

    x = normal(40, 4)
    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))
