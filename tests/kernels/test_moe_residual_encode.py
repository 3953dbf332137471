from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.kernels import oracle
from tests.kernels.oracle import HARD, integers, normal, raises


@pytest.fixture
def alone(run, few):
    """One chain by the same backend, or by the reference where kernels are interpreted."""
    return few(run, lambda operation, *arguments: operation(*arguments, backend="reference"))


def case(rows=120, experts=4, levels=3, codewords=11, width=6, slots=2, dtype=torch.float32, seed=0):
    """Rows, codebooks, expert ids (expert 2 gets no row), weights, shared codebooks of another L and K."""
    fine = 0.6 ** torch.arange(levels).view(levels, 1, 1)
    ids = integers(experts - 1, rows, slots, seed=seed + 3)
    ids[ids >= 2] += 1
    return (
        normal(rows, width, seed=seed).to(dtype),
        (normal(experts, levels, codewords, width, seed=seed + 1) * fine).to(dtype),
        ids,
        torch.rand(rows, slots, generator=torch.Generator().manual_seed(seed)).to(dtype),
        normal(levels + 1, codewords + 2, width, seed=seed + 2).to(dtype),
    )


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
    if interpreted and slots > 1 and shared != 0.3:
        pytest.skip("the shapes beside it are enough for Triton's interpreter")
    z, codebooks, ids, weights, shared_codebooks = case(slots=slots)
    assert not bool((ids == 2).any())  # an expert without rows
    rest = () if shared is None else (shared_codebooks, shared)
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, *rest)
    assert found.codes.shape == (120, slots, 3)
    assert_equal(found, by_hand(alone, z, codebooks, ids, weights, *rest))


@pytest.mark.parametrize("hard", ["offset0", "offset1000", "scale1e-15", "scale1e+15", "clusters"])
def test_every_level_of_every_chain_is_the_float64_argmin(run, few, hard):
    z, codebook = HARD[hard]()
    z = z[:: few(3, 11)]
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
    z, codebooks, ids, weights, shared = case(levels=few(3, 2), dtype=dtype)
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
def test_awkward_shapes(run, alone, few, shape):
    if "levels" in shape:
        shape = {**shape, "levels": few(shape["levels"], min(shape["levels"], 5))}
    z, codebooks, ids, weights, shared = case(**shape)
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    assert_equal(found, by_hand(alone, z, codebooks, ids, weights, shared))
    if shape["rows"] == 0:
        assert found.level_error.tolist() == [0, 0, 0]
        assert found.shared_level_error.tolist() == [0] * 4


def test_any_layout_and_any_integer(run, few):
    z, codebooks, ids, weights, shared = case(levels=few(3, 2))
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
    z, codebooks, ids, weights, shared = case(rows=90, codewords=17, slots=few(2, 1))
    z, codebooks, shared = z + 1000, codebooks + 1000 * (torch.arange(3).view(3, 1, 1) == 0), shared
    whole = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    shuffled = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    for rows in [shuffled, *torch.arange(90).split(few(8, 60)), *torch.arange(few(20, 1)).split(1)]:
        found = run(uk.moe_residual_encode, z[rows], codebooks, ids[rows], weights[rows], shared)
        assert torch.equal(found.codes, whole.codes[rows])
        assert torch.equal(found.shared_codes, whole.shared_codes[rows])
        assert torch.equal(found.combined, whole.combined[rows])
    one, two = one_and_two_threads(lambda: run(uk.moe_residual_encode, z, codebooks, ids, weights, shared))
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.combined, two.combined)


def test_stats_count_over_chains(run, few):
    rows, levels = few((120, 3), (12, 2))
    z, codebooks, ids, weights, shared = case(rows=rows, levels=levels)
    twice = torch.cat([codebooks, codebooks], 2)
    *result, stats = run(uk.moe_residual_encode, z, twice, ids, weights, torch.cat([shared, shared], 1), stats=True)
    assert len(result) == 5
    assert int(stats.near_ties) == rows * (2 * levels + levels + 1)
    assert int(stats.rescored_rows) >= rows * (2 * levels + levels + 1)
    *_, none = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, stats=True)
    assert int(none.near_ties) == 0


