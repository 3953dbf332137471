"""The search of a tile of rows on a GPU: does its bound hold on every matrix unit, and is what it passes right?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import unitok_kernels as uk
from tests.kernels import matrix_unit, oracle
from tests.kernels.matrix_unit import UNITS, bfloat16_halves, bound, exact_score, score
from tests.kernels.oracle import integers, normal

WIDTHS = (1, 2, 16, 17, 20, 32, 100, 512)

# Both halves of this leave as much out as they can, and with one sign: low is just below 2^-8, what is left is 2^-17.
HALFWAY = 1 + (2**15 - 2**8 + 2**6) * 2.0**-23


def share_of_bound(x: Tensor, c: Tensor, centre: Tensor, unit: str = "worst", order: Tensor | None = None) -> float:
    """How much of the bound the worst of the scores takes; a few thousand rows at a time."""
    worst = 0.0
    for rows, table in zip(x.split(8192), c.split(8192), strict=True):
        error = (score(rows, table, centre, unit, order).double() - exact_score(rows, table, centre)).abs()
        worst = max(worst, float((error / bound(rows, table, centre)).max()))
    return worst


def test_the_halves_leave_out_no_more_than_is_said_whatever_the_mantissa():
    worst_low = worst_rest = 0.0
    for mantissa in torch.arange(2**23).split(2**20):
        x = 1 + mantissa * 2.0**-23
        high, low = bfloat16_halves(x)
        worst_low = max(worst_low, float((low.double() / x).abs().max()))
        worst_rest = max(worst_rest, float(((x.double() - high - low) / x).abs().max()))
    assert 0.99 * 2**-8 < worst_low <= 2**-8
    assert 0.99 * 2**-17 < worst_rest <= 2**-17


@pytest.mark.parametrize("unit", UNITS)
def test_no_score_is_further_off_than_the_bound(unit):
    rows = 10**6 if unit == "worst" else 50_000
    centre = normal(32, seed=1) * 0.3
    worst = max(
        share_of_bound(normal(many, 32, seed=many + i), normal(64, 32, seed=2)[torch.arange(many) % 64], centre, unit)
        for i, many in enumerate([rows // 8] * 8)
    )
    assert 0.05 < worst <= 1


def test_the_order_of_the_sums_does_not_matter():
    x, c, centre = normal(20_000, 48), normal(20_000, 48, seed=1), normal(48, seed=2)
    for seed in range(8):
        order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
        assert share_of_bound(x, c, centre, order=order) <= 1


def _halfway(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values about the points where bfloat16 rounds the other way, all products of one sign."""
    x, c = (HALFWAY + integers(3, rows, width, seed=seed + i, low=-2) * 2.0**-23 for i in range(2))
    return x, c, torch.zeros(width)


