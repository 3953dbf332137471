"""moe_residual_encode is every chain alone, and their weighted sum to the bit."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.mixtures import mixture
from tests.unitok_kernels.helpers.oracle import HARD, integers, normal, raises


@pytest.fixture
def alone(run, few):
    """One chain by the same backend, or by the reference where kernels are interpreted."""
    return few(run, lambda operation, *arguments: operation(*arguments, backend="reference"))


def by_hand(alone, z, codebooks, expert_ids, expert_weights, shared_codebooks=None, shared_weight=1.0):
    """Every expert's chain alone by residual_encode, put together by the formula in float32."""
    slots, levels = expert_ids.shape[1], codebooks.shape[1]
    codes = torch.full((len(z), slots, levels), -1)
    combined, squared = torch.zeros(z.shape), torch.zeros(levels, dtype=torch.float64)
    for slot in range(slots):
        quantized = torch.zeros(z.shape)
        for expert in range(len(codebooks)):
            rows = expert_ids[:, slot] == expert
            found = alone(uk.residual_encode, z[rows].float(), codebooks[expert])
            codes[rows, slot], quantized[rows] = found.codes, found.quantized
            squared += found.level_error.double() * int(rows.sum())
        combined = combined + expert_weights[:, slot, None].float() * quantized
    shared_codes, shared_error = None, None
    if shared_codebooks is not None:
        shared_codes, quantized, shared_error = alone(uk.residual_encode, z.float(), shared_codebooks)
        combined = combined + shared_weight * quantized
    level_error = (squared / max(len(z) * slots, 1)).float()
    return uk.MoEResidualCodes(codes, shared_codes, combined.to(z.dtype), level_error, shared_error)


def assert_equal(found, expected):
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.combined, expected.combined)
    assert found.combined.dtype == expected.combined.dtype
    torch.testing.assert_close(found.level_error, expected.level_error, rtol=1e-5, atol=0)
    if expected.shared_codes is None:
        assert found.shared_codes is None
        assert found.shared_level_error is None
    else:
        assert torch.equal(found.shared_codes, expected.shared_codes)
        torch.testing.assert_close(found.shared_level_error, expected.shared_level_error, rtol=1e-5, atol=0)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("shared", [None, 1.0, 0.3])
def test_equals_every_chain_alone_and_the_formula_bitwise(run, interpreted, alone, slots, shared):
    if interpreted and (slots == 2 or (slots == 3 and shared != 0.3)):
        pytest.skip("the shapes beside it are enough for Triton's interpreter")
    z, codebooks, ids, weights, shared_codebooks = mixture(slots=slots)
    assert not bool((ids == 2).any())  # an expert without rows
    rest = () if shared is None else (shared_codebooks, shared)
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, *rest)
    assert found.codes.shape == (120, slots, 3)
    assert_equal(found, by_hand(alone, z, codebooks, ids, weights, *rest))