def test_gradcheck_in_weights_and_codebooks():
    z, codebooks, ids, weights, shared = case(rows=9, levels=2, codewords=4, width=3, dtype=torch.float64)

    def combined(weights, codebooks, shared):
        return uk.moe_residual_encode(z, codebooks, ids, weights, shared, 0.7).combined

    inputs = [x.requires_grad_() for x in (weights, codebooks, shared)]
    assert torch.autograd.gradcheck(combined, inputs)
    alone = lambda w, c: uk.moe_residual_encode(z, c, ids, w).combined  # noqa: E731
    assert torch.autograd.gradcheck(alone, inputs[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared_weight", [None, 0.7])
def test_gradients_equal_the_formula_with_straight_through_chains(run, dtype, shared_weight):
    z, codebooks, ids, weights, shared = case(dtype=dtype)
    upstream = normal(*z.shape, seed=9).to(dtype)
    leaves = [x.requires_grad_() for x in (z, codebooks, weights, shared)]
    rest = () if shared_weight is None else (shared, shared_weight)
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, *rest)
    found.combined.backward(upstream)

    truth = [x.detach().double().requires_grad_() for x in leaves]
    z64, codebooks64, weights64, shared64 = truth
    total = 0
    for slot in range(2):
        chain = sum(codebooks64[ids[:, slot], level, found.codes[:, slot, level]] for level in range(3))
        total = total + weights64[:, slot, None] * (chain + z64 - z64.detach())
    if shared_weight is not None:
        chain = sum(shared64[level, found.shared_codes[:, level]] for level in range(4))
        total = total + shared_weight * (chain + z64 - z64.detach())
    total.backward(upstream.double())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-3}
    for leaf, expected in zip(leaves, truth, strict=True):
        if expected.grad is None:
            assert leaf.grad is None
            continue
        assert leaf.grad.dtype == dtype
        torch.testing.assert_close(leaf.grad.double(), expected.grad, **tolerance)
    assert leaves[1].grad[2].eq(0).all()  # the expert without rows


def test_the_gradient_of_rows_is_the_sum_of_weights_times_the_upstream_one(run, few):
    z, codebooks, ids, weights, shared = case(levels=few(3, 2))
    upstream = normal(*z.shape, seed=9)
    z.requires_grad_()
    run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, 0.25).combined.backward(upstream)
    torch.testing.assert_close(z.grad, (weights.sum(1, keepdim=True) + 0.25) * upstream)


def test_gradients_are_bitwise_repeatable(run, few, one_and_two_threads):
    z, codebooks, ids, weights, shared = case(rows=few(5000, 150), levels=few(3, 2))

    def gradients():
        leaves = [x.clone().requires_grad_() for x in (z, codebooks, weights, shared)]
        found = run(uk.moe_residual_encode, leaves[0], leaves[1], ids, leaves[2], leaves[3])
        found.combined.square().sum().backward()
        return [leaf.grad for leaf in leaves]

    one, two = one_and_two_threads(gradients)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_only_the_combined_rows_carry_a_gradient(run):
    z, codebooks, ids, weights, shared = (x.requires_grad_() if x.is_floating_point() else x for x in case())
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    assert found.combined.requires_grad
    assert not found.level_error.requires_grad
    assert not found.shared_level_error.requires_grad


