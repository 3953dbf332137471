"""pack_codebooks: packed codebooks give the bits of plain ones, and what isn't one's own packing is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck
from torch.utils import _pytree as pytree

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal, raises
from unitok_kernels import PackedCodebooks

SIZES = [(1, 1), (70, 20), (64, 32), (33, 100)]


def tables(codewords=10, width=8, seed=1):
    """Codebooks of three experts, in half precision, and shared ones."""
    return normal(3, 2, codewords, width, seed=seed).half(), normal(2, codewords, width, seed=seed + 1)


def first(codebooks):
    """The first of them, packed or not."""
    return PackedCodebooks(*(part[0] for part in codebooks)) if isinstance(codebooks, tuple) else codebooks[0]


def searches(run, rows, experts, shared):
    """What each search finds."""
    ids, weights = integers(3, len(rows), 2), normal(len(rows), 2)
    return pytree.tree_leaves(
        [
            run(uk.nearest_codeword, rows, first(shared), stats=True),
            run(uk.residual_encode, rows, shared, stats=True),
            run(uk.moe_residual_encode, rows, experts, ids, weights, shared, 0.5, stats=True),
        ]
    )


def same(found, expected):
    return all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize(("codewords", "width"), SIZES)
def test_packed_codebooks_give_the_same_bits(run, backend, codewords, width):
    if backend == "triton" and (codewords, width) != SIZES[1]:
        pytest.skip("it packs nothing ahead, whatever the size")
    rows, plain = normal(40, width), tables(codewords, width)
    packed = [run(uk.pack_codebooks, codebooks) for codebooks in plain]
    expected = searches(run, rows, *plain)
    assert same(searches(run, rows, *packed), expected)
    assert same(searches(run, rows, packed[0], plain[1]), expected)
    assert same(searches(run, rows, plain[0], packed[1]), expected)


def test_who_packs_reads_the_packing_and_who_does_not_the_codebooks(run, backend):
    rows, old, new = normal(40, 8), tables(), tables(seed=5)
    stale = [PackedCodebooks(c, run(uk.pack_codebooks, before).packed) for c, before in zip(new, old, strict=True)]
    read = old if backend == "cuda" else new
    assert same(searches(run, rows, *stale), searches(run, rows, *read))
    assert all((packed.packed.shape[-1] > 0) == (backend == "cuda") for packed in stale)


def test_a_packing_of_another_backend_is_left_alone(run):
    rows, plain = normal(40, 8), tables()
    packed = [uk.pack_codebooks(codebooks, backend="reference") for codebooks in plain]
    assert same(searches(run, rows, *packed), searches(run, rows, *plain))


def test_codebooks_too_wide_for_the_kernels_are_not_packed(run):
    codebooks = normal(2, 5, 300)
    packed = run(uk.pack_codebooks, codebooks)
    assert packed.packed.shape == (2, 0)
    assert torch.equal(
        run(uk.residual_encode, normal(6, 300), packed).codes, run(uk.residual_encode, normal(6, 300), codebooks).codes
    )


def test_gradients_go_to_the_codebooks_inside(run):
    ids, weights = integers(3, 20, 2), normal(20, 2)
    gradients = []
    for pack in (lambda c: run(uk.pack_codebooks, c), lambda c: c):
        plain = [codebooks.float().requires_grad_() for codebooks in tables()]
        experts, shared = map(pack, plain)
        run(uk.moe_residual_encode, normal(20, 8), experts, ids, weights, shared, 0.5).combined.sin().sum().backward()
        gradients.append([codebooks.grad for codebooks in plain])
    assert same(*gradients)


def test_what_does_not_belong_together_is_refused(run, backend):
    rows, (experts, shared) = normal(4, 8), tables()
    packed = run(uk.pack_codebooks, shared)
    with raises("residual_encode: packed codebooks must be int64 of shape", ValueError):
        run(uk.residual_encode, rows, PackedCodebooks(shared[:1], packed.packed))
    with raises("nearest_codeword: packed codebook must be int64 of shape", ValueError):
        run(uk.nearest_codeword, rows, PackedCodebooks(shared[0], packed.packed[0].int()))
    with raises("moe_residual_encode: packed shared_codebooks must be int64 of shape", ValueError):
        run(uk.moe_residual_encode, rows, experts, integers(3, 4, 1), normal(4, 1), PackedCodebooks(shared, rows))
    with raises("residual_encode: packed_codebooks must be on", ValueError):
        uk.residual_encode(rows, PackedCodebooks(shared, packed.packed.to("meta")), backend="reference")
    if backend == "cuda":
        with raises(r"residual_encode: packed must be as packed from codebooks \(2, 80, 8\)", ValueError):
            run(uk.residual_encode, rows, PackedCodebooks(normal(2, 80, 8), packed.packed))


def test_what_cannot_be_packed_is_refused():
    with raises(r"pack_codebooks: codebooks must be of shape \(E, L, K, D\)"):
        uk.pack_codebooks(normal(8))
    with raises(r"pack_codebooks: codebooks must be of at least one entry in each dimension \(K = 0\)"):
        uk.pack_codebooks(normal(2, 0, 8))
    with raises("pack_codebooks: codebooks must be float32", TypeError):
        uk.pack_codebooks(integers(4, 3, 8))
    with raises("pack_codebooks: codebooks must be a torch.Tensor", TypeError):
        uk.pack_codebooks([[1.0]])


def test_torch_s_opcheck_passes(home, few):
    backend, device = home
    experts, shared = (codebooks[: few(3, 1)].to(device) for codebooks in tables())
    slots = few(2, 1)
    rows, ids = normal(6, 8).to(device), integers(len(experts), 6, slots).to(device)
    weights = normal(6, slots).to(device)
    packed = [uk.pack_codebooks(codebooks, backend=backend).packed for codebooks in (experts, shared)]
    operations, settings = torch.ops.unitok_kernels, ("exact", False, True)
    opcheck(operations.pack_codebooks.default, (shared, backend))
    opcheck(operations.nearest_codeword.default, (rows, shared[0], *settings, packed[1][0], backend))
    opcheck(operations.residual_encode.default, (rows, shared, *settings, packed[1], backend))
    mixture = rows.requires_grad_(), experts.requires_grad_(), ids, weights.requires_grad_(), shared.requires_grad_()
    opcheck(operations.moe_residual_encode.default, (*mixture, 0.5, *settings, *packed, backend))


def test_a_compiled_function_packs_and_takes_what_was_packed(home):
    backend, device = home
    rows, codebooks = normal(30, 8).to(device), tables()[1].to(device)

    def function(rows, codebooks, packed):
        within = uk.residual_encode(rows, uk.pack_codebooks(codebooks * 2, backend=backend), backend=backend)
        return within.codes, uk.residual_encode(rows, packed, backend=backend).codes

    packed = uk.pack_codebooks(codebooks, backend=backend)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert same(compiled(rows, codebooks, packed), function(rows, codebooks, packed))
