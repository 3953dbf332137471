"""The wording of every check, alone; what each operation refuses is in its own test."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import MESSAGE, normal, raises
from unitok_kernels import checks


def test_the_form_of_messages_has_teeth():
    assert MESSAGE.fullmatch("op: x must be of shape (N, D), got (3,). Reshape it.")
    assert not MESSAGE.fullmatch("op: x must be of shape (N, D), got (3,)")
    assert not MESSAGE.fullmatch("x must be of shape (N, D), got (3,). Reshape it.")
    assert not MESSAGE.fullmatch("op: x is wrong. Reshape it.")
    with pytest.raises(AssertionError, match="house's form"), raises("x"):
        raise ValueError("x is wrong")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: checks.floating("op", "x", normal(3), "(N, D)"),
            "x must be of shape (N, D), got (3,). Reshape it to 2 dimension(s).",
        ),
        (
            lambda: checks.floating("op", "x", normal(3, 1), "(N,)"),
            "x must be of shape (N,), got (3, 1). Reshape it to 1 dimension(s).",
        ),
        (
            lambda: checks.same("op", "x", 3, "y", 4, "width"),
            "x must be of width 4, as y is, got 3. Check that x and y belong together.",
        ),
        (lambda: checks.at_least("op", "k", 0, 1, "Pass one."), "k must be at least 1, got 0. Pass one."),
        (lambda: checks.at_least("op", "k", float("nan"), 1, "Pass one."), "k must be at least 1, got nan. Pass one."),
        (
            lambda: checks.one_of("op", "how", "c", ("a", "b")),
            "how must be one of 'a', 'b', got 'c'. Pick one of them.",
        ),
    ],
)
def test_each_check_words_its_rule_value_and_next_step(check, message):
    with raises(".") as caught:
        check()
    assert str(caught.value) == "op: " + message


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.whole("op", j=1, k=2.5), "k must be an int, got float"),
        (lambda: checks.whole("op", k=True), "k must be an int, got bool"),
        (lambda: checks.whole("op", k=torch.tensor(3)), "k must be an int, got Tensor"),
        (lambda: checks.number("op", w="1"), "w must be a float or an int, got str"),
        (lambda: checks.number("op", w=None), "w must be a float or an int, got NoneType"),
        (lambda: checks.number("op", w=False), "w must be a float or an int, got bool"),
        (lambda: checks.number("op", w=torch.tensor(0.5)), "w must be a float or an int, got Tensor"),
        (lambda: checks.flag("op", f=1), "f must be a bool, got int"),
        (lambda: checks.flag("op", f=None), "f must be a bool, got NoneType"),
        (lambda: checks.settings("op", check_finite=0, backend=None), "check_finite must be a bool or None, got int"),
        (lambda: checks.settings("op", check_finite=None, backend=3), "backend must be a str or None, got int"),
    ],
)
def test_a_wrong_type_is_named(check, message):
    with raises("^op: " + message, TypeError):
        check()


def test_numpy_s_and_torch_s_symbolic_numbers_are_numbers():
    symbols = ShapeEnv()
    whole = (3, np.int64(3), np.uint8(3), symbols.create_unbacked_symint())
    for value in whole:
        checks.whole("op", k=value)
    for value in (*whole, 0.5, torch.nan, np.float32(0.5), np.float64(0.5), symbols.create_unbacked_symfloat()):
        checks.number("op", w=value)


X, CODES = normal(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
BOOKS = normal(2, 2, 3, seed=1)
LEVELS = torch.stack([CODES, CODES], 1)
ENCODING = {"precision": 3, "check_finite": "yes", "stats": 1, "backend": 3}
WEIGHTED = {"codebook_weight": "x", "commitment_weight": None, "check_finite": 1, "backend": 3}
CALLS = {  # function -> a call that works, and a value of the wrong type for each argument that isn't a tensor
    uk.nearest_codeword: ({"x": X, "codebook": BOOKS[0]}, ENCODING),
    uk.residual_encode: ({"z": X, "codebooks": BOOKS}, ENCODING),
    uk.residual_decode: ({"codes": LEVELS, "codebooks": BOOKS}, {"check_finite": 1.0, "backend": 3}),
    uk.moe_residual_encode: (
        {"z": X, "codebooks": BOOKS[None], "expert_ids": CODES[:, None] * 0, "expert_weights": X[:, :1]},
        {"shared_weight": "x", **ENCODING},
    ),
    uk.codeword_statistics: (
        {"x": X, "codes": CODES, "num_codewords": 2},
        {"num_codewords": 2.5, "check_finite": "yes", "backend": 3},
    ),
    uk.kmeans: (
        {"x": X, "num_codewords": 2, "iterations": 1, "seed": 0},
        {"num_codewords": "2", "iterations": 3.5, "seed": "a", "init": 3, "balanced": 1}
        | {"check_finite": "yes", "backend": 3},
    ),
    uk.hsic: (
        {"x": X, "z": X, "segments": CODES},
        {"num_segments": 2.0, "bandwidth": None, "normalised": 1.5, "check_finite": "yes", "backend": 3},
    ),
    uk.sinkhorn_assign: (
        {"x": X, "codebook": BOOKS[0], "epsilon": 1, "iterations": 2},
        {"epsilon": "a", "iterations": 2.0, "check_finite": "yes", "backend": 3},
    ),
    uk.residual_loss: ({"z": X, "codes": LEVELS, "codebooks": BOOKS}, WEIGHTED),
    uk.moe_residual_loss: (
        {"z": X, "codes": LEVELS[:, None], "codebooks": BOOKS[None], "expert_ids": CODES[:, None] * 0},
        WEIGHTED,
    ),
}


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(function, *wrong) for function, (_, wrongs) in CALLS.items() for wrong in wrongs.items()],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_every_argument_that_is_no_tensor_refuses_a_wrong_type(function, name, value):
    given, _ = CALLS[function]
    function(**given)
    with raises(f"^{function.__name__}: {name} must be .*, got {type(value).__name__}", TypeError):
        function(**{**given, name: value})


def test_every_argument_that_is_no_tensor_is_told_above():
    for function, (given, wrongs) in CALLS.items():
        tensors = {name for name, value in given.items() if isinstance(value, torch.Tensor)}
        assert set(inspect.signature(function).parameters) - tensors - {"shared_codebooks"} == set(wrongs)


def test_types_are_checked_under_torch_compile_where_sizes_are_symbols():
    def function(x, codes, books):
        sums, _ = uk.codeword_statistics(x, codes, books.shape[1], check_finite=False, backend="reference")
        return sums.sum() + uk.residual_loss(x, codes[:, None], books, codebook_weight=1 / books.shape[1])

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (2, 5, 7):
        torch.testing.assert_close(compiled(X, CODES, normal(1, size, 3)), function(X, CODES, normal(1, size, 3)))


def test_what_fits_passes():
    for dtype in checks.FLOATS:
        checks.floating("op", "x", normal(2, 3).to(dtype), "(N, D)")
    for dtype in checks.INTEGERS:
        checks.integral("op", "x", torch.zeros(2, dtype=dtype), "(N,)")
    checks.not_empty("op", "c", normal(1, 1, 1), "LKD")
    checks.one_device("op", a=normal(1), b=None, c=normal(2))
    checks.no_mixed_float64("op", a=normal(1), b=None, c=normal(1).half())
    checks.no_mixed_float64("op", a=normal(1).double(), b=None, c=normal(1).double())


def test_a_device_is_named_with_the_way_to_it():
    with raises("op: b must be on cpu, as a is, got meta. Move it with b.to\\(a.device\\)."):
        checks.one_device("op", a=normal(1), skipped=None, b=normal(1).to("meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_first_bad_row_is_named(dtype, bad):
    x = normal(50, 3).to(dtype)
    checks.finite("op", "x", x)
    x[17, 2] = x[40, 0] = bad
    with raises(f"op: x must be finite, got {bad} at row 17. "):
        checks.finite("op", "x", x)


def test_infinities_that_cancel_are_found():
    with raises("got inf at row 0"):
        checks.finite("op", "x", torch.tensor([[torch.inf], [-torch.inf]]))


def test_a_gradient_is_no_obstacle_and_an_empty_tensor_is_finite():
    checks.finite("op", "x", normal(3, 2).requires_grad_())
    checks.finite("op", "x", normal(0, 2))
    checks.in_range("op", "i", torch.zeros(0, 2, dtype=torch.int64), 5)


@pytest.mark.parametrize(("value", "place"), [(5, 3), (-1, 0), (2**62, 3), (-(2**62), 2)])
def test_the_first_integer_out_of_range_is_named(value, place):
    index = torch.tensor([0, 1, 2, 4])
    checks.in_range("op", "i", index, 5)
    index[place] = value
    with raises(f"op: i must be between 0 and 4, got {value} at row {place}. "):
        checks.in_range("op", "i", index, 5)


def test_data_is_read_by_default_where_that_is_free():
    here, there = normal(1), torch.empty(1, device="meta")
    assert checks.reads_data(None, here)
    assert checks.reads_data(None, there)
    assert not checks.reads_data(False, here)
    assert checks.reads_data(True, here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_is_not_read_by_default_on_cuda():
    assert not checks.reads_data(None, normal(1).cuda())
    assert checks.reads_data(True, normal(1).cuda())
