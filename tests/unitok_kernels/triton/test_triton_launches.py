"""No launcher of the Triton backend waits for the device, on fake CUDA tensors: there is nothing to read from them.

Every launcher in an `ops/*/triton.py` is called as the dispatcher would call it, in the ways that a table of arguments
lists. An operation that isn't in it fails.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

pytest.importorskip("triton")

import unitok_kernels as uk
from tests.unitok_kernels.helpers.fake_cuda import NoSynchronisation, SynchronisedError, fake_cuda
from unitok_kernels import ops
from unitok_kernels.ops._triton import launch
from unitok_kernels.ops._triton.configs import TARGETS
from unitok_kernels.ops._triton.launch import Launch, collecting


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, device="cuda", dtype=dtype)


def integers(*shape: int) -> Tensor:
    return rows(*shape, dtype=torch.int64)


Z, BOOK, BOOKS, EXPERTS = (32,), (256, 32), (4, 256, 32), (8, 4, 256, 32)


def routed(n: int, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codebooks, the experts of each row and their weights."""
    return rows(*EXPERTS), integers(n, slots), rows(n, slots)


# By operation: the arguments of its launcher for N rows, in one or more ways.
ARGUMENTS: dict[str, list[Callable[[int], tuple[Any, ...]]]] = {
    "codeword_statistics": [
        lambda n: (rows(n, 32), integers(n), 256, None),
        lambda n: (rows(n, 20, dtype=torch.bfloat16), integers(n), 100, False),
    ],
    "hsic": [
        lambda n: (rows(n, 384), rows(n, 32), integers(n), 8, None, False, True, None),
        lambda n: (rows(n, 384), rows(n, 32), integers(n), 8, 1.5, False, False, None),
        lambda n: (rows(n, 100, dtype=torch.float16), rows(n, 20), integers(n), 3, None, True, True, None),
        lambda n: (rows(n, 384), rows(n, 32), integers(n), 8, 1.5, True, False, None),
    ],
    "kmeans": [
        lambda n: (rows(n, 32), 64, 5, 0, "k-means++", None, False, None),
        lambda n: (rows(n, 32), 64, 5, 0, "random", None, False, None),
        lambda n: (rows(n, 32, dtype=torch.float16), 64, 5, 0, "tensor", rows(64, 32), False, None),
        lambda n: (rows(n, 768), 64, 2, 0, "k-means++", None, False, None),
        lambda n: (rows(n, 32), 64, 2, 0, "tensor", rows(64, 32), True, None),
    ],
    "moe_residual_encode": [
        lambda n: (rows(n, *Z), *routed(n, 1), None, 1.0, "exact", None, False),
        lambda n: (rows(n, *Z), *routed(n, 2), rows(*BOOKS), 0.5, "fast", None, True),
        lambda n: (rows(n, 768), rows(8, 4, 100, 768), *routed(n, 2)[1:], rows(3, 50, 768), 0.5, "exact", None, True),
    ],
    "moe_residual_encode_backward": [
        lambda n: (rows(n, *Z), *routed(n, 1), integers(n, 1, 4), None, 1.0, integers(n, 0), True),
        lambda n: (rows(n, *Z), *routed(n, 2), integers(n, 2, 4), rows(*BOOKS), 0.5, integers(n, 4), True),
        lambda n: (rows(n, *Z), *routed(n, 2), integers(n, 2, 4), rows(*BOOKS), 0.5, integers(n, 4), False),
    ],
    "moe_residual_loss": [
        lambda n: (rows(n, *Z), integers(n, 2, 4), rows(*EXPERTS), integers(n, 2), 1.0, 0.25, None, True),
        lambda n: (rows(n, *Z), integers(n, 1, 4), rows(*EXPERTS), integers(n, 1), 1.0, 0.25, None, False),
    ],
    "nearest_codeword": [
        lambda n: (rows(n, *Z), rows(*BOOK), "exact", None, True),
        lambda n: (rows(n, 128, dtype=torch.bfloat16), rows(1024, 128), "fast", False, False),
        lambda n: (rows(n, 768, dtype=torch.bfloat16), rows(1024, 768), "exact", None, True),
    ],
    "ordered_linear": [
        lambda n: (rows(n, 384), rows(64, 384), rows(64), False),
        lambda n: (rows(n, 64, dtype=torch.float64), rows(32, 64), rows(32), True),
    ],
    "pack_codebooks": [],  # each search packs its own
    "residual_decode": [lambda n: (integers(n, 4), rows(*BOOKS), None)],
    "residual_decode_backward": [lambda n: (rows(n, *Z), integers(n, 4), 256)],
    "residual_encode": [
        lambda n: (rows(n, *Z), rows(*BOOKS), "exact", None, False),
        lambda n: (rows(n, 20, dtype=torch.float16), rows(3, 100, 20), "fast", False, True),
        lambda n: (rows(n, 1000, dtype=torch.float16), rows(3, 100, 1000), "exact", None, False),
    ],
    "residual_loss": [lambda n: (rows(n, *Z), integers(n, 4), rows(*BOOKS), 1.0, 0.25, None, True)],
    "residual_straight_through": [
        lambda n: (rows(n, *Z), integers(n, 4), rows(*BOOKS), "rotation", False, True),
        lambda n: (rows(n, *Z), integers(n, 4), rows(*BOOKS), "straight", True, False),
    ],
    "residual_straight_through_backward": [
        lambda n: (rows(n, *Z), rows(4), rows(n, *Z), integers(n, 4), rows(*BOOKS), "rotation", False, False),
        lambda n: (rows(n, *Z), rows(4), rows(n, *Z), integers(n, 4), rows(*BOOKS), "none", True, True),
    ],
    "sinkhorn_assign": [lambda n: (rows(n, *Z), rows(*BOOK), 0.05, 5, None)],
}


