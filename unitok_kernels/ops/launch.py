"""How Triton kernels are launched, and who else may want to see a launch.

Every launcher calls `launch`. So `unitok_kernels.aot` can collect what a call would run on a GPU, without one: it hands
fake CUDA tensors to the launchers, and `collecting` takes their launches instead of a device.
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

from unitok_kernels.ops.configs import Config, Target, device_target

# A product and a sum are each rounded, as in torch and in the interpreter; `tl.fma` is for where one rounding is meant.
# Saying so also keeps Triton 3.9 from warning that its default will change to this.
OPTIONS = {"enable_fp_fusion": False}


@dataclass(frozen=True)
class Launch:
    """One launch that was asked for.

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
    """Put launches into the graph that torch traces; elsewhere its tracer would cost each of them a millisecond."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)


class UntraceableError(Exception):
    """A call can't stand in a graph as its launches, such as where it reads values or draws: it stays one node."""


def leave_opaque() -> None:
    """Keep a call out of the graph that torch traces, for what follows can't stand in one."""
    if _traced.get():
        raise UntraceableError


@contextmanager
def collecting(target: Target) -> Iterator[list[Launch]]:
    """Collect launches for a target, and run none of them."""
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
    """Launch a kernel, or hand the launch to who collects them.

    Args:
        kernel: a jitted function: its run-time parameters first, its constexpr parameters after them.
        grid: programs along each axis; none are launched where one of them is 0.
        arguments: tensors and numbers.
        config: warps and stages; its block sizes are the caller's to pass on as constants.
        constants: the constexpr parameters.
    """
    collector = _collector.get()
    if collector is not None:
        collector.launches.append(Launch(kernel, grid, arguments, constants, config.num_warps, config.num_stages))
    elif min(grid) > 0:
        warps = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        if _traced.get():  # whose list of options a kernel may have is shorter
            wrap_triton(kernel)[grid](*arguments, **constants, **warps)
        else:
            with torch.cuda.device_of(next(value for value in arguments if isinstance(value, Tensor))):
                kernel[grid](*arguments, **constants, **warps, **OPTIONS)
