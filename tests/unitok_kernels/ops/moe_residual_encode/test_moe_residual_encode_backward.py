"""The gradients of moe_residual_encode, and what bad rows, experts and weights are to them."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.mixtures import mixture
from tests.unitok_kernels.helpers.oracle import normal


def test_torch_s_gradcheck_passes_in_weights_and_codebooks():
    z, codebooks, ids, weights, shared = mixture(rows=9, levels=2, codewords=4, width=3, dtype=torch.float64)

    def combined(weights, codebooks, shared):
        return uk.moe_residual_encode(z, codebooks, ids, weights, shared, 0.7).combined

    inputs = [x.requires_grad_() for x in (weights, codebooks, shared)]
    assert torch.autograd.gradcheck(combined, inputs)
    alone = lambda w, c: uk.moe_residual_encode(z, c, ids, w).combined  # noqa: E731
    assert torch.autograd.gradcheck(alone, inputs[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared_weight", [None, 0.7])
def test_gradients_equal_the_formula_with_straight_through_chains(run, few, dtype, shared_weight):
    levels = few(3, 2)
    z, codebooks, ids, weights, shared = mixture(levels=levels, dtype=dtype)
    upstream = normal(*z.shape, seed=9).to(dtype)
    leaves = [x.requires_grad_() for x in (z, codebooks, weights, shared)]
    rest = () if shared_weight is None else (shared, shared_weight)
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, *rest)
    found.combined.backward(upstream)

    truth = [x.detach().double().requires_grad_() for x in leaves]
    z64, codebooks64, weights64, shared64 = truth
    total = 0
    for slot in range(2):
        chain = sum(codebooks64[ids[:, slot], level, found.codes[:, slot, level]] for level in range(levels))
        total = total + weights64[:, slot, None] * (chain + z64 - z64.detach())
    if shared_weight is not None:
        chain = sum(shared64[level, found.shared_codes[:, level]] for level in range(levels + 1))
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
    z, codebooks, ids, weights, shared = mixture(levels=few(3, 2))
    upstream = normal(*z.shape, seed=9)
    z.requires_grad_()
    run(uk.moe_residual_encode, z, codebooks, ids, weights, shared, 0.25).combined.backward(upstream)
    torch.testing.assert_close(z.grad, (weights.sum(1, keepdim=True) + 0.25) * upstream)


def test_gradients_are_bitwise_repeatable(run, few, one_and_two_threads):
    z, codebooks, ids, weights, shared = mixture(rows=few(5000, 60), levels=few(3, 1))

    def gradients():
        leaves = [x.clone().requires_grad_() for x in (z, codebooks, weights, shared)]
        found = run(uk.moe_residual_encode, leaves[0], leaves[1], ids, leaves[2], leaves[3])
        found.combined.square().sum().backward()
        return [leaf.grad for leaf in leaves]

    one, two = one_and_two_threads(gradients)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_only_the_combined_rows_carry_a_gradient(run):
    z, codebooks, ids, weights, shared = (x.requires_grad_() if x.is_floating_point() else x for x in mixture())
    found = run(uk.moe_residual_encode, z, codebooks, ids, weights, shared)
    assert found.combined.requires_grad
    assert not found.level_error.requires_grad
    assert not found.shared_level_error.requires_grad


def test_unchecked_bad_rows_and_experts_have_no_code_no_part_and_no_gradient(run, few):
    levels = few(3, 2)
    z, codebooks, ids, weights, shared = mixture(rows=30, levels=levels)
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
    expected = torch.zeros(4, levels, 11)
    for row, slot in (~no_code).nonzero().tolist():
        for level in range(levels):
            expected[ids[row, slot], level, codes[row, slot, level]] += weights[row, slot].detach()
    torch.testing.assert_close(leaves[1].grad, expected[..., None].expand_as(codebooks))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_unchecked_bad_weights_are_bad_slots(run, interpreted, few, bad):
    if interpreted and bad == bad:  # not NaN
        pytest.skip("one bad weight is enough for Triton's interpreter")
    z, codebooks, ids, weights, shared = mixture(rows=30, levels=few(3, 1))
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


def grads(values):
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in values)


@pytest.mark.parametrize(
    "arguments",
    [
        grads(mixture(rows=5, slots=1)[:4]),
        (*grads(mixture(rows=5)), 0.5, "fast", False, True, None, None, "reference"),
        (*mixture(rows=0), 0.5),
        (*mixture(rows=5, dtype=torch.bfloat16)[:4], None),
        grads(mixture(rows=5, dtype=torch.float64)),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.moe_residual_encode.default, arguments)


def test_compiles_with_its_gradients():
    _, _, ids, _, _ = mixture()

    def function(z, codebooks, weights, shared):
        found = uk.moe_residual_encode(z * 2, codebooks, ids, weights.softmax(1), shared, 0.5)
        return found.combined.sin().sum() + found.level_error.sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (compiled, function):
        z, codebooks, _, weights, shared = grads(mixture())
        call(z, codebooks, weights, shared).backward()
        results.append([x.grad for x in (z, codebooks, weights, shared)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
