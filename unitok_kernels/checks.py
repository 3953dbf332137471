"""The checks of tensors: every shape, dtype, device and value error is worded once, here or in `rules`.

Shape checks read no data, so they also run on fake tensors (torch.compile, torch.export). The checks that read data
are called inside the operations, where they don't break a graph.
"""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from unitok_kernels.rules import (
    OWNER,
    REPAIR,
    at_least,
    fail,
    fits,
    flag,
    not_empty,
    not_finite,
    one_of,
    out_of_range,
    rank,
    same,
    typed,
)

__all__ = [
    "FLOATS",
    "INTEGERS",
    "at_least",
    "fail",
    "finite",
    "flag",
    "floating",
    "in_range",
    "integral",
    "no_mixed_float64",
    "not_empty",
    "number",
    "one_device",
    "one_of",
    "reads_data",
    "same",
    "settings",
    "tensors",
    "typed",
    "whole",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)

_WHOLE = (int, torch.SymInt, Integral)  # numpy's numbers are Integral or Real
_NUMBER = (float, torch.SymFloat, *_WHOLE, Real)


def tensors(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a tensor, before torch raises its own message."""
    if torch.compiler.is_compiling():
        return
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            step = "Convert it with torch.as_tensor."
            fail(operation, name, "a torch.Tensor", type(value).__name__, step, TypeError)


def whole(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a whole number, before torch raises its own message."""
    for name, value in arguments.items():
        typed(operation, name, value, _WHOLE, "an int")
        fits(operation, name, value)


def number(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a real number; also a tensor, since its gradient would be lost."""
    for name, value in arguments.items():
        typed(operation, name, value, _NUMBER, "a float or an int")
        fits(operation, name, value)


def settings(
    operation: str, *, check_finite: object, backend: object, precision: object = "exact", stats: object = False
) -> None:
    """Check the types of the keywords that operations share; their values are checked where they are used."""
    if torch.compiler.is_compiling():
        return
    typed(operation, "check_finite", check_finite, (bool, type(None)), "a bool or None")
    typed(operation, "backend", backend, (str, type(None)), "a str or None")
    typed(operation, "precision", precision, (str,), "a str")
    typed(operation, "stats", stats, (bool,), "a bool")


def floating(operation: str, name: str, value: Tensor, shape: str) -> None:
    """Check dtype and rank of a floating-point argument; `shape` looks like "(N, D)"."""
    if value.dtype not in FLOATS:
        rule = "float32, float16, bfloat16 or float64"
        fail(operation, name, rule, value.dtype, f"Convert it with {name}.float().", TypeError)
    rank(operation, name, value, shape)


def integral(operation: str, name: str, value: Tensor, shape: str) -> None:
    """Check dtype and rank of an integer argument."""
    if value.dtype not in INTEGERS:
        fail(operation, name, "an integer tensor", value.dtype, f"Convert it with {name}.long().", TypeError)
    rank(operation, name, value, shape)


def one_device(operation: str, **arguments: Tensor | None) -> None:
    """Check that all tensors are on the device of the first."""
    first = next(iter(arguments))  # never an optional argument
    anchor = arguments[first]
    assert anchor is not None
    device = anchor.device
    for name, value in arguments.items():
        if value is not None and value is not anchor and value.device != device:
            step = f"Move it with {name}.to({first}.device)."
            fail(operation, name, f"on {device}, as {first} is", value.device, step)


def no_mixed_float64(operation: str, **arguments: Tensor | None) -> None:
    """Check that either all floating inputs are float64 or none: it is for checking gradients."""
    for value in arguments.values():
        if value is not None and value.dtype == torch.float64:
            break
    else:
        return
    wide = [n for n, v in arguments.items() if v is not None and v.dtype == torch.float64]
    given = {n: v for n, v in arguments.items() if v is not None}
    if len(wide) != len(given):
        narrow = next(n for n in given if n not in wide)
        got = given[narrow].dtype
        fail(operation, narrow, f"float64, as {wide[0]} is", got, "Convert both to one precision.", TypeError)


def reads_data(setting: bool | None, anchor: Tensor) -> bool:
    """Resolve check_finite: on by default, except on CUDA, where it would synchronise."""
    return anchor.device.type != "cuda" if setting is None else setting


def finite(operation: str, name: str, value: Tensor, step: str = REPAIR) -> None:
    """Check for NaN and infinity; the message names the first bad row."""
    if bool(torch.isfinite(value.detach().sum(dtype=torch.float64 if value.dtype == torch.float64 else None))):
        return  # a finite sum has finite terms; an infinite one may have, too, so it needs a closer look
    good = torch.isfinite(value.detach())
    if value.dim() > 1:
        good = good.all(-1)
    if bool(good.all()):
        return
    index = tuple((~good).nonzero()[0].tolist())
    bad = value.detach()[index].flatten()
    not_finite(operation, name, bad[~torch.isfinite(bad)][0].item(), index, step)


def in_range(operation: str, name: str, value: Tensor, limit: int, *, minimum: int = 0, step: str = OWNER) -> None:
    """Check that integers lie in minimum .. limit - 1; the message names the first bad position."""
    if value.numel() == 0:
        return
    low, high = value.aminmax()
    if int(low) >= minimum and int(high) < limit:
        return
    index = tuple(((value < minimum) | (value >= limit)).nonzero()[0].tolist())
    out_of_range(operation, name, int(value[index]), index, minimum, limit, step)
