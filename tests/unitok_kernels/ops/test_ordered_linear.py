"""ordered_linear is the matrix product summed in its documented order, for a row alone as in any batch."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels import backends
from unitok_kernels.ops.ordered_linear import ordered_linear

FLOATS = [torch.float32, torch.float64]
has_cpu = pytest.mark.skipif(not backends.available()["cpu"], reason="the native module is not built")


@pytest.fixture
def each_instruction_set():
    """Run a function on every instruction set that is here, and give the results."""
    from unitok_kernels import _cpu

    before = _cpu.instruction_set()

    def every(function):
        results = []
        for name in _cpu.instruction_sets():
            _cpu.use_instruction_set(name)
            results.append(function())
        return results

    yield every
    _cpu.use_instruction_set(before)


def layer(outputs, width, dtype=torch.float32):
    return normal(outputs, width, seed=1).to(dtype), normal(outputs, seed=2).to(dtype)


def by_hand(row, weight, bias):
    """The documented order for one output, in Python floats; products and sums must be exact for it to be the same."""
    chains = [0.0] * 8
    for i, (value, factor) in enumerate(zip(row, weight, strict=True)):
        chains[i % 8] += value * factor
    a, b, c, d, e, f, g, h = chains
    return ((a + e) + (c + g)) + ((b + f) + (d + h)) + bias


@pytest.mark.parametrize("x_type", FLOATS)
@pytest.mark.parametrize("weight_type", FLOATS)
@pytest.mark.parametrize(
    ("rows", "width", "outputs"),
    [(0, 3, 2), (1, 1, 1), (1, 384, 70), (3, 0, 5), (7, 13, 9), (50, 64, 65), (101, 37, 131)],
)
def test_it_is_the_matrix_product(run, rows, width, outputs, x_type, weight_type):
    x, (weight, bias) = normal(rows, width).to(x_type), layer(outputs, width, weight_type)
    expected = x.double() @ weight.double().T + bias.double()
    y = run(ordered_linear, x, weight, bias)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(run(ordered_linear, x, weight, bias, relu=True), y.relu())


def test_a_row_is_the_same_alone_in_any_batch_and_at_any_place(run):
    x, (weight, bias) = normal(300, 77), layer(45, 77)
    whole = run(ordered_linear, x, weight, bias)
    for rows in ([0], [299], [*range(7)], [*range(299, -1, -1)], [5] * 60):
        assert torch.equal(run(ordered_linear, x[rows], weight, bias), whole[rows])


@has_cpu
def test_instruction_sets_and_threads_give_the_same_bits(each_instruction_set, one_and_two_threads):
    for rows, width, outputs in ((1, 384, 512), (2, 29, 3), (131, 253, 77), (400, 64, 32)):
        x, (weight, bias) = normal(rows, width), layer(outputs, width)
        both = lambda: one_and_two_threads(lambda: ordered_linear(x, weight, bias, backend="cpu"))  # noqa: B023, E731
        first, *others = [y for pair in each_instruction_set(both) for y in pair]
        assert all(torch.equal(first, other) for other in others)


@has_cpu
def test_the_sums_have_the_documented_order(each_instruction_set):
    # Products of small whole numbers with powers of two are exact, so that only the order of the sums can show.
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-9, 10, (5, 43), generator=generator).double() * 2.0 ** torch.randint(
        -40, 40, (5, 43), generator=generator
    )
    weight = torch.randint(-9, 10, (6, 43), generator=generator).double()
    bias = normal(6).double()
    expected = torch.tensor(
        [[by_hand(r, w, b) for w, b in zip(weight.tolist(), bias.tolist(), strict=True)] for r in x.tolist()],
        dtype=torch.float64,
    )
    assert not torch.equal(x @ weight.T + bias, expected)  # another order would show
    for y in each_instruction_set(lambda: ordered_linear(x, weight, bias, backend="cpu")):
        assert torch.equal(y, expected)


def test_what_is_not_finite_stays_in_its_row(run):
    x, (weight, bias) = normal(9, 21), layer(10, 21)
    good = run(ordered_linear, x, weight, bias, relu=True)
    x[4, 20] = torch.nan
    found = run(ordered_linear, x, weight, bias, relu=True)
    assert found[4].isnan().all()
    others = [*range(4), *range(5, 9)]
    assert torch.equal(found[others], good[others])


def test_any_layout_gives_the_same_bits(run):
    x, (weight, bias) = normal(11, 30).T, layer(8, 11)
    assert torch.equal(run(ordered_linear, x, weight, bias), run(ordered_linear, x.contiguous(), weight, bias))
    views = weight.T.contiguous().T, torch.stack([bias, bias], 1)[:, 0]
    assert torch.equal(run(ordered_linear, x, *views), run(ordered_linear, x, weight, bias))


def test_torch_takes_it(run, home):
    backend, device = home
    arguments = [value.to(device) for value in (normal(6, 5), *layer(4, 5))]
    run(ordered_linear, *arguments)  # skips where there is no kernel
    opcheck(torch.ops.unitok_kernels.ordered_linear.default, (*arguments, True, backend))
    compiled = torch.compile(lambda *a: ordered_linear(*a, relu=True) + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*arguments), ordered_linear(*arguments, relu=True) + 1)


def test_what_does_not_fit_is_refused():
    x, (weight, bias) = normal(6, 5), layer(4, 5)
    with raises("ordered_linear: x must be of width 5, as weight is, got 3"):
        ordered_linear(x[:, :3], weight, bias)
    with raises("ordered_linear: bias must be of length 4, as weight is, got 2"):
        ordered_linear(x, weight, bias[:2])
    with raises("ordered_linear: x must be of shape .*got"):
        ordered_linear(x[0], weight, bias)
    with raises("ordered_linear: weight must be float32 or float64, got torch.float16", TypeError):
        ordered_linear(x, weight.half(), bias)
    with raises("ordered_linear: bias must be a torch.Tensor, got list", TypeError):
        ordered_linear(x, weight, [0.0] * 4)
    with raises("ordered_linear: relu must be a bool, got int", TypeError):
        ordered_linear(x, weight, bias, relu=1)


@pytest.mark.parametrize(
    ("x", "weight", "expected"),
    [
        ([1e15, 1e-5, 0.25], [0.0, 1.0, 2.0**-10], 1e-5 + 2.0**-12),
        ([0.0, 1.0], [1e10, 1e-12], 1e-12),
        ([1e30, 1.0], [0.0, 1.0], 1.0),
        ([float("inf"), 1.0], [1.0, 1.0], float("inf")),
    ],
)
def test_small_values_beside_large_ones_count(run, x, weight, expected):
    x, weight = torch.tensor([x]), torch.tensor([weight])
    found = run(ordered_linear, x, weight, torch.zeros(1))
    torch.testing.assert_close(found, torch.tensor([[expected]], dtype=torch.float64), rtol=1e-6, atol=0)
