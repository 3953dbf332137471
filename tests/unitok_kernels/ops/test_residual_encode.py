"""residual_encode: every level is the float64 argmin of what the last one left, whatever the batch or layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import HARD, integers, normal, raises


def chain_input(hard, levels=3):
    """One of the hard inputs, with finer levels around 0 behind its own codebook."""
    z, codebook = HARD[hard]()
    spread = codebook[: len(codebook) // 2].std(0).mean()
    finer = [normal(*codebook.shape, seed=10 + level) * spread * 0.5**level for level in range(1, levels)]
    return z, torch.stack([codebook, *finer])


@oracle.every_hard_input()
def test_every_level_is_the_float64_argmin_and_the_sum_is_in_level_order(run, sampled, hard):
    z, codebooks = chain_input(hard)
    z = sampled(z)
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks)
    residuals = oracle.assert_chain(codes, z, codebooks)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks))
    torch.testing.assert_close(level_error.double(), residuals.double().square().mean((1, 2)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("hard", oracle.BROKEN)
def test_the_expanded_form_fails_on_the_same_inputs(hard):
    z, codebooks = chain_input(hard)
    assert oracle.wrong_share(oracle.expanded_form(z, codebooks[0]), z, codebooks[0]) > 0.2


def test_the_sum_has_one_order_only(run, sampled):
    # The float32 sum depends on the order: level order is the one that is promised.
    z, codebooks = normal(200, 8) * 100, normal(32, 40, 8, seed=1) * 0.7 ** torch.arange(32.0).view(-1, 1, 1) * 100
    z = sampled(z)
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks)
    assert codes.shape == (len(z), 32)
    assert level_error.shape == (32,)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks))
    assert not torch.equal(quantized, oracle.level_order_sum(codes.flip(1), codebooks.flip(0)))
    oracle.assert_chain(codes, z, codebooks)


def test_ties_take_the_lowest_index_on_every_level(run, sampled):
    z, codebooks = sampled(integers(5, 200, 4).float()), integers(3, 3, 30, 4, seed=1, low=-2).float()
    codes = run(uk.residual_encode, z, codebooks).codes
    residual = z
    for level in range(3):
        truth = oracle.squared_distances(residual, codebooks[level]).argmin(1)
        assert torch.equal(codes[:, level], truth)
        residual = residual - codebooks[level][truth]


def test_the_codewords_of_a_row_are_found_again(run):
    codebooks = normal(3, 16, 8) * torch.tensor([100.0, 1.0, 0.01]).view(3, 1, 1)
    codes = integers(16, 50, 3)
    found = run(uk.residual_encode, oracle.level_order_sum(codes, codebooks), codebooks)
    assert torch.equal(found.codes, codes)
    assert float(found.level_error[2]) < 1e-8


@pytest.mark.parametrize("hard", ["offset0", "offset1000", "clusters"])
def test_a_row_does_not_depend_on_its_batch(run, few, sampled, hard):
    z, codebooks = chain_input(hard)
    codebooks = codebooks[:, :: few(1, 3)]
    z, codebooks = sampled(z[::3], 8), torch.cat([codebooks, codebooks[:, :5]], 1)
    whole = run(uk.residual_encode, z, codebooks)
    shuffled = torch.randperm(len(z), generator=torch.Generator().manual_seed(5))
    everything = torch.arange(len(z))
    for rows in [shuffled, *everything.split(7), *everything[: few(33, 2)].split(1), everything[1:]]:
        found = run(uk.residual_encode, z[rows], codebooks)
        assert torch.equal(found.codes, whole.codes[rows])
        assert torch.equal(found.quantized, whole.quantized[rows])
    columns = run(uk.residual_encode, z.T.contiguous().T[5:6], codebooks)
    assert torch.equal(columns.codes, whole.codes[5:6])


def test_threads_do_not_matter(run, sampled, one_and_two_threads):
    z, codebook = oracle.at_offset(1000, 1.0, rows=2500, codewords=128)
    z = sampled(z)
    codebooks = torch.stack([codebook, normal(*codebook.shape, seed=3)])
    one, two = one_and_two_threads(lambda: run(uk.residual_encode, z, codebooks))
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.quantized, two.quantized)


@pytest.mark.parametrize(
    ("rows", "levels", "codewords", "width"),
    [(0, 2, 5, 3), (1, 1, 1, 1), (1, 3, 7, 1), (13, 2, 1, 5), (101, 5, 37, 7), (1, 32, 3, 2)],
)
def test_awkward_shapes_keep_the_promise(run, rows, levels, codewords, width):
    z, codebooks = normal(rows, width), normal(levels, codewords, width, seed=1)
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks)
    assert codes.shape == (rows, levels)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks))
    residuals = oracle.assert_chain(codes, z, codebooks)
    expected = residuals.double().square().mean((1, 2)).float() if rows else torch.zeros(levels)
    torch.testing.assert_close(level_error, expected)


def test_any_layout_gives_the_same_bits(run):
    z, codebooks = normal(8, 90)[:, ::3].T, normal(3, 8, 11, seed=1).mT
    for layout in (z, z[::2], z[:1].expand(5, 8)):
        found = run(uk.residual_encode, layout, codebooks)
        plain = run(uk.residual_encode, layout.clone(memory_format=torch.contiguous_format), codebooks.contiguous())
        for one, other in zip(found, plain, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", ["neither", "codebooks", "rows"])
def test_half_inputs_keep_float32_residuals_and_are_rounded_once(run, sampled, dtype, mixed):
    z, codebooks = sampled(normal(300, 16)), normal(4, 32, 16, seed=1) * 0.6
    z = z if mixed == "rows" else z.to(dtype)
    codebooks = codebooks if mixed == "codebooks" else codebooks.to(dtype)
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks)
    assert quantized.dtype == z.dtype
    assert level_error.dtype == torch.float32
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks, z.dtype))
    oracle.assert_chain(codes, z, codebooks)
    twice = torch.zeros_like(z)
    for level in range(4):  # what a sum in half precision would give
        twice = twice + codebooks[level][codes[:, level]].to(z.dtype)
    assert mixed == "rows" or not torch.equal(quantized, twice)


def test_stats_count_over_all_levels(run, sampled):
    z, codebooks = sampled(normal(50, 4)) * 3, normal(2, 10, 4, seed=1)
    twice = torch.cat([codebooks, codebooks], 1)
    *result, stats = run(uk.residual_encode, z, twice, stats=True)
    assert torch.equal(result[0], run(uk.residual_encode, z, codebooks).codes)
    assert int(stats.near_ties) == 2 * len(z)
    assert int(stats.rescored_rows) >= 2 * len(z)
    *_, none = run(uk.residual_encode, z, codebooks, stats=True)
    assert int(none.near_ties) == 0


def test_unchecked_bad_rows_get_no_code_and_decode_to_nothing(run):
    z, codebooks = normal(20, 4), normal(2, 6, 4, seed=1)
    clean = run(uk.residual_encode, z[4:], codebooks)
    z[0, 0], z[1, 3], z[2], z[3, 1] = torch.nan, torch.inf, -torch.inf, torch.nan
    codes, quantized, level_error = run(uk.residual_encode, z, codebooks, check_finite=False)
    assert codes[:4].eq(-1).all()
    assert quantized[:4].eq(0).all()
    assert torch.equal(codes[4:], clean.codes)
    assert torch.equal(quantized[4:], clean.quantized)
    torch.testing.assert_close(level_error, clean.level_error)
    all_bad = run(uk.residual_encode, z[:4], codebooks, check_finite=False)
    assert all_bad.codes.eq(-1).all()
    assert all_bad.level_error.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("z", "codebooks", "match", "error"),
    [
        (normal(3), normal(1, 2, 3), r"z must be of shape \(N, D\), got \(3,\)", ValueError),
        (normal(2, 3), normal(2, 3), r"codebooks must be of shape \(L, K, D\), got \(2, 3\)", ValueError),
        (normal(2, 4), normal(1, 2, 3), "z must be of width 3, as codebooks is, got 4", ValueError),
        (normal(2, 3), normal(2, 0, 3), r"codebooks must be .*\(K = 0\), got \(2, 0, 3\)", ValueError),
        (normal(2, 3), normal(0, 2, 3), r"codebooks must be .*\(L = 0\), got \(0, 2, 3\)", ValueError),
        (normal(2, 3).to("meta"), normal(1, 2, 3), "codebooks must be on meta, as z is, got cpu", ValueError),
        (torch.tensor([[0.0], [torch.nan]]), normal(1, 2, 1), "z must be finite, got nan at row 1", ValueError),
        (
            normal(2, 1),
            torch.tensor([[[0.0], [torch.inf]]]),
            r"codebooks must be finite, got inf at index \(0, 1\)",
            ValueError,
        ),
        ("z", normal(1, 2, 3), "z must be a torch.Tensor, got str", TypeError),
        (normal(2, 3), integers(2, 1, 2, 3), "codebooks must be float32, .*, got torch.int64", TypeError),
        (normal(2, 3), normal(1, 2, 3).double(), "z must be float64, as codebooks is, got torch.float32", TypeError),
    ],
)
def test_what_does_not_fit_is_refused(z, codebooks, match, error):
    with raises("^residual_encode: " + match, error):
        uk.residual_encode(z, codebooks)


def test_options_that_do_not_exist_are_refused():
    with raises("^residual_encode: precision must be one of 'exact', 'fast', got 'int8'"):
        uk.residual_encode(normal(2, 2), normal(1, 2, 2), precision="int8")


@pytest.mark.parametrize(
    "arguments",
    [
        (normal(9, 4), normal(2, 5, 4)),
        (normal(0, 4), normal(1, 5, 4)),
        (normal(4, 9).T, normal(2, 4, 5).mT.half(), "fast", False, True, None, "reference"),
        (normal(9, 4).bfloat16(), normal(2, 5, 4)),
        (normal(3, 4).double(), normal(2, 5, 4).double()),
    ],
)
def test_torch_s_opcheck_passes(arguments):
    torch.library.opcheck(torch.ops.unitok_kernels.residual_encode.default, arguments)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.compiled)])
def test_compiles_without_a_graph_break(compiler):
    def function(z, codebooks):
        codes, quantized, level_error = uk.residual_encode(z * 2, codebooks)
        return codes + 1, quantized.sin(), level_error.sum()

    compiled = torch.compile(function, fullgraph=True, backend=compiler, dynamic=compiler == "aot_eager")
    for rows in (30,) if compiler == "inductor" else (30, 17):
        z, codebooks = normal(rows, 4, seed=rows).requires_grad_(), normal(3, 7, 4)
        for found, expected in zip(compiled(z, codebooks), function(z, codebooks), strict=True):
            torch.testing.assert_close(found, expected)


def test_checks_work_in_a_compiled_function():
    function = torch.compile(lambda z, c: uk.residual_encode(z, c).codes, fullgraph=True, backend="aot_eager")
    with raises("residual_encode: z must be finite, got nan at row 2"):
        function(normal(4, 2).index_fill(0, torch.tensor([2]), torch.nan), normal(1, 3, 2))


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.codebooks = nn.Parameter(normal(3, 7, 4))

    def forward(self, z):
        return uk.residual_encode(z, self.codebooks).codes


def test_exports_with_any_number_of_rows():
    exported = torch.export.export(Quantizer(), (normal(5, 4),), dynamic_shapes={"z": {0: torch.export.Dim.AUTO}})
    assert any("residual_encode" in str(node.target) for node in exported.graph.nodes)
    for rows in (5, 11):
        z = normal(rows, 4, seed=rows)
        assert torch.equal(exported.module()(z), Quantizer()(z))
