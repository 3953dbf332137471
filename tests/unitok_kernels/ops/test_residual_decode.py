"""residual_decode sums codewords in level order, rounded once, and gives each codeword its rows' gradient."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import integers, normal, raises


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_sum_is_in_level_order_and_rounded_once(run, dtype):
    codes, codebooks = integers(40, 200, 32), (normal(32, 40, 8, seed=1) * 100).to(dtype)
    quantized = run(uk.residual_decode, codes, codebooks)
    assert quantized.dtype == dtype
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks, dtype))
    if dtype == torch.float32:  # where another order would show; in half precision, rounding twice would
        assert not torch.equal(quantized, oracle.level_order_sum(codes.flip(1), codebooks.flip(0)))
    else:
        assert not torch.equal(quantized, sum(table[code] for table, code in zip(codebooks, codes.T, strict=True)))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_decoding_what_was_encoded_gives_its_quantized_rows_bitwise(run, offset):
    z, codebooks = normal(300, 8) + offset, normal(5, 30, 8, seed=1)
    codebooks[0] += offset
    codes, quantized, _ = run(uk.residual_encode, z, codebooks)
    assert torch.equal(run(uk.residual_decode, codes, codebooks), quantized)


def test_minus_one_adds_nothing(run):
    codebooks = normal(3, 5, 4)
    codes = torch.tensor([[0, -1, 2], [-1, -1, -1], [-1, 4, -1]])
    expected = torch.stack([codebooks[0, 0] + codebooks[2, 2], torch.zeros(4), codebooks[1, 4]])
    assert torch.equal(run(uk.residual_decode, codes, codebooks), expected)


def test_unchecked_codes_out_of_range_add_nothing(run):
    codebooks = normal(2, 5, 4).requires_grad_()
    codes = torch.tensor([[5, 1], [-2, 1], [2**62, 1], [-(2**62), 1], [0, 1]])
    quantized = run(uk.residual_decode, codes, codebooks, check_finite=False)
    assert torch.equal(quantized[:4], codebooks[1, 1].expand(4, 4))
    quantized.sum().backward()
    assert torch.equal(codebooks.grad[0], torch.eye(5, dtype=torch.float32)[0, :, None].expand(5, 4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_any_integer_holds_codes(run, dtype):
    num_codewords = 300 if dtype != torch.uint8 else 256  # 256 does not fit into uint8, its codes do
    codes = integers(min(num_codewords, torch.iinfo(dtype).max + 1), 50, 3).to(dtype)
    codebooks = normal(3, num_codewords, 4, seed=1)
    assert torch.equal(run(uk.residual_decode, codes, codebooks), oracle.level_order_sum(codes.long(), codebooks))


@pytest.mark.parametrize(("rows", "levels", "codewords", "width"), [(0, 2, 5, 3), (1, 1, 1, 1), (101, 7, 3, 13)])
def test_awkward_shapes_sum_in_level_order(run, rows, levels, codewords, width):
    codes, codebooks = integers(codewords, rows, levels), normal(levels, codewords, width)
    assert torch.equal(run(uk.residual_decode, codes, codebooks), oracle.level_order_sum(codes, codebooks))


def test_any_layout_sums_in_level_order(run):
    codes, codebooks = integers(5, 3, 20).T, normal(3, 4, 5).mT
    assert torch.equal(run(uk.residual_decode, codes, codebooks), oracle.level_order_sum(codes, codebooks))
    same = codes[:1].expand(6, 3)
    assert torch.equal(run(uk.residual_decode, same, codebooks), oracle.level_order_sum(same, codebooks))


def test_torch_s_gradcheck_passes():
    codes = torch.tensor([[0, 2], [1, -1], [0, 0], [-1, -1], [0, 2]])
    codebooks = normal(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: uk.residual_decode(codes, c), (codebooks,))


def test_the_gradient_of_each_codeword_is_the_sum_over_its_rows(run):
    codes, codebooks, upstream = integers(5, 400, 3, low=-1), normal(3, 5, 4), normal(400, 4, seed=2)
    codebooks.requires_grad_()
    run(uk.residual_decode, codes, codebooks).backward(upstream)
    for level in range(3):
        for code in range(5):
            expected = upstream[codes[:, level] == code].double().sum(0)
            torch.testing.assert_close(codebooks.grad[level, code].double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 8, 37])
def test_every_backend_gives_the_bits_of_the_reference(run, dtype, width):
    codes, upstream = integers(9, 500, 3, low=-1), normal(500, width, seed=1).to(dtype)
    results = []
    for call in (lambda *a: run(uk.residual_decode, *a), lambda *a: uk.residual_decode(*a, backend="reference")):
        codebooks = normal(3, 9, width).to(dtype).requires_grad_()
        quantized = call(codes, codebooks)
        quantized.backward(upstream)
        results.append((quantized, codebooks.grad))
    (quantized, gradient), (expected, truth) = results
    assert torch.equal(quantized, expected)
    assert torch.equal(gradient, truth)


def test_a_codebook_that_is_not_finite_is_named_wherever_it_is(run):
    codebooks, codes = normal(2, 5, 19), torch.zeros(3, 2, dtype=torch.int64)
    codebooks[1, 4, 18] = torch.inf  # used by no row, in the last column
    with raises(r"^residual_decode: codebooks must be finite, got inf at index \(1, 4\)"):
        run(uk.residual_decode, codes, codebooks, check_finite=True)
    assert torch.equal(
        run(uk.residual_decode, codes, codebooks, check_finite=False), codebooks[:, 0].sum(0).expand(3, 19)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_bitwise_repeatable(run, few, one_and_two_threads, dtype):
    rows = few(20_000, 500)
    codes, upstream = integers(7, rows, 2), normal(rows, 8, seed=1).to(dtype)

    def gradient():
        codebooks = normal(2, 7, 8).to(dtype).requires_grad_()
        run(uk.residual_decode, codes, codebooks).backward(upstream)
        return codebooks.grad

    one, two = one_and_two_threads(gradient)
    assert one.dtype == dtype
    assert torch.equal(one, two)
    assert torch.equal(two, gradient())


@pytest.mark.parametrize(
    ("codes", "codebooks", "match", "error"),
    [
        (integers(2, 3), normal(1, 2, 3), r"codes must be of shape \(N, L\), got \(3,\)", ValueError),
        (integers(2, 3, 1), normal(2, 3), r"codebooks must be of shape \(L, K, D\), got \(2, 3\)", ValueError),
        (integers(2, 3, 2), normal(1, 2, 3), "codes must be of number of levels 1, as codebooks is, got 2", ValueError),
        (integers(2, 3, 1), normal(1, 0, 3), r"codebooks must be .*\(K = 0\), got \(1, 0, 3\)", ValueError),
        (integers(2, 3, 0), normal(0, 2, 3), r"codebooks must be .*\(L = 0\), got \(0, 2, 3\)", ValueError),
        (integers(2, 3, 1).to("meta"), normal(1, 2, 3), "codes must be on cpu, as codebooks is, got meta", ValueError),
        (
            torch.tensor([[0], [2]]),
            normal(1, 2, 3),
            r"codes must be between -1 and 1, got 2 at index \(1, 0\)",
            ValueError,
        ),
        (
            torch.tensor([[0], [-2]]),
            normal(1, 2, 3),
            r"codes must be between -1 and 1, got -2 at index \(1, 0\)",
            ValueError,
        ),
        (
            torch.tensor([[0], [7]]).byte(),
            normal(1, 2, 3),
            r"codes must be between -1 and 1, got 7 at index \(1, 0\)",
            ValueError,
        ),
        (None, normal(1, 2, 3), "codes must be a torch.Tensor, got NoneType", TypeError),
        (normal(3, 1), normal(1, 2, 3), "codes must be an integer tensor, got torch.float32", TypeError),
        (integers(2, 3, 1).bool(), normal(1, 2, 3), "codes must be an integer tensor, got torch.bool", TypeError),
        (integers(2, 3, 1), integers(2, 1, 2, 3), "codebooks must be float32, .*, got torch.int64", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(codes, codebooks, match, error):
    with raises("^residual_decode: " + match, error):
        uk.residual_decode(codes, codebooks)


@pytest.mark.parametrize(
    "arguments",
    [
        (integers(5, 9, 2), normal(2, 5, 4).requires_grad_()),
        (integers(5, 0, 2), normal(2, 5, 4).requires_grad_()),
        (integers(5, 2, 9, low=-1).T.int(), normal(2, 4, 5).mT.half(), False, "reference"),
        (integers(5, 9, 2).byte(), normal(2, 5, 4).double().requires_grad_()),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.residual_decode.default, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), integers(5, 9, 2), 5),
        (normal(0, 4), integers(5, 0, 2), 5),
        (normal(4, 9).T.half(), integers(5, 2, 9, low=-1).T.int(), 7, "reference"),
    ],
)
def test_torch_s_opcheck_of_the_gradient_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.residual_decode_backward.default, arguments)


@pytest.mark.parametrize(
    ("gradient", "codes", "num_codewords", "match", "error"),
    [
        (normal(3), integers(2, 3, 1), 2, r"gradient must be of shape \(N, D\), got \(3,\)", ValueError),
        (normal(3, 1), integers(2, 3), 2, r"codes must be of shape \(N, L\), got \(3,\)", ValueError),
        (normal(3, 1), integers(2, 4, 1), 2, "codes must be of length 3, as gradient is, got 4", ValueError),
        (normal(3, 1), integers(2, 3, 1), 0, "num_codewords must be at least 1, got 0", ValueError),
        (normal(3, 1), normal(3, 1), 2, "codes must be an integer tensor, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit_the_gradient_is_refused(gradient, codes, num_codewords, match, error):
    with raises("^residual_decode_backward: " + match, error):
        torch.ops.unitok_kernels.residual_decode_backward(gradient, codes, num_codewords)


def test_compiles_with_its_gradient():
    codes = integers(5, 9, 2, low=-1)
    compiled = torch.compile(lambda c: uk.residual_decode(codes, c).sin().sum(), fullgraph=True, backend="aot_eager")
    one, two = normal(2, 5, 4).requires_grad_(), normal(2, 5, 4).requires_grad_()
    compiled(one).backward()
    uk.residual_decode(codes, two).sin().sum().backward()
    assert torch.equal(one.grad, two.grad)
