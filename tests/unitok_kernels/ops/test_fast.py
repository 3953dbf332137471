"""precision="fast": the codes of the exact search, by fewer or cheaper products."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import integers, normal

WIDTHS = (7, 48, 64, 100, 128)


@pytest.fixture(autouse=True)
def proven(home):
    """Where fast codes come with a proof; Triton's come without, and test_tiles.py tells how far they may be off."""
    if home[0] == "triton":
        pytest.skip("fast on Triton leaves the proof out")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("codewords", [1, 15, 200, 1000])
def test_codes_distances_and_sums_are_those_of_the_exact_search(run, codewords, width):
    x, codebooks = normal(150, width), normal(3, codewords, width, seed=1) * 0.5 ** torch.arange(3.0)[:, None, None]
    exact, fast = (run(uk.residual_encode, x, codebooks, precision=precision) for precision in ("exact", "fast"))
    assert all(torch.equal(one, other) for one, other in zip(exact, fast, strict=True))
    exact, fast = (run(uk.nearest_codeword, x, codebooks[0], precision=precision) for precision in ("exact", "fast"))
    assert all(torch.equal(one, other) for one, other in zip(exact, fast, strict=True))


@pytest.mark.parametrize("offset", [0, 10, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-12, 1.0, 1e15, 1e25])
def test_offsets_and_scales_keep_the_promise(run, offset, scale):
    x, codebook = oracle.at_offset(offset, scale, width=64)
    codes = run(uk.nearest_codeword, x, codebook, precision="fast").codes
    oracle.assert_nearest(codes, x, codebook)
    assert torch.equal(codes, run(uk.nearest_codeword, x, codebook).codes)


def test_far_clusters_outliers_and_rows_that_are_codewords_keep_the_promise(run):
    (x, codebook), spike = oracle.two_clusters(), torch.zeros(300, 80)
    oracle.assert_nearest(
        run(uk.nearest_codeword, x.repeat(1, 3), codebook.repeat(1, 3), precision="fast").codes, x, codebook
    )
    spike[:, 17] = 1e6  # one value takes the whole int8 range
    x, codebook = normal(300, 80) + spike, torch.cat([normal(50, 80, seed=1), normal(40, 80, seed=2) + spike[:40]])
    oracle.assert_nearest(run(uk.nearest_codeword, x, codebook, precision="fast").codes, x, codebook)
    found = run(uk.nearest_codeword, codebook, codebook, precision="fast")
    assert torch.equal(found.codes, torch.arange(90))
    assert found.squared_distance.eq(0).all()


def test_ties_take_the_lowest_index_and_are_counted(run):
    x, codebook = integers(5, 200, 64).float(), integers(3, 30, 64, seed=1, low=-2).float()
    twice = torch.cat([codebook, codebook])
    codes, _, stats = run(uk.nearest_codeword, x, twice, precision="fast", stats=True)
    assert torch.equal(codes, oracle.squared_distances(x, codebook).argmin(1))
    assert int(stats.near_ties) == 200
    assert int(stats.rescored_rows) == 200
    zeros = run(uk.nearest_codeword, torch.zeros(60, 64), torch.zeros(5, 64), precision="fast")
    assert zeros.codes.eq(0).all()


def test_experts_get_the_bits_of_the_exact_search(run):
    z, codebooks, shared = normal(400, 64), normal(3, 2, 90, 64, seed=1), normal(2, 50, 64, seed=2)
    ids, weights = integers(3, 400, 2), normal(400, 2, seed=3)
    exact, fast = (
        run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, precision=precision)
        for precision in ("exact", "fast")
    )
    assert all(torch.equal(one, other) for one, other in zip(exact, fast, strict=True))


def test_bad_rows_get_no_code_and_halves_keep_the_promise(run):
    x, codebook = normal(100, 64), normal(40, 64, seed=1)
    x[3, 5] = torch.nan
    codes = run(uk.nearest_codeword, x, codebook, precision="fast", check_finite=False).codes
    assert codes[3] == -1
    assert torch.equal(codes, run(uk.nearest_codeword, x, codebook, check_finite=False).codes)
    half = x[4:].bfloat16()
    oracle.assert_nearest(run(uk.nearest_codeword, half, codebook, precision="fast").codes, half, codebook)
