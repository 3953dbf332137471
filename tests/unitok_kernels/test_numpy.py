"""`unitok_kernels.numpy` gives what the torch functions give on the backend "cpu", and refuses in the same words."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal, raises
from unitok_kernels import backends
from unitok_kernels.ops.ordered_linear import ordered_linear

if not backends.available()["cpu"]:
    pytest.skip("the native module is not built", allow_module_level=True)
un = pytest.importorskip("unitok_kernels.numpy")

TYPES = [torch.float32, torch.float16]


def same(found, expected):
    """Bitwise, and of one type."""
    expected = expected.detach().numpy()
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def fresh(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [0, 1, 17, 300])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_encode_gives_what_the_torch_function_gives(rows, dtype, precision):
    z, codebooks = normal(rows, 13).to(dtype), normal(3, 37, 13, seed=1).to(dtype)
    found = un.encode(z.numpy(), codebooks.numpy(), precision=precision)
    expected = uk.residual_encode(z, codebooks, precision=precision, backend="cpu")
    same(found.codes, expected.codes)
    same(found.quantized, expected.quantized)
    np.testing.assert_allclose(found.level_error, expected.level_error, rtol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("codes_type", [torch.int64, torch.int16, torch.uint8])
def test_decode_gives_what_the_torch_function_gives(dtype, codes_type):
    codes, codebooks = integers(37, 90, 3).to(codes_type), normal(3, 37, 13, seed=1).to(dtype)
    same(un.decode(codes.numpy(), codebooks.numpy()), uk.residual_decode(codes, codebooks))
    if codes_type == torch.int16:
        codes[5], codes[7, 1] = -1, -1
        same(un.decode(codes.numpy(), codebooks.numpy()), uk.residual_decode(codes, codebooks))
        codes[9, 0], codes[11, 2] = 37, -5
        unchecked = uk.residual_decode(codes, codebooks, check_finite=False)
        same(un.decode(codes.numpy(), codebooks.numpy(), check_finite=False), unchecked)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 150])
def test_moe_encode_gives_what_the_torch_function_gives(rows, shared, slots, dtype):
    z, codebooks, weights = normal(rows, 13).to(dtype), normal(4, 3, 20, 13, seed=1), normal(rows, slots, seed=2)
    ids, book = integers(4, rows, slots), normal(2, 11, 13, seed=3) if shared else None
    expected = uk.moe_residual_encode(z, codebooks, ids, weights, book, 0.3)
    arrays = [None if x is None else x.numpy() for x in (z, codebooks, ids, weights, book)]
    found = un.moe_encode(*arrays, 0.3)
    same(found.codes, expected.codes)
    same(found.combined, expected.combined)
    np.testing.assert_allclose(found.level_error, expected.level_error, rtol=1e-5)
    assert (found.shared_codes is None) == (found.shared_level_error is None) == (not shared)
    if shared:
        same(found.shared_codes, expected.shared_codes)
        np.testing.assert_allclose(found.shared_level_error, expected.shared_level_error, rtol=1e-5)


def test_unchecked_bad_input_gives_codes_of_minus_one():
    z, codebooks, weights = normal(40, 5), normal(3, 2, 7, 5, seed=1), normal(40, 2, seed=2)
    ids, book = integers(3, 40, 2), normal(2, 6, 5, seed=3)
    z[3, 1], weights[5, 0], ids[6, 1], ids[7, 0] = np.nan, np.inf, 3, -1
    expected = uk.moe_residual_encode(z, codebooks, ids, weights, book, check_finite=False)
    found = un.moe_encode(*(x.numpy() for x in (z, codebooks, ids, weights, book)), check_finite=False)
    for name in ("codes", "shared_codes", "combined"):
        same(getattr(found, name), getattr(expected, name))
    assert (found.codes[[3, 5, 6, 7], [0, 0, 1, 0]] == -1).all()
    alone = un.encode(z.numpy(), book.numpy(), check_finite=False)
    same(alone.codes, uk.residual_encode(z, book, check_finite=False).codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordered_linear_gives_what_the_torch_function_gives(dtype):
    x, weight, bias = normal(70, 29).to(dtype), normal(19, 29, seed=1), normal(19, seed=2)
    for relu in (False, True):
        expected = ordered_linear(x, weight, bias, relu=relu, backend="cpu")
        same(un.ordered_linear(x.numpy(), weight.numpy(), bias.numpy(), relu=relu), expected)


def test_threads_change_nothing():
    z, codebooks = normal(3000, 16).numpy(), normal(2, 64, 16, seed=1).numpy()
    one, two = (un.encode(z, codebooks, threads=threads) for threads in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_number_of_threads_is_that_of_the_environment_or_the_machine(monkeypatch):
    from unitok_kernels import _cpu

    given, real = [], _cpu.ordered_linear
    monkeypatch.setattr(_cpu, "ordered_linear", lambda *arguments: (given.append(arguments[-1]), real(*arguments)))
    x = np.ones((2, 3), np.float32)

    def threads(asked):
        un.ordered_linear(x, x, x[:, 0], threads=asked)
        return given.pop()

    for told, expected in (("3", 3), ("5,2", 5), (" 4 ", 4), ("9" * 30, 1 << 16)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert threads(None) == expected
        assert threads(2) == 2
    for told in ("many", "-1", "0", "2.5", "²"):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert 1 <= threads(None) <= os.cpu_count()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= threads(None) <= os.cpu_count()


def test_any_layout_and_byte_order_give_the_same_bits():
    z, codebooks = normal(13, 60).T.numpy(), normal(2, 13, 9, seed=1).mT.numpy()
    expected = un.encode(z.copy(), codebooks.copy())
    packed = np.frombuffer(b"x" + z.tobytes(), np.float32, offset=1).reshape(z.shape)  # aligned nowhere
    for rows in (z, z.astype(">f4"), packed, np.broadcast_to(z, (1, *z.shape))[0]):
        found = un.encode(rows, codebooks.astype(">f4"))
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    codes = expected.codes.astype(">i2")[::-1]
    assert np.array_equal(un.decode(codes, codebooks), expected.quantized[::-1])


def test_inputs_are_left_as_they_were():
    z, codebooks = normal(30, 5).numpy(), normal(2, 7, 5, seed=1).numpy()
    ids, weights = integers(1, 30, 1).numpy(), normal(30, 1).numpy()
    arrays = (z, codebooks[None], ids, weights, codebooks)
    before = [x.copy() for x in arrays]
    for array in arrays:
        array.flags.writeable = False
    un.moe_encode(*arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_the_errors_are_those_of_the_torch_functions():
    """The same words, but for the function's name."""
    z, codebooks, codes = normal(6, 3), normal(2, 4, 3, seed=1), integers(4, 6, 2)
    bad_row, bad_book, bad_code = z.clone(), codebooks.clone(), codes.clone()
    bad_row[4, 1], bad_book[1, 2, 0], bad_code[3, 1] = torch.nan, -torch.inf, 4
    ids, ones = torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1)
    calls = [
        (uk.residual_encode, un.encode, (z[0], codebooks)),
        (uk.residual_encode, un.encode, (z, codebooks[0])),
        (uk.residual_encode, un.encode, (z[:, :2], codebooks)),
        (uk.residual_encode, un.encode, (z, codebooks[:, :0])),
        (uk.residual_encode, un.encode, (bad_row, codebooks)),
        (uk.residual_encode, un.encode, (z, bad_book)),
        (uk.residual_decode, un.decode, (codes[:, :1], codebooks)),
        (uk.residual_decode, un.decode, (bad_code, codebooks)),
        (uk.residual_decode, un.decode, (codes, bad_book)),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids[:5], ones)),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids, ones.expand(6, 2))),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids[:, :0], ones[:, :0])),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids + 1, ones)),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids, ones * torch.inf)),
        (uk.moe_residual_encode, un.moe_encode, (z, codebooks[None], ids, ones, codebooks[:, :, :1])),
        (ordered_linear, un.ordered_linear, (z, z, ones[:, 0][:2])),
    ]
    for torch_function, numpy_function, arguments in calls:
        with raises("") as expected:
            torch_function(*arguments)
        with raises("") as found:
            numpy_function(*(x.numpy() for x in arguments))
        assert str(found.value).split(": ", 1)[1] == str(expected.value).split(": ", 1)[1]