@cache
def operations() -> set[str]:
    """What the package has defined for torch, gradients included."""
    for name in ops.__all__:
        importlib.import_module(f"unitok_kernels.ops.{name}.op")
    names = torch._C._dispatch_get_all_op_names()
    return {name.split("::")[1].split(".")[0] for name in names if name.startswith("unitok_kernels::")}


@cache
def launchers() -> dict[str, Callable[..., Any]]:
    """The functions of the backend's files that the dispatcher calls, by the operation that they are named after."""
    found = {}
    for path in sorted(Path(ops.__file__).parent.glob("*/triton.py")):
        module = importlib.import_module(f"unitok_kernels.ops.{path.parent.name}.triton")
        functions = dict(inspect.getmembers(module, inspect.isfunction))
        found |= {name: f for name, f in functions.items() if f.__module__ == module.__name__ and name in operations()}
    return found


def launched(name: str, way: int, count: int, target: str = "sm_90") -> tuple[Any, list[Launch]]:
    """The results and the launches of a launcher's call, none of which ran."""
    launcher, arguments = launchers()[name], ARGUMENTS[name][way]
    with fake_cuda(), collecting(TARGETS[target]) as launches:
        given = arguments(count)
        with NoSynchronisation():
            return launcher(*given), launches


def of_launchers(function: Callable[..., Any]) -> Any:
    ways = [(name, way) for name in launchers() for way in range(len(ARGUMENTS[name]))]
    return pytest.mark.parametrize(("name", "way"), ways)(function)


def outside(one: Launch) -> tuple[Any, ...]:
    """What of a launch may not change with the number of rows."""
    return one.kernel, len(one.grid), one.constants.keys(), len(one.arguments)


def test_there_are_launchers():
    assert {"nearest_codeword", "residual_encode"} <= launchers().keys()


@of_launchers
def test_a_launcher_neither_waits_for_the_device_nor_launches_more_for_more_rows(name, way):
    _, few = launched(name, way, 1_000)
    _, many = launched(name, way, 300_000)
    _, elsewhere = launched(name, way, 1_000, "gfx942")
    assert few
    assert [outside(one) for one in few] == [outside(one) for one in many]
    assert len(elsewhere) == len(few)


@pytest.mark.parametrize("width", [32, 600])
def test_no_launcher_makes_more_launches_for_more_levels(width):
    with fake_cuda(), collecting(TARGETS["sm_90"]) as launches:
        counts = []
        for levels in (2, 8):
            z, books, ids, weights = rows(50, width), rows(3, levels, 64, width), integers(50, 2), rows(50, 2)
            codes, pairs = integers(50, levels), integers(50, 2, levels)
            before = len(launches)
            launchers()["residual_encode"](z, books[0], "exact", None, False)
            launchers()["moe_residual_encode"](z, books, ids, weights, books[0], 1.0, "exact", None, False)
            launchers()["residual_decode_backward"](z, codes, 64)
            launchers()["moe_residual_encode_backward"](z, books, ids, weights, pairs, books[0], 1.0, codes, True)
            counts.append(len(launches) - before)
    assert counts[0] == counts[1] > 0


@of_launchers
def test_its_results_are_what_torch_was_told(name, way):
    found, _ = launched(name, way, 1_000)
    with fake_cuda():
        told = getattr(torch.ops.unitok_kernels, name).default(*ARGUMENTS[name][way](1_000))
    described = [
        [(t.shape, t.dtype, t.stride(), t.device) for t in pytree.tree_leaves(result)] for result in (found, told)
    ]
    assert described[0] == described[1]


