"""The search of a tile of rows on a GPU: does its bound hold, and is what it passes right?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import unitok_kernels as uk
from tests.unitok_kernels.helpers import integer_score, oracle
from tests.unitok_kernels.helpers.integer_score import STEPS, scores
from tests.unitok_kernels.helpers.oracle import integers, normal

WIDTHS = (1, 2, 17, 32, 100, 128, 512)
TILE, BOOK = 64, 48


def share_of_bound(x: Tensor, codebook: Tensor, centre: Tensor | None = None) -> float:
    """How much of the bound the worst of the scores takes."""
    found = scores(x.view(-1, min(TILE, len(x)), x.shape[1]), codebook, centre)
    return float(((found.found - found.exact).abs() / found.bound).max())


def test_digits_make_up_the_steps_and_fit_in_a_byte():
    steps = torch.arange(-STEPS, STEPS + 1)
    high, low = integer_score.digits(steps.float(), torch.tensor(1.0))
    assert torch.equal(256 * high + low, steps)
    assert (int(high.min()), int(high.max()), int(low.min()), int(low.max())) == (-127, 127, -128, 127)


def test_no_score_is_further_off_than_the_bound():
    worst = max(share_of_bound(normal(2**15, 32, seed=i), normal(BOOK, 32, seed=100 + i)) for i in range(31))
    assert 0.05 < worst <= 1  # of 10^6 rows


def _plain(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    return normal(rows, width, seed=seed), normal(BOOK, width, seed=seed + 1)


def _low(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """All low digits are the largest, and all their products of one sign: no more can be left out."""
    x, c = (256.0 * integers(3, many, width, seed=seed + i, low=-1) - 128 for i, many in enumerate((rows, BOOK)))
    x[:, 0] = c[:, 0] = -STEPS
    return x, c


def _halfway(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """All values are half a step off, and so that the errors have one sign."""
    x, c = (10000.0 * integers(2, many, width, seed=seed + i) + 2000.5 for i, many in enumerate((rows, BOOK)))
    x[:, 0] = c[:, 0] = STEPS
    return x, c


def _largest(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """All values are as far from 0 as any: the sums are the largest."""
    return torch.ones(rows, width), integers(2, BOOK, 1, seed=seed) * 2.0 - torch.ones(1, width)


def _far(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    return normal(rows, width, seed=seed) + 1000, normal(BOOK, width, seed=seed + 1) + 1000


def _clusters(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """At 1000 and at -1000, where no centre helps."""
    x, c = _plain(rows, width, seed)
    return x + 2000 * integers(2, rows, 1, seed=seed) - 1000, c + 2000 * integers(2, BOOK, 1, seed=seed) - 1000


def _outliers(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """One row and one codeword in thirty are 1e4 times as long: all others have few steps."""
    x, c = _plain(rows, width, seed)
    return tuple(y * torch.where(integers(30, len(y), 1, seed=seed) == 0, 1e4, 1.0) for y in (x, c))


def _scaled(scale: float, other: float):
    def make(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
        x, c = _plain(rows, width, seed)
        return x * scale, c * other

    return make


KINDS = {
    "plain": _plain,
    "low": _low,
    "halfway": _halfway,
    "largest": _largest,
    "far": _far,
    "clusters": _clusters,
    "outliers": _outliers,
    "tiny": _scaled(1e-15, 1e-15),
    "huge": _scaled(1e15, 1e15),
    "tiny rows": _scaled(1e-15, 1e15),
    "tiny codewords": _scaled(1e15, 1e-15),
    "squares that underflow": _scaled(1e-25, 1e-25),
}
AT_ZERO = ("low", "halfway", "largest")  # whose values are meant about 0


def centre_of(kind: str, width: int) -> Tensor | None:
    return torch.zeros(width) if kind in AT_ZERO else None


@pytest.mark.parametrize("kind", KINDS)
def test_no_score_made_to_be_off_is_further_off_than_the_bound(kind):
    for seed, width in enumerate(WIDTHS):
        x, codebook = KINDS[kind](4 * TILE, width, seed)
        share = share_of_bound(x, codebook, centre_of(kind, width))
        assert share <= 1, width
        if kind == "low" and width > 16:  # a looser bound would send many rows into the second search for nothing
            assert share > 0.75, width


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(KINDS)), st.integers(1, 160), st.integers(0, 10**6), st.integers(-20, 20),
    st.integers(-20, 20),
)  # fmt: skip
def test_the_bound_holds_for_any_sizes(kind, width, seed, exponent, other):
    x, codebook = KINDS[kind](16, width, seed)
    assert share_of_bound(x * 2.0**exponent, codebook * 2.0**other, centre_of(kind, width)) <= 1


def test_one_digit_alone_is_far_beyond_the_bound():
    x, codebook = _plain(TILE, 32, 0)
    found = scores(x[None], codebook)
    book = integer_score.pack(codebook)
    r = x[None] - book.centre
    high, _ = integer_score.digits(r, -integer_score.step(r, book))
    assert float(((256 * integer_score.product(high, book.high) - found.found).abs() / found.bound).max()) > 10


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


@pytest.mark.parametrize("offset", OFFSETS)
def test_no_wrong_code_is_let_through(offset):
    x, codebook = near_ties(offset)
    found, _, bound, _ = scores(x[None], codebook)
    two = found[0].topk(2, dim=1, largest=False)
    sure = two.values[:, 1] - two.values[:, 0] > 2.02 * bound[0, :, 0]
    truth = oracle.squared_distances(x, codebook).argmin(1)
    assert torch.equal(two.indices[sure, 0], truth[sure])
    assert offset > 1e-4 or not sure.any()


def test_scores_alone_break_the_promise():
    x, codebook = near_ties(2e-5)
    assert oracle.wrong_share(scores(x[None], codebook).found[0].argmin(1), x, codebook) > 0.1


@pytest.fixture
def triton(home, run):
    if home[0] != "triton":
        pytest.skip("the search of Triton alone")
    return run


def test_codebooks_are_packed_as_said(triton, home):
    from unitok_kernels.ops._triton.configs import Config
    from unitok_kernels.ops._triton.packing import LIMITS, pack

    codebooks, limits = normal(2, 100, 20), LIMITS.value
    codebooks[1, 7, 3], codebooks[1, 99, 0] = torch.nan, torch.inf
    packed = pack(codebooks.to(home[1]), Config(64, 64, 4, 1))
    assert packed.digits.shape == (2, 2, 128, 32)
    for codebook, digits, scales in zip(codebooks, packed.digits.cpu().long(), packed.scales.cpu(), strict=True):
        finite = codebook.isfinite().all(1)
        book = integer_score.pack(codebook[finite], scales[limits : limits + 20])
        assert torch.equal(digits[:, :100, :20][:, finite], torch.stack([book.high, book.low]))
        last = 100 - int(finite.flip(0).long().argmax()) - 1  # stands for those that aren't finite, or there
        assert digits[:, 100:].eq(digits[:, last : last + 1]).all()
        assert digits[:, :100][:, ~finite].eq(digits[:, last : last + 1]).all()
        assert digits[:, :, 20:].eq(0).all()
        torch.testing.assert_close(
            scales[:4], torch.stack([book.half, book.absolute, book.low_length, book.per_step]), rtol=2e-7, atol=0
        )
        whole = scales[limits + 32 :].view(torch.int32)[:100][finite]
        assert bool(((whole - book.whole).abs() <= 2.0**-22 * book.whole + 1).all())
        assert bool((scales[limits : limits + 20] - codebook[finite].mean(0)).abs().max() < 1)  # any centre is right


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
    found = scores(torch.cat([x, torch.zeros(1, x.shape[1])])[None], codebook)  # a tile may have rows of zeros
    most = 4.04 * found.bound[0, :-1, 0] * found.unit[0, 0]
    assert bool((lost <= most + 1e-12 * distance.max(1).values).all())


def test_equal_scores_take_the_lowest_index_in_fast_too(triton, sampled):
    codebook = normal(300, 20, seed=1)  # more than one tile
    x, twice = sampled(normal(100, 20)), torch.cat([codebook, codebook.flip(0)])
    found, plain = (triton(uk.nearest_codeword, x, table, precision="fast").codes for table in (twice, codebook))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("width", [257, 512])
def test_wide_rows_keep_the_promise(triton, width):
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
