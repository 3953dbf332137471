"""The wording of every check, alone; what each operation refuses is in its own test."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.oracle import MESSAGE, normal, raises
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
            "x must be of width 4, as y is, got 3. Check which y belongs to it.",
        ),
        (lambda: checks.at_least("op", "k", 0, 1, "Pass one."), "k must be at least 1, got 0. Pass one."),
        (lambda: checks.at_least("op", "k", float("nan"), 1, "Pass one."), "k must be at least 1, got nan. Pass one."),
        (
            lambda: checks.one_of("op", "how", "c", ("a", "b")),
            "how must be one of 'a', 'b', got 'c'. Pick one of them.",
        ),
    ],
)
def test_wording(check, message):
    with raises(".") as caught:
        check()
    assert str(caught.value) == "op: " + message


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