def test_every_operation_of_the_package_is_in_the_table():
    """Also those that have no launcher yet, so that one is tested from its first day on."""
    assert operations() == ARGUMENTS.keys()


def assigned(x: Tensor) -> None:
    x[x > 0] = 1.0


PLANTED = {
    ".item()": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x.long().max()),
    "if": lambda x: 1 if x.any() else 0,
    ".tolist()": lambda x: x.tolist(),
    ".cpu()": lambda x: x.cpu(),
    ".to": lambda x: x.to("cpu", non_blocking=True),
    "copy_": lambda x: torch.empty(10, 4).copy_(x),
    "torch.tensor": lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]).to(x.device),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask": lambda x: x[x[:, 0] > 0],
    "mask assigned to": assigned,
    "unique": lambda x: x.unique(),
    "unique rows": lambda x: x.unique(dim=0),
    "unique_consecutive": lambda x: x.unique_consecutive(),
    "bincount": lambda x: x[:, 0].long().bincount(minlength=4),
    "repeat_interleave": lambda x: x.repeat_interleave(x[:, 0].long(), dim=0),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_waits_is_caught(name):
    with fake_cuda():
        x = rows(10, 4)
        with NoSynchronisation(), pytest.raises(SynchronisedError):
            PLANTED[name](x)


@pytest.mark.parametrize("planted", [".item()", ".tolist()", ".cpu()", "nonzero"])
@pytest.mark.parametrize("name", [name for name in launchers() if ARGUMENTS[name]])
def test_what_waits_is_caught_beside_a_launch_of_any_launcher(name, planted, monkeypatch):
    def wait(kernel: Any, grid: Any, arguments: tuple[Any, ...], *_: Any) -> None:
        PLANTED[planted](next(value for value in arguments if isinstance(value, Tensor)))

    monkeypatch.setattr(launch, "Launch", wait)
    with pytest.raises(SynchronisedError):
        launched(name, 0, 50)


def test_what_does_not_wait_is_let_through():
    with fake_cuda():
        x = rows(10, 4)
        index = integers(5)
        with NoSynchronisation():
            x[index] = x[index] + torch.where(x[index] > 0, 1.0, 0.0)
            x.sort(dim=0, stable=True)
            x.repeat_interleave(index[:1], dim=0, output_size=3)
            torch.empty(3).to("cuda", non_blocking=True)
            x.to(torch.bfloat16)


class Context(SimpleNamespace):
    """What autograd hands to the two halves of a gradient."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass


GRADIENTS = {  # the operation, by the module of its gradient
    "hsic": "hsic",
    "moe_residual_encode": "moe_residual_encode",
    "residual_decode": "residual_decode",
    "residual_loss": "moe_residual_loss",
    "residual_straight_through": "residual_straight_through",
}


def test_nor_do_gradients_around_the_launchers():
    """By hand: autograd itself would ask for a driver."""
    modules = {name: importlib.import_module(f"unitok_kernels.ops.{name}.op") for name in ops.__all__}
    assert {name for name, module in modules.items() if hasattr(module, "backward")} == GRADIENTS.keys()
    for home, name in GRADIENTS.items():
        operation = getattr(torch.ops.unitok_kernels, name).default
        with fake_cuda():
            given = ARGUMENTS[name][0](50)
            rest = [argument.default_value for argument in operation._schema.arguments[len(given) :]]
            output = operation(*given)
            outputs = output if isinstance(output, tuple) else (output,)
            context = Context(needs_input_grad=[True] * (len(given) + len(rest)))
            with NoSynchronisation():
                modules[home].setup(context, (*given, *rest), output)
                found = modules[home].backward(context, *map(torch.empty_like, outputs))
        assert len(found) == len(given) + len(rest)
        assert any(gradient is not None for gradient in found)


def test_nor_do_the_operations_around_the_launchers():
    with fake_cuda():
        z, books, experts, shared = rows(50, 32), rows(4, 16, 32), rows(3, 4, 16, 32), rows(4, 16, 32)
        ids, weights = integers(50, 2), rows(50, 2)
        with NoSynchronisation():
            codes = uk.residual_encode(z, books).codes
            uk.nearest_codeword(z, books[0])
            uk.residual_decode(codes, books)
            uk.codeword_statistics(z, codes[:, 0], 16)
            uk.kmeans(z, 4, iterations=2, seed=0)
            uk.kmeans(z, 4, iterations=2, seed=0, balanced=True)
            uk.sinkhorn_assign(z, books[0], epsilon=0.1, iterations=2)
            uk.hsic(z, z, ids[:, 0], num_segments=3, normalised=True)
            found = uk.moe_residual_encode(z, experts, ids, weights, shared)
            uk.moe_residual_loss(z, found.codes, experts, ids)
            uk.residual_loss(z, codes, books)
