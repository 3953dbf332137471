"""residual_loss and its gradients are those of the stop-gradient formula."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal, raises


def case(rows=40, experts=3, levels=3, codewords=5, width=4, slots=2, dtype=torch.float32):
    z, codebooks = normal(rows, width).to(dtype), normal(experts, levels, codewords, width, seed=1).to(dtype)
    return z, integers(codewords, rows, slots, levels, seed=2), codebooks, integers(experts, rows, slots, seed=3)


def stop_gradient_formula(z, codes, codebooks, expert_ids, codebook_weight=1.0, commitment_weight=0.25):
    """The loss as it is written down, by plain autograd; a code of -1 is left out."""
    loss = 0
    for row in range(len(z)):
        for slot in range(codes.shape[1]):
            residual = z[row]
            for level in range(codes.shape[2]):
                code = codes[row, slot, level]
                if code < 0:
                    continue
                word = codebooks[expert_ids[row, slot], level, code]
                loss = loss + codebook_weight * (residual.detach() - word).square().sum()
                loss = loss + commitment_weight * (residual - word.detach()).square().sum()
                residual = residual - word.detach()
    return loss / max(len(z), 1)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradients_equal_the_stop_gradient_formula(run, slots, levels, dtype):
    z, codes, codebooks, ids = case(slots=slots, levels=levels, dtype=dtype)
    codes[3, 0, -1] = codes[4, 0, 0] = -1
    z.requires_grad_()
    codebooks.requires_grad_()
    loss = run(uk.moe_residual_loss, z, codes, codebooks, ids, codebook_weight=0.7, commitment_weight=0.3)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    (2 * loss).backward()
    truth = [x.detach().double().requires_grad_() for x in (z, codebooks)]
    expected = stop_gradient_formula(truth[0], codes, truth[1], ids, 0.7, 0.3)
    (2 * expected).backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=0)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-5}
    for leaf, other in zip((z, codebooks), truth, strict=True):
        assert leaf.grad.dtype == dtype
        torch.testing.assert_close(leaf.grad.double(), other.grad, **tolerance)


def test_each_term_has_its_own_gradient(run):
    z, codes, codebooks, ids = (x.requires_grad_() if x.is_floating_point() else x for x in case())
    run(uk.moe_residual_loss, z, codes, codebooks, ids, commitment_weight=0.0).backward()
    assert z.grad.eq(0).all()
    assert codebooks.grad.ne(0).any()
    z.grad = codebooks.grad = None
    run(uk.moe_residual_loss, z, codes, codebooks, ids, codebook_weight=0.0).backward()
    assert z.grad.ne(0).any()
    assert codebooks.grad.eq(0).all()


def test_torch_s_gradcheck_passes_where_there_is_a_true_derivative():
    # With the codes fixed, the commitment term truly depends on z so, and with one level the other on the codebook.
    z, codes, codebooks, ids = case(rows=6, dtype=torch.float64)
    z.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: uk.moe_residual_loss(z, codes, codebooks, ids, codebook_weight=0.0, commitment_weight=0.3), (z,)
    )
    z, codes, codebooks, ids = case(rows=6, levels=1, dtype=torch.float64)
    codebooks.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c: uk.moe_residual_loss(z, codes, c, ids, codebook_weight=0.7, commitment_weight=0.0), (codebooks,)
    )


def test_one_chain_is_one_expert(run):
    z, codes, codebooks, _ = case(slots=1)
    leaves = [x.clone().requires_grad_() for x in (z, codebooks[0])]
    truth = [x.detach().double().requires_grad_() for x in leaves]
    only = torch.zeros(40, 1, dtype=torch.int64)
    loss = uk.residual_loss(leaves[0], codes[:, 0], leaves[1], codebook_weight=0.5, commitment_weight=2.0)
    expected = stop_gradient_formula(truth[0], codes, truth[1][None], only, 0.5, 2.0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=0)
    for leaf, other in zip(leaves, truth, strict=True):
        torch.testing.assert_close(leaf.grad.double(), other.grad, rtol=1e-4, atol=1e-6)


def test_it_is_the_encoder_s_level_error_in_other_units(run):
    z, _, codebooks, _ = case()
    codes, _, level_error = run(uk.residual_encode, z, codebooks[0])
    loss = uk.residual_loss(z, codes, codebooks[0], codebook_weight=1.0, commitment_weight=0.25)
    torch.testing.assert_close(loss, 1.25 * level_error.sum() * z.shape[1])


def test_no_rows_give_no_loss(run):
    z, codes, codebooks, ids = case(rows=0)
    codebooks.requires_grad_()
    loss = run(uk.moe_residual_loss, z, codes, codebooks, ids)
    assert loss.detach().item() == 0
    loss.backward()
    assert codebooks.grad.eq(0).all()


def test_any_layout_and_any_integer_give_the_same_bits(run):
    z, codes, codebooks, ids = case()
    plain = run(uk.moe_residual_loss, z, codes, codebooks, ids)
    leaves = [z.T.contiguous().T.requires_grad_(), codebooks.mT.contiguous().mT.requires_grad_()]
    strided = run(
        uk.moe_residual_loss, leaves[0], codes.mT.contiguous().mT.to(torch.uint8), leaves[1], ids.T.contiguous().T.int()
    )
    assert torch.equal(strided, plain)
    strided.backward()
    clean = [z.clone().requires_grad_(), codebooks.clone().requires_grad_()]
    run(uk.moe_residual_loss, clean[0], codes, clean[1], ids).backward()
    for one, two in zip(leaves, clean, strict=True):
        assert torch.equal(one.grad, two.grad)


def test_gradients_are_right_for_codes_held_in_a_byte(run, interpreted):
    # 256 codewords do not fit into uint8, their codes do.
    z, codes, codebooks, ids = case(codewords=16 if interpreted else 256)
    grads = []
    for kind in (torch.int64, torch.uint8):
        leaf = codebooks.clone().requires_grad_()
        run(uk.moe_residual_loss, z, codes.to(kind), leaf, ids.to(kind)).backward()
        grads.append(leaf.grad)
    assert grads[0].ne(0).any()
    assert torch.equal(*grads)


def test_gradients_are_bitwise_repeatable(run, one_and_two_threads, interpreted):
    z, codes, codebooks, ids = case(rows=2000 if interpreted else 9000)

    def gradients():
        leaves = [z.clone().requires_grad_(), codebooks.clone().requires_grad_()]
        run(uk.moe_residual_loss, leaves[0], codes, leaves[1], ids).backward()
        return [leaf.grad for leaf in leaves]

    one, two = one_and_two_threads(gradients)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_unchecked_bad_codes_experts_and_rows_are_left_out(run):
    z, codes, codebooks, ids = case()
    keep = torch.arange(40) >= 6
    expected = run(uk.moe_residual_loss, z[keep], codes[keep], codebooks, ids[keep]) * 34 / 40
    codes[:2], ids[2:4], z[4:6] = torch.tensor([[5] * 3, [-(2**62)] * 3]), torch.tensor([3, -1]), torch.nan
    codes[4:6] = -1  # what the encoder gives for a bad row
    z.requires_grad_()
    codebooks.requires_grad_()
    loss = run(uk.moe_residual_loss, z, codes, codebooks, ids, check_finite=False)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert z.grad[:6].eq(0).all()
    assert z.grad[6:].ne(0).any(1).all()
    assert bool(codebooks.grad.isfinite().all())


Z, CODES, BOOKS, IDS = case(rows=5)


def changed(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("change", "match", "error"),
    [
        ({"z": Z[0]}, r"z must be of shape \(N, D\), got \(4,\)", ValueError),
        ({"codes": CODES[:, 0]}, r"codes must be of shape \(N, S, L\), got \(5, 3\)", ValueError),
        ({"codebooks": BOOKS[0]}, r"codebooks must be of shape \(E, L, K, D\), got \(3, 5, 4\)", ValueError),
        ({"expert_ids": IDS[:, 0]}, r"expert_ids must be of shape \(N, S\), got \(5,\)", ValueError),
        ({"z": Z[:, :3]}, "z must be of width 4, as codebooks is, got 3", ValueError),
        ({"z": Z[:4]}, "codes must be of length 4, as z is, got 5", ValueError),
        ({"codes": CODES[..., :2]}, "codes must be of number of levels 3, as codebooks is, got 2", ValueError),
        ({"expert_ids": IDS[:4]}, "expert_ids must be of length 5, as codes is, got 4", ValueError),
        ({"expert_ids": IDS[:, :1]}, "expert_ids must be of slots 2, as codes is, got 1", ValueError),
        ({"codebooks": BOOKS[:, :, :0]}, r"codebooks must be .*\(K = 0\)", ValueError),
        ({"codebooks": BOOKS[:0]}, r"codebooks must be .*\(E = 0\)", ValueError),
        ({"codes": CODES.to("meta")}, "codes must be on cpu, as z is, got meta", ValueError),
        (
            {"codes": changed(CODES, (4, 1, 2), 5)},
            r"codes must be between -1 and 4, got 5 at index \(4, 1, 2\)",
            ValueError,
        ),
        (
            {"codes": changed(CODES, (0, 0, 1), -2)},
            r"codes must be between -1 and 4, got -2 at index \(0, 0, 1\)",
            ValueError,
        ),
        (
            {"expert_ids": changed(IDS, (3, 0), 3)},
            r"expert_ids must be between 0 and 2, got 3 at index \(3, 0\)",
            ValueError,
        ),
        ({"z": "rows"}, "z must be a torch.Tensor, got str", TypeError),
        ({"codes": CODES.float()}, "codes must be an integer tensor, got torch.float32", TypeError),
        ({"z": Z.long()}, "z must be float32, .*, got torch.int64", TypeError),
        ({"z": Z.double()}, "codebooks must be float64, as z is, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(change, match, error):
    given = {"z": Z, "codes": CODES, "codebooks": BOOKS, "expert_ids": IDS}
    uk.moe_residual_loss(**given)
    with raises("^moe_residual_loss: " + match, error):
        uk.moe_residual_loss(**{**given, **change})


@pytest.mark.parametrize(
    ("z", "codes", "codebooks", "match", "error"),
    [
        (Z, CODES, BOOKS[0], r"codes must be of shape \(N, L\), got \(5, 2, 3\)", ValueError),
        (Z, CODES[:, 0], BOOKS, r"codebooks must be of shape \(L, K, D\), got \(3, 3, 5, 4\)", ValueError),
        (Z, None, BOOKS[0], "codes must be a torch.Tensor, got NoneType", TypeError),
        (Z[:, :2], CODES[:, 0], BOOKS[0], "z must be of width 4, as codebooks is, got 2", ValueError),
        (Z, CODES[:, 0], BOOKS[0, :2], "codes must be of number of levels 2, as codebooks is, got 3", ValueError),
        (Z, CODES[:, 0], BOOKS[0, :, :0], r"codebooks must be .*\(K = 0\), got \(3, 0, 4\)", ValueError),
        (Z[:4], CODES[:, 0], BOOKS[0], "codes must be of length 4, as z is, got 5", ValueError),
        (Z[0], CODES[:, 0], BOOKS[0], r"z must be of shape \(N, D\), got \(4,\)", ValueError),
    ],
)
def test_what_does_not_fit_one_chain_is_refused(z, codes, codebooks, match, error):
    with raises("^residual_loss: " + match, error):
        uk.residual_loss(z, codes, codebooks)


def test_codes_of_one_chain_out_of_range_are_refused():
    with raises(r"^residual_loss: codes must be between -1 and 4, got \d at index \(0, 0\)"):
        uk.residual_loss(Z, CODES[:, 0] + 5, BOOKS[0])


def test_an_error_names_the_function_that_was_called():
    with raises("^residual_loss: z must be finite, got nan at row 0"):
        uk.residual_loss(Z * torch.nan, CODES[:, 0], BOOKS[0])
    with raises("^residual_loss: codebooks must be finite", ValueError):
        uk.residual_loss(Z, CODES[:, 0], BOOKS[0] * torch.inf)
    with raises("^residual_loss: .*float64", TypeError):
        uk.residual_loss(Z.double(), CODES[:, 0], BOOKS[0])
    for function, given in (
        (uk.residual_loss, (Z, CODES[:, 0], BOOKS[0])),
        (uk.moe_residual_loss, (Z, CODES, BOOKS, IDS)),
    ):
        with raises(f"^{function.__name__}: backend must be one of .*, got 'gpu'"):
            function(*given, backend="gpu")


@pytest.mark.parametrize(
    "arguments",
    [
        (Z.clone().requires_grad_(), CODES, BOOKS.clone().requires_grad_(), IDS),
        (
            Z.T.contiguous().T.half(),
            CODES.int(),
            BOOKS.mT.contiguous().mT.half(),
            IDS,
            0.5,
            0.5,
            False,
            False,
            "reference",
        ),
        (Z.double().requires_grad_(), CODES, BOOKS.double().requires_grad_(), IDS),
        (Z[:0], CODES[:0], BOOKS, IDS[:0]),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.moe_residual_loss.default, arguments)
    z, codes, codebooks, _, *rest = arguments
    chain = (z, codes[:, 0], codebooks.detach()[0].requires_grad_(codebooks.requires_grad), *rest)
    torch.library.opcheck(torch.ops.unitok_kernels.residual_loss.default, chain)


def test_compiles_with_its_gradients():
    def function(z, codebooks):
        chain = uk.residual_loss(z * 2, CODES[:, 0], codebooks[0])
        return chain + uk.moe_residual_loss(z * 2, CODES, codebooks, IDS)

    grads = []
    for call in (torch.compile(function, fullgraph=True, backend="aot_eager"), function):
        leaves = [Z.clone().requires_grad_(), BOOKS.clone().requires_grad_()]
        call(*leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)