@pytest.mark.parametrize("hard", ["offset0", "offset1000", "scale1e-15", "scale1e+15", "clusters"])
def test_every_level_of_every_chain_is_the_float64_argmin(run, few, sampled, hard):
    z, codebook = HARD[hard]()
    z, codebook = sampled(z[::3], 12), codebook[:: few(1, 3)]
    spread = codebook[: len(codebook) // 2].std(0).mean()
    levels = torch.stack([codebook, normal(*codebook.shape, seed=8) * spread])
    codebooks = torch.stack([levels, levels.flip(1) + 0.1 * spread, levels * 1.01])
    ids = torch.stack([integers(3, len(z)), integers(3, len(z), seed=1)], 1)
    found = run(uk.moe_residual_encode, z, codebooks, ids, torch.ones(len(z), 2), levels)
    for slot in range(2):
        for expert in range(3):
            rows = ids[:, slot] == expert
            oracle.assert_chain(found.codes[rows, slot], z[rows], codebooks[expert])
    oracle.assert_chain(found.shared_codes, z, levels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_combined_in_float32_and_rounded_once(run, few, alone, dtype):
    z, codebooks, ids, weights, shared = mixture(levels=few(3, 1), dtype=dtype)
    assert_equal(
        run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, 0.7),
        by_hand(alone, z, codebooks, ids, weights, shared, 0.7),
    )
    mixed = (z, codebooks.float() * 1.001, ids, weights.float() * 1.001, shared)
    assert_equal(run(uk.moe_residual_encode, *mixed), by_hand(alone, *mixed))


@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 0},
        {"rows": 1, "slots": 1, "levels": 1},
        {"rows": 7, "width": 1, "codewords": 1},
        {"rows": 13, "experts": 5, "levels": 32, "codewords": 3},
        {"rows": 101, "width": 17, "codewords": 31, "slots": 5},
    ],
)
def test_awkward_shapes_equal_every_chain_alone(run, alone, few, shape):
    levels = shape.get("levels", 3)
    z, codebooks, ids, weights, shared = mixture(**{**shape, "levels": few(levels, min(levels, 2))})
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    assert_equal(found, by_hand(alone, z, codebooks, ids, weights, shared))
    if shape["rows"] == 0:
        assert found.level_error.tolist() == [0] * codebooks.shape[1]
        assert found.shared_level_error.tolist() == [0] * len(shared)


def test_any_layout_and_any_integer_give_the_same_bits(run, few):
    z, codebooks, ids, weights, shared = mixture(experts=few(4, 3), levels=few(3, 2))
    plain = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    strided = (
        z.T.contiguous().T,
        codebooks.mT.contiguous().mT,
        ids.T.contiguous().T.to(torch.uint8),
        weights.repeat(1, 2)[:, :2],
        shared.mT.contiguous().mT,
    )
    assert_equal(run(uk.moe_residual_encode, *strided), plain)


def test_a_row_does_not_depend_on_its_batch(run, few, one_and_two_threads):
    sizes = few({"rows": 90}, {"rows": 20, "experts": 3, "levels": 2, "slots": 1})
    z, codebooks, ids, weights, shared = mixture(codewords=17, **sizes)
    z = z + 1000
    codebooks[:, 0] += 1000
    whole, two = one_and_two_threads(lambda: run(uk.moe_residual_encode, z, codebooks, ids, weights, shared))
    assert torch.equal(whole.codes, two.codes)
    assert torch.equal(whole.combined, two.combined)
    shuffled = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
    for rows in [shuffled, *torch.arange(len(z)).split(few(8, 13)), *torch.arange(few(20, 1)).split(1)]:
        found = run(uk.moe_residual_encode, z[rows], codebooks, ids[rows], weights[rows], shared)
        assert torch.equal(found.codes, whole.codes[rows])
        assert torch.equal(found.shared_codes, whole.shared_codes[rows])
        assert torch.equal(found.combined, whole.combined[rows])


def test_stats_count_over_chains(run, few):
    rows, levels = few((120, 3), (6, 1))
    z, codebooks, ids, weights, shared = mixture(rows=rows, levels=levels)
    twice = torch.cat([codebooks, codebooks], 2)
    *result, stats = run(uk.moe_residual_encode, z, twice, ids, weights, torch.cat([shared, shared], 1), stats=True)
    assert len(result) == 5
    assert int(stats.near_ties) == rows * (2 * levels + levels + 1)
    assert int(stats.rescored_rows) >= rows * (2 * levels + levels + 1)
    *_, none = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, stats=True)
    assert int(none.near_ties) == 0


Z, BOOKS, IDS, WEIGHTS, SHARED = mixture(rows=5, experts=4, levels=2, codewords=3, width=3, slots=2)


