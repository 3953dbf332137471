"""How Triton kernels are launched, and how launches are collected or traced instead.

Every launcher calls `launch`. So `tools.aot` can collect what a call would run on a GPU, without one: it passes fake
CUDA tensors to the launchers, and `collecting` takes their launches instead of a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton

from unitok_kernels.ops._triton.configs import Config, Target, device_target

# Products and sums are rounded separately, as in torch and in the interpreter; `tl.fma` is used where a single rounding
# is meant. Setting this also keeps Triton 3.9 from warning that its default will change to it.
OPTIONS = {"enable_fp_fusion": False}


@dataclass(frozen=True)
class Launch:
    """One launch that was requested.

    Attributes:
        kernel: the jitted function.
        grid: programs along each axis.
        arguments: tensors and numbers, in the order of the kernel's parameters.
        constants: its constexpr parameters.
        num_warps: of each program.
        num_stages: of the loops that are pipelined.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass
class _Collector:
    target: Target
    launches: list[Launch] = field(default_factory=list)


_collector: ContextVar[_Collector | None] = ContextVar("unitok_kernels.collector", default=None)
_traced: ContextVar[bool] = ContextVar("unitok_kernels.traced", default=False)


@contextmanager
def traced_launches() -> Iterator[None]:
    """Put launches into the graph that torch traces; without a trace, its tracer would cost each a millisecond."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)


class UntraceableError(Exception):
    """A call's launches can't stand in a graph, for instance since it reads values or draws: it stays one node."""


def leave_opaque() -> None:
    """Keep a call as one node of a graph that torch traces, because what follows can't stand in a graph."""
    if _traced.get():
        raise UntraceableError


@contextmanager
def collecting(target: Target) -> Iterator[list[Launch]]:
    """Collect launches for a target instead of running them."""
    collector = _Collector(target)
    token = _collector.set(collector)
    try:
        yield collector.launches
    finally:
        _collector.reset(token)


def target_of(tensor: Tensor) -> Target:
    """Tell what a launch on this tensor's device is compiled for."""
    collector = _collector.get()
    return collector.target if collector is not None else device_target(tensor.device)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, config: Config, **constants: Any) -> None:
    """Launch a kernel, or hand the launch to whoever collects launches.

    Args:
        kernel: a jitted function, with its run-time parameters before its constexpr parameters.
        grid: programs along each axis; nothing is launched if one of them is 0.
        arguments: tensors and numbers.
        config: warps and stages; the caller passes its block sizes as constants.
        constants: the constexpr parameters.
    """
    collector = _collector.get()
    if collector is not None:
        collector.launches.append(Launch(kernel, grid, arguments, constants, config.num_warps, config.num_stages))
    elif min(grid) > 0:
        warps = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        if _traced.get():  # the tracer takes fewer options
            wrap_triton(kernel)[grid](*arguments, **constants, **warps)
        else:
            with torch.cuda.device_of(next(value for value in arguments if isinstance(value, Tensor))):
                kernel[grid](*arguments, **constants, **warps, **OPTIONS)
