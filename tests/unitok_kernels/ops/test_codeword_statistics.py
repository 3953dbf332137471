"""codeword_statistics: sums in row order and counts, with the bits of one thread for any number of them."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal, raises


def by_hand(x, codes, num_codewords):
    members = [x[codes == code].double() for code in range(num_codewords)]
    return torch.stack([m.sum(0) for m in members]), torch.tensor([len(m) for m in members])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_and_counts_are_those_of_the_rows(run, dtype):
    x, codes = normal(1000, 7).to(dtype) + 10, integers(13, 1000, low=-1)
    sums, counts = run(uk.codeword_statistics, x, codes, 14)
    expected, numbers = by_hand(x, codes, 14)
    assert sums.dtype == torch.float32
    assert counts.dtype == torch.int64
    torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(counts, numbers)
    assert int(counts[13]) == 0
    assert sums[13].eq(0).all()


def test_small_rows_are_not_lost_beside_large_ones(run):
    # A running float32 sum would stand still at 2^24.
    x = torch.cat([torch.full((1, 1), 2.0**24), torch.ones(5000, 1)])
    sums, _ = run(uk.codeword_statistics, x, torch.zeros(5001, dtype=torch.int64), 1)
    assert abs(float(sums) - (2**24 + 5000)) <= 2


def test_it_is_bitwise_repeatable(run, one_and_two_threads, interpreted):
    rows = 12_000 if interpreted else 60_000
    x, codes = normal(rows, 16) * 1e3, integers(5, rows)
    one, two = one_and_two_threads(lambda: run(uk.codeword_statistics, x, codes, 5))
    again = run(uk.codeword_statistics, x, codes, 5)
    for first, second, third in zip(one, two, again, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(second, third)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 32, 45])
def test_rows_are_added_in_row_order_in_float64(run, dtype, width):
    x, codes = (normal(3000, width) * 1e4).exp2().clamp(max=6e4).to(dtype), integers(11, 3000, low=-1)
    expected = torch.zeros(11, width, dtype=torch.float64)
    for row, code in zip(x.double(), codes.tolist(), strict=True):
        if code >= 0:
            expected[code] += row
    sums, _ = run(uk.codeword_statistics, x, codes, 11)
    assert torch.equal(sums, expected.float())


@pytest.mark.parametrize("codewords", [1, 5, 3000])
def test_bits_are_those_of_one_thread(run, codewords, interpreted):
    rows, codewords = (10_000, min(codewords, 40)) if interpreted else (40_000, codewords)
    x, codes = normal(rows, 19) * 1e3, integers(codewords, rows, low=-1) // 2
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(uk.codeword_statistics, x, codes, codewords))
    finally:
        torch.set_num_threads(before)
    for sums, counts in results[1:]:
        assert torch.equal(sums, results[0][0])
        assert torch.equal(counts, results[0][1])


@pytest.mark.parametrize(("rows", "width", "codewords"), [(0, 3, 2), (1, 1, 1), (101, 13, 7), (5, 2, 300)])
def test_awkward_shapes_work(run, rows, width, codewords):
    x, codes = normal(rows, width), integers(codewords, rows)
    sums, counts = run(uk.codeword_statistics, x, codes, codewords)
    expected, numbers = by_hand(x, codes, codewords)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(counts, numbers)


def test_any_layout_and_any_integer_give_the_same_bits(run, interpreted):
    codewords = 16 if interpreted else 256  # a byte holds the codes of 256, but not their number
    x, codes = normal(6, 200).T, integers(codewords, 400)[::2]
    expected = run(uk.codeword_statistics, x.contiguous(), codes.contiguous(), codewords)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        found = run(uk.codeword_statistics, x, codes.to(dtype), codewords)
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    same = run(uk.codeword_statistics, x[:1].expand(8, 6), codes[:1].expand(8), codewords)
    assert int(same[1][codes[0]]) == 8


def test_unchecked_codes_out_of_range_are_skipped(run):
    x, codes = normal(6, 3), torch.tensor([0, 4, -2, 2**62, -(2**62), 3])
    sums, counts = run(uk.codeword_statistics, x, codes, 4, check_finite=False)
    assert counts.tolist() == [1, 0, 0, 1]
    assert torch.equal(sums[[0, 3]], x[[0, 5]])


@pytest.mark.parametrize(
    ("x", "codes", "num_codewords", "match", "error"),
    [
        (normal(3), integers(2, 3), 2, r"x must be of shape \(N, D\), got \(3,\)", ValueError),
        (normal(3, 1), integers(2, 3, 1), 2, r"codes must be of shape \(N,\), got \(3, 1\)", ValueError),
        (normal(3, 1), integers(2, 4), 2, "codes must be of length 3, as x is, got 4", ValueError),
        (normal(3, 1), integers(2, 3), 0, "num_codewords must be at least 1, got 0", ValueError),
        (normal(3, 1), integers(2, 3).to("meta"), 2, "codes must be on cpu, as x is, got meta", ValueError),
        (normal(3, 1), torch.tensor([0, 1, 2]), 2, "codes must be between -1 and 1, got 2 at row 2", ValueError),
        (normal(3, 1), torch.tensor([0, -2, 1]), 2, "codes must be between -1 and 1, got -2 at row 1", ValueError),
        (normal(3, 1), [0, 1, 1], 2, "codes must be a torch.Tensor, got list", TypeError),
        (normal(3, 1), normal(3), 2, "codes must be an integer tensor, got torch.float32", TypeError),
        (integers(2, 3, 1), integers(2, 3), 2, "x must be float32, .*, got torch.int64", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(x, codes, num_codewords, match, error):
    with raises("^codeword_statistics: " + match, error):
        uk.codeword_statistics(x, codes, num_codewords)


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), integers(3, 9), 3),
        (normal(0, 4), integers(3, 0), 3),
        (normal(4, 9).T.half(), integers(3, 9, low=-1).int(), 5, False, "reference"),
        (normal(9, 4).double(), integers(3, 9), 3),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.codeword_statistics.default, arguments)


def test_compiles_without_a_graph_break():
    x, codes = normal(30, 4), integers(5, 30)
    compiled = torch.compile(lambda x: uk.codeword_statistics(x + 1, codes, 5), fullgraph=True, backend="aot_eager")
    for one, two in zip(compiled(x), uk.codeword_statistics(x + 1, codes, 5), strict=True):
        assert torch.equal(one, two)


def test_nan_is_named_by_its_row_and_stays_in_its_sum_unchecked(run) -> None:
    x = torch.randn(6, 3)
    x[4, 1] = torch.nan
    codes = torch.tensor([0, 1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"codeword_statistics: x must be finite, got nan at row 4\."):
        run(uk.codeword_statistics, x, codes, 2, check_finite=True)
    sums, counts = run(uk.codeword_statistics, x, codes, 2, check_finite=False)
    assert counts.tolist() == [3, 3]
    assert sums[0].isfinite().all()
    assert sums[1].isnan().tolist() == [False, True, False]