def test_unchecked_bad_rows_and_experts_have_no_code_no_part_and_no_gradient(run):
    z, codebooks, ids, weights, shared = case(rows=30)
    bad_z, bad_ids = z.clone(), ids.clone()
    bad_z[0, 1], bad_z[1] = torch.nan, torch.inf
    bad_ids[2, 0], bad_ids[3, 1], bad_ids[4] = 4, -1, torch.tensor([2**40, -(2**62)])
    leaves = [x.requires_grad_() for x in (bad_z, codebooks, weights, shared)]
    found = run(uk.moe_residual_encode, bad_z, codebooks, bad_ids, weights, shared, 0.5, check_finite=False, stats=True)
    codes, shared_codes, combined, level_error, shared_error, stats = found
    clean = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, 0.5)

    no_code = torch.zeros(30, 2, dtype=torch.bool)
    no_code[:2], no_code[2, 0], no_code[3, 1], no_code[4] = True, True, True, True
    assert torch.equal(codes, torch.where(no_code[..., None], -1, clean.codes))
    assert torch.equal(shared_codes[2:], clean.shared_codes[2:])
    assert shared_codes[:2].eq(-1).all()
    assert combined[:2].eq(0).all()
    only_shared = 0.5 * oracle.level_order_sum(shared_codes[4:5], shared)
    assert torch.equal(combined[4:5], only_shared)
    assert torch.equal(combined[5:], clean.combined[5:])
    kept = [
        (z[~no_code[:, slot]], ids[~no_code[:, slot], slot, None], weights[~no_code[:, slot], slot, None])
        for slot in range(2)
    ]
    rows, experts, parts = (torch.cat(values).detach() for values in zip(*kept, strict=True))
    alone = run(uk.moe_residual_encode, rows, codebooks, experts, parts)
    torch.testing.assert_close(level_error, alone.level_error)
    torch.testing.assert_close(shared_error, run(uk.residual_encode, z[2:], shared).level_error)
    assert int(stats.near_ties) == 0

    combined.sum().backward()
    z_grad, weight_grad = leaves[0].grad, leaves[2].grad
    assert z_grad[:2].eq(0).all()
    torch.testing.assert_close(z_grad[2], (weights[2, 1] + 0.5).detach().expand(6))
    torch.testing.assert_close(z_grad[4], torch.full((6,), 0.5))
    assert weight_grad[no_code].eq(0).all()
    assert weight_grad[~no_code].ne(0).all()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
    expected = torch.zeros(4, 3, 11)
    for row, slot in (~no_code).nonzero().tolist():
        for level in range(3):
            expected[ids[row, slot], level, codes[row, slot, level]] += weights[row, slot].detach()
    torch.testing.assert_close(leaves[1].grad, expected[..., None].expand_as(codebooks))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_unchecked_bad_weights_are_bad_slots(run, interpreted, few, bad):
    if interpreted and bad == bad:  # not NaN
        pytest.skip("one bad weight is enough for Triton's interpreter")
    z, codebooks, ids, weights, shared = case(rows=30, levels=few(3, 2))
    slots = torch.zeros(30, 2, dtype=torch.bool)
    slots[0], slots[1, 0], slots[2] = True, True, True
    bad_z, bad_weights = z.clone(), weights.masked_fill(slots, bad)
    bad_z[0] = torch.nan  # what a router gives for a NaN row is NaN
    results, grads = [], []
    for given in ((bad_z, bad_weights), (z, weights.masked_fill(slots, 0))):
        leaves = [x.clone().requires_grad_() for x in (given[0], codebooks, given[1], shared)]
        rest = (leaves[1], ids, leaves[2], leaves[3], 0.5)
        results.append(run(uk.moe_residual_encode, leaves[0], *rest, check_finite=False))
        results[-1].combined[1:].sum().backward()
        grads.append([leaf.grad for leaf in leaves])

    found, zeroed = results
    assert torch.equal(found.codes, torch.where(slots[..., None], -1, zeroed.codes))
    assert found.combined[0].eq(0).all()
    assert torch.equal(found.combined[1:], zeroed.combined[1:])
    assert torch.equal(grads[0][2], grads[1][2].masked_fill(slots, 0))
    assert all(torch.equal(grads[0][index], grads[1][index]) for index in (0, 1, 3))


Z, BOOKS, IDS, WEIGHTS, SHARED = case(rows=5, experts=4, levels=2, codewords=3, width=3, slots=2)


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
def test_what_does_not_fit(change, match, error):
    given = {"z": Z, "codebooks": BOOKS, "expert_ids": IDS, "expert_weights": WEIGHTS, "shared_codebooks": SHARED}
    uk.moe_residual_encode(**given)
    with raises("^moe_residual_encode: " + match, error):
        uk.moe_residual_encode(**{**given, **change})


def grads(values):
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in values)


@pytest.mark.parametrize(
    "arguments",
    [
        grads(case(rows=5, slots=1)[:4]),
        (*grads(case(rows=5)), 0.5, "fast", False, True, "reference"),
        (*case(rows=0), 0.5),
        (*case(rows=5, dtype=torch.bfloat16)[:4], None),
        grads(case(rows=5, dtype=torch.float64)),
    ],
)
def test_opcheck(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.moe_residual_encode.default, arguments)


def test_compiles_with_its_gradients():
    _, _, ids, _, _ = case()

    def function(z, codebooks, weights, shared):
        found = uk.moe_residual_encode(z * 2, codebooks, ids, weights.softmax(1), shared, 0.5)
        return found.combined.sin().sum() + found.level_error.sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (compiled, function):
        z, codebooks, _, weights, shared = grads(case())
        call(z, codebooks, weights, shared).backward()
        results.append([x.grad for x in (z, codebooks, weights, shared)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