def _cut_off(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One large product, and others that are just too small to be added to it."""
    x, c, centre = _halfway(rows, width, seed)
    x[:, 1:], c[:, 1:] = (2 - 2**-7) * 2.0**-12, 2.0**-12
    return x, c * integers(2, rows, 1, seed=seed).mul(2).sub(1), centre


def _cancelling(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of columns whose products cancel but for a little, and are of all sizes."""
    x, c = normal(rows, width, seed=seed) * 2.0 ** integers(20, rows, width, seed=seed, low=-10), normal(rows, width)
    half = width // 2
    x[:, half : 2 * half] = x[:, :half] * (1 + 1e-6 * normal(rows, half, seed=seed + 1))
    c[:, half : 2 * half] = -c[:, :half]
    return x, c, torch.zeros(width)


def _far(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Everything about 1000, the centre too."""
    return normal(rows, width) + 1000, normal(rows, width, seed=1) + 1000, normal(width, seed=seed) + 1000


def _uncentred(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Everything about 1000, but the centre at 0: a codebook in far clusters looks so."""
    return normal(rows, width) + 1000, normal(rows, width, seed=1) + 1000, torch.zeros(width)


def _one_huge(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One codeword in a hundred is 1e6 times as long."""
    scale = torch.where(integers(100, rows, 1, seed=seed) == 0, 1e6, 1.0)
    return normal(rows, width, seed=seed), normal(rows, width, seed=seed + 1) * scale, torch.zeros(width)


def _scaled(scale: float, other: float):
    def make(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        return normal(rows, width, seed=seed) * scale, normal(rows, width, seed=seed + 1) * other, torch.zeros(width)

    return make


KINDS = {
    "halfway": _halfway,
    "cut off": _cut_off,
    "cancelling": _cancelling,
    "far": _far,
    "uncentred": _uncentred,
    "one huge": _one_huge,
    "tiny": _scaled(1e-15, 1e-15),
    "huge": _scaled(1e15, 1e15),
    "tiny rows": _scaled(1e-15, 1e15),
    "tiny codewords": _scaled(1e15, 1e-15),
    "squares that underflow": _scaled(1e-22, 1e-22),
    "denormal": _scaled(1e-40, 1e-40),
    "denormal rows": _scaled(1e-40, 1e10),
    "denormal codewords": _scaled(1e10, 1e-40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_score_made_to_be_off_is_further_off_than_the_bound(kind):
    for seed, width in enumerate(WIDTHS):
        x, c, centre = KINDS[kind](512, width, seed)
        for unit in UNITS:
            assert share_of_bound(x, c, centre, unit) <= 1, (width, unit)
        if (
            kind == "cut off"
        ):  # a bound that could be much smaller would send many rows into the second search for nothing
            assert share_of_bound(x, c, centre) > 0.8, width


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(UNITS)), st.integers(1, 160), st.integers(0, 10**6),
    st.integers(-40, 6), st.integers(-40, 6),  # no squares that overflow: their margin is infinite
)  # fmt: skip
def test_the_bound_holds_for_any_sizes(kind, unit, width, seed, exponent, other):
    x, c, centre = KINDS[kind](16, width, seed)
    assert share_of_bound(x * 2.0**exponent, c * 2.0**other, centre * 2.0**other, unit) <= 1


def test_plain_tf32_is_far_beyond_the_bound():
    x, c, centre = _halfway(64, 32, 0)
    error = (matrix_unit.tf32_score(x + 2**-12, c + 2**-12, centre) - exact_score(x + 2**-12, c + 2**-12, centre)).abs()
    assert float((error / bound(x, c, centre)).max()) > 10


def near_ties(offset: float, rows: int = 512, pairs: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """Rows between the two codewords of a pair, whose squared distances differ by `offset`, relatively."""
    middles, half = normal(pairs, width, seed=1), 0.1 * normal(pairs, width, seed=2)
    codebook = torch.stack([middles + half, middles - half], 1).flatten(0, 1)
    pair = torch.arange(rows) % pairs
    middle, half = middles[pair].double(), half[pair].double()
    aside = 0.3 * normal(rows, width, seed=3).double()
    aside -= (aside * half).sum(1, keepdim=True) / half.square().sum(1, keepdim=True) * half
    step = offset * (aside.square().sum(1) + half.square().sum(1)) / (4 * half.square().sum(1))
    sign = integers(2, rows, seed=4).mul(2).sub(1)
    return (middle + aside + (sign * step)[:, None] * half).float(), codebook


OFFSETS = (1e-3, 1e-4, 2e-5, 1.1e-5, 1e-6, 1e-7, 1e-9)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_no_wrong_code_is_let_through(offset, unit):
    x, codebook = near_ties(offset, rows=128)
    centre = codebook.mean(0)
    scores = score(x[:, None], codebook, centre, unit).double()
    two = scores.topk(2, dim=1, largest=False)
    sure = two.values[:, 1] - two.values[:, 0] > 2 * bound(x[:, None], codebook, centre).max(1).values
    truth = oracle.squared_distances(x, codebook).argmin(1)
    assert torch.equal(two.indices[sure, 0], truth[sure])
    assert offset > 1e-4 or not sure.any()


@pytest.mark.parametrize("unit", UNITS)
def test_scores_alone_break_the_promise_on_every_unit(unit):
    x, codebook = near_ties(2e-5)
    centre = codebook.mean(0)
    codes = score(x[:, None], codebook, centre, unit).argmin(1)
    assert oracle.wrong_share(codes, x, codebook) > 0.1
    plain = matrix_unit.tf32_score(x[:, None], codebook, centre).argmin(1)
    assert oracle.wrong_share(plain, x, codebook) > 0.3


@pytest.fixture
def triton(home, run):
    if home[0] != "triton":
        pytest.skip("the search of Triton alone")
    return run


@pytest.mark.parametrize("offset", OFFSETS)
def test_near_ties_are_told_apart(triton, sampled, offset):
    x, codebook = near_ties(offset)
    x = sampled(x)
    oracle.assert_nearest(triton(uk.nearest_codeword, x, codebook).codes, x, codebook)


def test_without_the_second_search_they_are_not(triton):
    x, codebook = near_ties(2e-5)
    with pytest.raises(AssertionError, match="rows differ"):
        oracle.assert_nearest(triton(uk.nearest_codeword, x, codebook, precision="fast").codes, x, codebook)


@pytest.mark.parametrize("hard", oracle.HARD)
def test_fast_codes_are_off_by_no_more_than_the_bound(triton, hard):
    x, codebook = oracle.HARD[hard]()
    codes = triton(uk.nearest_codeword, x, codebook, precision="fast").codes
    distance = oracle.squared_distances(x, codebook)
    lost = distance.gather(1, codes[:, None]).squeeze(1) - distance.min(1).values
    assert bool((lost <= 4 * bound(x[:, None], codebook, codebook[:64].mean(0)).max(1).values).all())


def test_equal_scores_take_the_lowest_index_in_fast_too(triton, sampled):
    codebook = normal(300, 20, seed=1)  # more than one tile
    x, twice = sampled(normal(100, 20)), torch.cat([codebook, codebook.flip(0)])
    found, plain = (triton(uk.nearest_codeword, x, table, precision="fast").codes for table in (twice, codebook))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("width", [257, 512, 600])  # the last goes to the reference
def test_wide_rows(triton, width):
    x, codebooks = normal(9, width), normal(2, 300, width, seed=1)
    codes, quantized, _ = triton(uk.residual_encode, x, codebooks)
    oracle.assert_chain(codes, x, codebooks)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks))
    assert torch.equal(triton(uk.nearest_codeword, x, codebooks[0]).codes, codes[:, 0])


@pytest.mark.parametrize("width", [3, 512])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e25])
def test_squares_may_leave_the_range_of_float32(triton, scale, width):
    x, codebook = near_ties(1e-4, rows=16, width=width)
    x, codebook = (1 + 1e-4 * x) * scale, (1 + 1e-4 * codebook) * scale
    oracle.assert_nearest(triton(uk.nearest_codeword, x, codebook).codes, x, codebook)