def test_what_is_no_array_or_of_another_type_is_refused():
    z, codebooks = normal(6, 3).numpy(), normal(2, 4, 3, seed=1).numpy()
    with raises("encode: z must be a numpy.ndarray, got list. Convert it with numpy.asarray.", TypeError):
        un.encode(z.tolist(), codebooks)
    with raises("encode: z must be float16 or float32, got float64. Convert it with z.astype", TypeError):
        un.encode(z.astype(np.float64), codebooks)
    with raises("ordered_linear: x must be float32 or float64, got int64", TypeError):
        un.ordered_linear(z.astype(np.int64), z, z[:, 0])
    with raises("decode: codes must be an integer array, got float32", TypeError):
        un.decode(z[:, :2], codebooks)
    with raises("encode: precision must be one of 'exact', 'fast', got 'best'"):
        un.encode(z, codebooks, precision="best")
    with raises("encode: check_finite must be a bool, got NoneType", TypeError):
        un.encode(z, codebooks, check_finite=None)
    one = np.ones((6, 1), np.float32)
    with raises("moe_encode: shared_weight must be a float or an int, got str", TypeError):
        un.moe_encode(z, codebooks[None], one.astype(int), one, codebooks, "0.5")
    with raises("encode: threads must be at least 1, got 0"):
        un.encode(z, codebooks, threads=0)
    with raises("encode: threads must be an int or None, got float", TypeError):
        un.encode(z, codebooks, threads=2.0)
    for threads, message in (
        (-1, "at least 1, got -1"),
        (70_000, "at most 65536, got 70000"),
        (10**30, "a number of at most 64 bits, got one of 101"),
        (10**5000, "a number of at most 64 bits, got one of"),  # str of it raises
    ):
        with raises(f"encode: threads must be {message}"):
            un.encode(z, codebooks, threads=threads)
    with raises("encode: threads must be an int or None, got str", TypeError):
        un.encode(z, codebooks, threads="4")
    with raises("moe_encode: shared_weight must be a number of at most 64 bits"):
        un.moe_encode(z, codebooks[None], one.astype(int), one, codebooks, 10**400)


def test_no_torch_is_imported():
    code = """
import sys, numpy as np, unitok_kernels.numpy as un
z, books = np.ones((3, 2), np.float32), np.ones((1, 4, 2), np.float32)
un.decode(un.encode(z, books).codes, books)
un.moe_encode(z, books[None], np.zeros((3, 1), int), z[:, :1], books)
un.ordered_linear(z, z, z[:, 0])
print(sorted({"torch", "pyarrow", "rich", "typer"} & set(sys.modules)))
"""
    assert fresh(code) == "[]"


def test_a_missing_module_and_a_wrong_instruction_set_say_what_to_do():
    code = """
import sys
sys.modules["unitok_kernels._cpu"] = None
try:
    import unitok_kernels.numpy
except ImportError as error:
    print(error)
"""
    told = fresh(code)
    assert told.startswith("unitok_kernels.numpy: the native module must be built, got ")
    assert "apt install g++" in told
    assert "pip install" in told
    code = """
import numpy as np, unitok_kernels.numpy as un
try:
    un.encode(np.ones((3, 2), np.float32), np.ones((1, 4, 2), np.float32))
except ValueError as error:
    print(error)
"""
    assert fresh(code, UNITOK_CPU="sse").startswith("UNITOK_CPU must be one of generic")