def changed(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("change", "match", "error"),
    [
        ({"z": Z[0]}, r"z must be of shape \(N, D\), got \(3,\)", ValueError),
        ({"codebooks": BOOKS[0]}, r"codebooks must be of shape \(E, L, K, D\), got \(2, 3, 3\)", ValueError),
        ({"expert_ids": IDS[:, 0]}, r"expert_ids must be of shape \(N, S\), got \(5,\)", ValueError),
        ({"expert_weights": WEIGHTS[:, 0]}, r"expert_weights must be of shape \(N, S\), got \(5,\)", ValueError),
        ({"shared_codebooks": SHARED[0]}, r"shared_codebooks must be of shape \(L, K, D\), got \(5, 3\)", ValueError),
        ({"z": Z[:, :2]}, "z must be of width 3, as codebooks is, got 2", ValueError),
        ({"shared_codebooks": SHARED[..., :2]}, "shared_codebooks must be of width 3, as z is, got 2", ValueError),
        ({"codebooks": BOOKS[:0]}, r"codebooks must be .*\(E = 0\)", ValueError),
        ({"codebooks": BOOKS[:, :0]}, r"codebooks must be .*\(L = 0\)", ValueError),
        ({"codebooks": BOOKS[:, :, :0]}, r"codebooks must be .*\(K = 0\)", ValueError),
        ({"shared_codebooks": SHARED[:0]}, r"shared_codebooks must be .*\(L = 0\)", ValueError),
        ({"shared_codebooks": SHARED[:, :0]}, r"shared_codebooks must be .*\(K = 0\)", ValueError),
        ({"expert_ids": IDS[:4]}, "expert_ids must be of length 5, as z is, got 4", ValueError),
        ({"expert_weights": WEIGHTS[:4]}, "expert_weights must be of length 5, as z is, got 4", ValueError),
        ({"expert_weights": WEIGHTS[:, :1]}, "expert_weights must be of slots 2, as expert_ids is, got 1", ValueError),
        (
            {"expert_ids": IDS[:, :0], "expert_weights": WEIGHTS[:, :0]},
            "expert_ids must be at least 1.*, got 0",
            ValueError,
        ),
        ({"expert_ids": IDS.to("meta")}, "expert_ids must be on cpu, as z is, got meta", ValueError),
        (
            {"expert_ids": changed(IDS, (3, 1), 4)},
            r"expert_ids must be between 0 and 3, got 4 at index \(3, 1\)",
            ValueError,
        ),
        (
            {"expert_ids": changed(IDS, (2, 0), -1)},
            r"expert_ids must be between 0 and 3, got -1 at index \(2, 0\)",
            ValueError,
        ),
        ({"z": changed(Z, (4, 1), torch.nan)}, "z must be finite, got nan at row 4", ValueError),
        (
            {"expert_weights": changed(WEIGHTS, (2, 1), torch.inf)},
            "expert_weights must be finite, got inf at row 2",
            ValueError,
        ),
        (
            {"codebooks": changed(BOOKS, (3, 1, 2, 0), torch.nan)},
            r"codebooks must be finite, got nan at index \(3, 1, 2\)",
            ValueError,
        ),
        (
            {"shared_codebooks": changed(SHARED, (1, 2, 0), -torch.inf)},
            r"shared_codebooks must be finite, got -inf at index \(1, 2\)",
            ValueError,
        ),
        ({"precision": "low"}, "precision must be one of 'exact', 'fast', got 'low'", ValueError),
        ({"backend": "mps"}, "backend must be one of .*, got 'mps'", ValueError),
        ({"z": None}, "z must be a torch.Tensor, got NoneType", TypeError),
        ({"shared_codebooks": 1.0}, "shared_codebooks must be a torch.Tensor, got float", TypeError),
        ({"expert_ids": IDS.float()}, "expert_ids must be an integer tensor, got torch.float32", TypeError),
        ({"expert_weights": IDS}, "expert_weights must be float32, .*, got torch.int64", TypeError),
        ({"expert_weights": WEIGHTS.double()}, "z must be float64, as expert_weights is, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(change, match, error):
    given = {"z": Z, "codebooks": BOOKS, "expert_ids": IDS, "expert_weights": WEIGHTS, "shared_codebooks": SHARED}
    uk.moe_residual_encode(**given)
    with raises("^moe_residual_encode: " + match, error):
        uk.moe_residual_encode(**{**given, **change})
