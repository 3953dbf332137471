"""nearest_codeword gives the float64 argmin, the lowest index among ties, and counts what was near."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import HARD, integers, normal, raises

OP = torch.ops.unitok_kernels.nearest_codeword.default


@oracle.every_hard_input()
def test_codes_are_the_float64_argmin(run, sampled, hard):
    x, codebook = HARD[hard]()
    x = sampled(x)
    codes, distance = run(uk.nearest_codeword, x, codebook)
    oracle.assert_nearest(codes, x, codebook)
    expected = oracle.squared_distances(x, codebook).gather(1, codes[:, None]).squeeze(1)
    torch.testing.assert_close(distance.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("hard", oracle.BROKEN)
def test_the_expanded_form_fails_on_the_same_inputs(hard):
    x, codebook = HARD[hard]()
    wrong = oracle.wrong_share(oracle.expanded_form(x, codebook), x, codebook)
    assert wrong > 0.2
    # Nor does one centre for the whole codebook save it where there are two clusters.
    if "clusters" in hard:
        mean = codebook.mean(0)
        assert oracle.wrong_share(oracle.expanded_form(x - mean, codebook - mean), x, codebook) > 0.2


def test_ties_take_the_lowest_index(run, sampled):
    # Integers: all arithmetic is exact, and many distances are equal.
    x, codebook = integers(4, 300, 6, seed=1).float(), integers(4, 50, 6, seed=2).float()
    distance = oracle.squared_distances(x, codebook)
    tied = (distance == distance.min(1, keepdim=True).values).sum(1) > 1
    assert int(tied.sum()) > 50
    assert torch.equal(run(uk.nearest_codeword, sampled(x), codebook).codes, sampled(distance).argmin(1))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_duplicates_take_the_lowest_index(run, sampled, offset):
    x, codebook = oracle.at_offset(offset, 1.0, codewords=30)
    x = sampled(x)
    twice = torch.cat([codebook, codebook.flip(0), codebook])
    assert torch.equal(run(uk.nearest_codeword, x, twice).codes, run(uk.nearest_codeword, x, codebook).codes)


def test_a_row_halfway_between_two_codewords_takes_the_lower(run):
    codebook = torch.tensor([[5.0, 5.0], [3.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]) + 4096
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 7.0]]) + 4096
    assert run(uk.nearest_codeword, x, codebook).codes.tolist() == [1, 2, 0]


def wide_ranging(rows=64, width=48):
    """Rows whose values reach from 1e-3 to 1e5, so that float64 can't hold their products' sums exactly."""
    return (normal(rows, width) * 10.0 ** integers(6, rows, width, seed=1, low=-3)).bfloat16().float()


def test_exact_ties_take_the_lowest_index_where_products_are_rounded(run, sampled):
    # 0.5 x and 1.5 x are both exactly 0.5 |x| away from x, and both are floats since x has few digits.
    x = wide_ranging()
    codebook = torch.cat([1.5 * x, 0.5 * x])[torch.randperm(128, generator=torch.Generator().manual_seed(2))]
    distance = oracle.squared_distances(x, codebook)
    best = distance.min(1, keepdim=True).values
    assert int((distance == best).sum()) >= 120  # two for nearly all rows
    lowest = (distance == best).long().argmax(1)
    assert torch.equal(run(uk.nearest_codeword, sampled(x), codebook).codes, sampled(lowest))
    expanded = codebook.double().square().sum(1) - 2 * x.double() @ codebook.double().T
    assert not torch.equal(expanded.argmin(1), distance.argmin(1))  # in float64, and still wrong


def test_stats_count_what_was_planted(run, sampled):
    x, codebook = sampled(normal(100, 8)), normal(20, 8, seed=1) * 3
    *_, none = run(uk.nearest_codeword, x, codebook, stats=True)
    assert int(none.near_ties) == 0
    used = run(uk.nearest_codeword, x, codebook).codes.bincount()
    doubled = torch.cat([codebook, codebook[used.argmax()][None]])
    *_, ties = run(uk.nearest_codeword, x, doubled, stats=True)
    assert int(ties.near_ties) == int(used.max()) > 0
    assert int(ties.rescored_rows) >= int(used.max())
    assert ties.near_ties.dtype == torch.int64
    assert ties.near_ties.dim() == 0


def test_near_ties_are_counted_to_the_digit_far_from_the_origin(run):
    # Beside +-1000 the scores' rounding is larger than 1e-5 of the best distance: only differencing can tell.
    codebook = torch.tensor([[1000.0, 1000.0], [1000.0, 1001.0], [-1000.0, 0.0]])
    middle = torch.tensor([[1000.0, 1000.5]])
    off = torch.tensor([[1000.0, 1000.5 + 2**-10]])
    assert int(run(uk.nearest_codeword, middle.expand(7, 2), codebook, stats=True)[-1].near_ties) == 7
    assert int(run(uk.nearest_codeword, off.expand(7, 2), codebook, stats=True)[-1].near_ties) == 0


def test_near_ties_are_counted_to_the_digit_where_products_are_rounded(run):
    # Two codewords a row, 2^-6 apart: half of the rows in the middle between them, the others clearly nearer to one.
    rows = wide_ranging() * 2.0**6
    rows[:, 0] = 0
    codebook = rows.repeat(2, 1)
    codebook[64:, 0] = 2.0**-6
    rows[::2, 0], rows[1::2, 0] = 2.0**-7, 2.0**-7 + 2.0**-10
    codes, _, stats = run(uk.nearest_codeword, rows, codebook, stats=True)
    assert int(stats.near_ties) == 32
    assert codes.tolist() == [row if row % 2 == 0 else row + 64 for row in range(64)]


def batches(x):
    """Row numbers of one input cut into batches in several ways."""
    everything = torch.arange(len(x))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    return [[shuffled], everything.split(7), everything[:33].split(1), [everything[1:]], shuffled.split(64)]


@pytest.mark.parametrize("hard", ["offset0", "offset1000", "clusters"])
def test_a_row_does_not_depend_on_its_batch(run, sampled, hard):
    x, codebook = HARD[hard]()
    x, codebook = sampled(x[::2], 8), torch.cat([codebook, codebook[:9]])
    whole = run(uk.nearest_codeword, x, codebook)
    for parts in batches(x):
        for rows in parts:
            found = run(uk.nearest_codeword, x[rows], codebook)
            assert torch.equal(found.codes, whole.codes[rows])
            assert torch.equal(found.squared_distance, whole.squared_distance[rows])


def test_threads_do_not_matter(run, sampled, one_and_two_threads):
    x, codebook = oracle.at_offset(1000, 1.0, rows=3000, codewords=128)
    x = sampled(x)
    one, two = one_and_two_threads(lambda: run(uk.nearest_codeword, x, codebook))
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.squared_distance, two.squared_distance)


@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded", "offset"])
def test_any_layout_gives_the_same_bits(run, layout):
    rows, table = normal(60, 12), normal(17, 12, seed=1)
    x, codebook = {
        "strided": lambda: (rows[::2, ::3], table[::2, ::3]),
        "transposed": lambda: (rows[:12].T, table[:12, :12].T),
        "expanded": lambda: (rows[:1].expand(9, 12), table[:1].expand(5, 12)),
        "offset": lambda: (rows.flatten()[5:65].view(5, 12), table.flatten()[3:63].view(5, 12)),
    }[layout]()
    found, plain = (run(uk.nearest_codeword, *pair) for pair in ((x, codebook), (x.clone(), codebook.clone())))
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.squared_distance, plain.squared_distance)
    oracle.assert_nearest(found.codes, x, codebook)


@pytest.mark.parametrize(
    ("rows", "codewords", "width"), [(0, 5, 3), (1, 1, 1), (1, 7, 1), (13, 1, 5), (101, 37, 1), (1031, 257, 31)]
)
def test_awkward_shapes_keep_the_promise(run, rows, codewords, width):
    x, codebook = normal(rows, width), normal(codewords, width, seed=1)
    codes, distance = run(uk.nearest_codeword, x, codebook)
    assert distance.shape == (rows,)
    oracle.assert_nearest(codes, x, codebook)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_half_inputs_are_read_exactly(run, dtype, mixed):
    x, codebook = normal(200, 16).to(dtype), normal(40, 16, seed=1)
    codebook = codebook if mixed else codebook.to(dtype)
    codes, distance = run(uk.nearest_codeword, x, codebook)
    assert distance.dtype == torch.float32
    assert torch.equal(codes, run(uk.nearest_codeword, x.float(), codebook.float()).codes)
    oracle.assert_nearest(codes, x, codebook)


def test_float64_keeps_its_precision():
    x, codebook = normal(50, 4).double(), normal(9, 4, seed=1).double()
    codes, distance = uk.nearest_codeword(x, codebook)
    expected = (x - codebook[codes]).square().sum(1)
    torch.testing.assert_close(distance, expected, rtol=1e-14, atol=0)


def test_fast_keeps_to_the_shapes_and_is_near_the_best(run):
    x, codebook = normal(100, 8), normal(30, 8, seed=1)
    codes, distance = run(uk.nearest_codeword, x, codebook, precision="fast")
    best = oracle.squared_distances(x, codebook).min(1).values
    assert codes.min() >= 0
    assert bool((distance.double() <= best * 1.05 + 1e-3).all())


def test_unchecked_bad_rows_get_no_code(run):
    x, codebook = normal(20, 4), normal(6, 4, seed=1)
    clean = run(uk.nearest_codeword, x, codebook)
    x[3, 0], x[7, 3], x[19] = torch.nan, torch.inf, -torch.inf
    codes, distance = run(uk.nearest_codeword, x, codebook, check_finite=False)
    bad = torch.tensor([3, 7, 19])
    assert codes[bad].tolist() == [-1, -1, -1]
    assert bool(distance[bad].isnan().all())
    good = torch.ones(20, dtype=torch.bool).index_fill(0, bad, False)
    assert torch.equal(codes[good], clean.codes[good])
    assert torch.equal(distance[good], clean.squared_distance[good])


@pytest.mark.parametrize(
    ("x", "codebook", "match"),
    [
        (normal(3), normal(2, 3), r"x must be of shape \(N, D\), got \(3,\)"),
        (normal(2, 3), normal(2, 3, 3), r"codebook must be of shape \(K, D\), got \(2, 3, 3\)"),
        (normal(2, 4), normal(2, 3), "x must be of width 3, as codebook is, got 4"),
        (normal(2, 3), normal(0, 3), r"codebook must be of at least one entry in each dimension \(K = 0\)"),
        (normal(2, 0), normal(2, 0), r"codebook must be of at least one entry in each dimension \(D = 0\)"),
        (normal(2, 3), normal(2, 3).to("meta"), "codebook must be on cpu, as x is, got meta"),
        (torch.tensor([[0.0], [torch.nan]]), normal(2, 1), "x must be finite, got nan at row 1"),
        (torch.tensor([[0.0], [1.0], [-torch.inf]]), normal(2, 1), "x must be finite, got -inf at row 2"),
        (torch.tensor([[torch.inf, -torch.inf]]), normal(2, 2), "x must be finite, got inf at row 0"),
        (normal(2, 1), torch.tensor([[torch.nan], [1.0]]), "codebook must be finite, got nan at row 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(x, codebook, match):
    with raises("^nearest_codeword: " + match):
        uk.nearest_codeword(x, codebook)


@pytest.mark.parametrize(
    ("x", "codebook", "match"),
    [
        ([[1.0]], normal(2, 1), "x must be a torch.Tensor, got list"),
        (normal(2, 1), None, "codebook must be a torch.Tensor, got NoneType"),
        (integers(3, 2, 2), normal(2, 2), "x must be float32, float16, bfloat16 or float64, got torch.int64"),
        (normal(2, 2), normal(2, 2).bool(), "codebook must be float32, .* got torch.bool"),
        (normal(2, 2).double(), normal(2, 2), "codebook must be float64, as x is, got torch.float32"),
        (normal(2, 2).half(), normal(2, 2).double(), "x must be float64, as codebook is, got torch.float16"),
    ],
)
def test_types_that_do_not_fit_are_refused(x, codebook, match):
    with raises("^nearest_codeword: " + match, TypeError):
        uk.nearest_codeword(x, codebook)


def test_options_that_do_not_exist_are_refused():
    with raises("^nearest_codeword: precision must be one of 'exact', 'fast', got 'half'"):
        uk.nearest_codeword(normal(2, 2), normal(2, 2), precision="half")
    with raises("^nearest_codeword: backend must be one of reference, cpu, triton, cuda, got 'gpu'"):
        uk.nearest_codeword(normal(2, 2), normal(2, 2), backend="gpu")


def test_a_sum_that_overflows_is_no_bad_row():
    x = torch.full((3, 4), 3e38)
    assert uk.nearest_codeword(x, torch.tensor([[0.0] * 4, [3e38] * 4])).codes.tolist() == [1, 1, 1]
    half = torch.full((40, 4), 6e4, dtype=torch.float16)
    assert uk.nearest_codeword(half, half[:1]).codes.tolist() == [0] * 40


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), normal(5, 4)),
        (normal(0, 4), normal(5, 4)),
        (normal(4, 9).T, normal(4, 5).T.half(), "fast", False, True, None, "reference"),
        (normal(9, 4).bfloat16(), normal(5, 4), "exact", True),
        (normal(3, 4).double(), normal(5, 4).double()),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(OP, arguments)


def test_compiles_without_a_graph_break():
    def function(x, codebook):
        codes, distance, stats = uk.nearest_codeword(x * 2, codebook, stats=True)
        return codes + 1, distance, stats.rescored_rows

    x, codebook = normal(30, 4), normal(7, 4)
    for found, expected in zip(
        torch.compile(function, fullgraph=True, backend="aot_eager")(x, codebook), function(x, codebook), strict=True
    ):
        assert torch.equal(found, expected)
