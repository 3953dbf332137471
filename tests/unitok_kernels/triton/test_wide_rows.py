"""Rows wider than a GPU's registers take: the same promises, whatever way a backend has for them."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.mixtures import mixture
from tests.unitok_kernels.helpers.oracle import integers, normal


@pytest.mark.parametrize(
    ("rows", "levels", "codewords", "width"), [(0, 2, 5, 600), (1, 1, 1, 513), (19, 3, 130, 520), (7, 2, 16, 1024)]
)
def test_chains_are_those_of_the_float64_argmin(run, rows, levels, codewords, width):
    z, codebooks = normal(rows, width), normal(levels, codewords, width, seed=1)
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks)
    residuals = oracle.assert_chain(codes, z, codebooks)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks))
    expected = residuals.double().square().mean((1, 2)).float() if rows else torch.zeros(levels)
    torch.testing.assert_close(level_error, expected, rtol=1e-5, atol=0)


def hard(kind, width=768):
    """Rows and codewords that the expanded form in float32 gets wrong, or float64 can't tell apart."""
    x, codebook = normal(10, width), normal(21, width, seed=1)
    if kind == "clusters":
        return torch.cat([x[:5] + 1000, x[5:] - 1000]), torch.cat([codebook[:11] + 1000, codebook[11:] - 1000])
    if kind == "ties":
        return x.round(), codebook.round()[torch.arange(20, -1, -1) // 2]
    return (x + 1000) * float(kind), (codebook + 1000) * float(kind)


@pytest.mark.parametrize("kind", ["clusters", "ties", "1", "1e-15", "1e12"])
def test_hard_inputs_keep_the_promise(run, kind):
    x, codebook = hard(kind)
    codes, distance = run(uk.nearest_codeword, x, codebook)
    oracle.assert_nearest(codes, x, codebook)
    expected = oracle.squared_distances(x, codebook)
    if kind == "ties":
        assert torch.equal(codes, expected.argmin(1))
    torch.testing.assert_close(distance.double(), expected.gather(1, codes[:, None])[:, 0], rtol=1e-5, atol=0)
    alone = [run(uk.nearest_codeword, row, codebook) for row in x[:2].split(1)]
    assert torch.equal(torch.cat([found.codes for found in alone]), codes[:2])
    assert torch.equal(torch.cat([found.squared_distance for found in alone]), distance[:2])


def test_near_ties_are_counted_by_score_and_by_differencing(run):
    x = normal(6, 640) + 3
    apart = torch.zeros(640)
    apart[7] = 1
    codebook = torch.cat([x + apart, x - (1 + 1e-6 * torch.arange(6.0))[:, None] * apart])  # the first are exact ties
    codes, _, stats = run(uk.nearest_codeword, x, codebook, stats=True)
    oracle.assert_nearest(codes, x, codebook)
    distance = oracle.squared_distances(x, codebook).topk(2, largest=False).values
    near = distance[:, 1] - distance[:, 0] < 1e-5 * distance[:, 0]
    assert int(near.sum()) > 3
    assert int(stats.near_ties) == int(near.sum())
    *_, stats = run(uk.residual_encode, x, codebook[None, :6], stats=True)
    assert int(stats.near_ties) == 0


def test_unchecked_bad_rows_get_no_code(run):
    x, codebooks = normal(9, 600), normal(2, 6, 600, seed=1)
    clean = run(uk.residual_encode, x[3:], codebooks)
    x[0, 599], x[1, 0], x[2] = torch.nan, torch.inf, -torch.inf
    codes, quantized, level_error = run(uk.residual_encode, x, codebooks, check_finite=False)
    assert codes[:3].eq(-1).all()
    assert quantized[:3].eq(0).all()
    assert torch.equal(codes[3:], clean.codes)
    torch.testing.assert_close(level_error, clean.level_error)
    codes, distance = run(uk.nearest_codeword, x, codebooks[0], check_finite=False)
    assert codes[:3].eq(-1).all()
    assert distance[:3].isnan().all()
    assert distance[3:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_rounded_once(run, dtype):
    z, codebooks = normal(8, 520).to(dtype), (normal(2, 9, 520, seed=1) * 0.6).to(dtype)
    for tables in (codebooks, codebooks.float() * 1.001):
        codes, quantized, _ = run(uk.residual_encode, z, tables)
        oracle.assert_chain(codes, z, tables)
        assert torch.equal(quantized, oracle.level_order_sum(codes, tables, dtype))


@pytest.mark.parametrize(("rows", "slots", "shared"), [(0, 1, True), (1, 1, False), (23, 2, True)])
def test_mixtures_are_those_of_the_reference_bitwise(run, rows, slots, shared):
    z, codebooks, ids, weights, shared_codebooks = mixture(rows=rows, slots=slots, width=520, levels=2)
    given = (z, codebooks, ids, weights, *((shared_codebooks, 0.3) if shared else ()))
    found, expected = run(uk.moe_residual_encode, *given), uk.moe_residual_encode(*given, backend="reference")
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        elif other.shape[:1] == (rows,):
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


def test_a_slot_without_a_good_weight_and_a_row_that_is_not_finite_give_nothing(run):
    z, codebooks, ids, weights, shared = mixture(rows=9, width=520, levels=2)
    z[0, 3], weights[1, 0], ids[2, 1] = torch.nan, torch.inf, 77
    given = (z, codebooks, ids, weights, shared)
    found = run(uk.moe_residual_encode, *given, check_finite=False)
    expected = uk.moe_residual_encode(*given, check_finite=False, backend="reference")
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(one, other)


def test_clusters_are_those_of_the_reference(run):
    x = normal(40, 600) + 4 * normal(5, 600, seed=1)[integers(5, 40, seed=2)]
    codebook, codes = run(uk.kmeans, x, 5, iterations=2, seed=0)
    expected, truth = uk.kmeans(x, 5, iterations=2, seed=0, backend="reference")
    assert torch.equal(codes, truth)
    torch.testing.assert_close(codebook, expected, rtol=1e-6, atol=1e-6)
