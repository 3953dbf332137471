"""Every shape, dtype, device and value error of the operations, each worded once.

Shape checks read no data, so they also run on fake tensors (torch.compile, torch.export). The checks that read data
are called inside the operations, where they break no graph.
"""

from __future__ import annotations

from functools import cache
from numbers import Integral, Real
from typing import NoReturn

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)

_WHOLE = (int, torch.SymInt, Integral)  # numpy's numbers are Integral or Real
_NUMBER = (float, torch.SymFloat, *_WHOLE, Real)


def fail(
    operation: str, argument: str, rule: str, got: object, step: str, error: type[Exception] = ValueError
) -> NoReturn:
    """Raise the one form of message that the library uses."""
    raise error(f"{operation}: {argument} must be {rule}, got {got}. {step}")


def tensors(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a tensor, before torch's own message for it is reached."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            step = "Convert it with torch.as_tensor."
            fail(operation, name, "a torch.Tensor", type(value).__name__, step, TypeError)


def _typed(operation: str, name: str, value: object, kinds: tuple[type, ...], rule: str) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        fail(operation, name, rule, type(value).__name__, "Convert it.", TypeError)


def whole(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a whole number, before torch's own message for it is reached."""
    for name, value in arguments.items():
        _typed(operation, name, value, _WHOLE, "an int")


def number(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a real number; a tensor is refused too, since it would lose its gradient."""
    for name, value in arguments.items():
        _typed(operation, name, value, _NUMBER, "a float or an int")


def flag(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a bool."""
    for name, value in arguments.items():
        _typed(operation, name, value, (bool,), "a bool")


def settings(
    operation: str, *, check_finite: object, backend: object, precision: object = "exact", stats: object = False
) -> None:
    """Refuse wrong types among the keywords that operations share; their values are checked where they are used."""
    _typed(operation, "check_finite", check_finite, (bool, type(None)), "a bool or None")
    _typed(operation, "backend", backend, (str, type(None)), "a str or None")
    _typed(operation, "precision", precision, (str,), "a str")
    _typed(operation, "stats", stats, (bool,), "a bool")


def floating(operation: str, name: str, value: Tensor, shape: str) -> None:
    """Check dtype and rank of a floating-point argument; `shape` reads like "(N, D)"."""
    if value.dtype not in FLOATS:
        rule = "float32, float16, bfloat16 or float64"
        fail(operation, name, rule, value.dtype, f"Convert it with {name}.float().", TypeError)
    _rank(operation, name, value, shape)


def integral(operation: str, name: str, value: Tensor, shape: str) -> None:
    """Check dtype and rank of an integer argument."""
    if value.dtype not in INTEGERS:
        fail(operation, name, "an integer tensor", value.dtype, f"Convert it with {name}.long().", TypeError)
    _rank(operation, name, value, shape)


@cache
def _rank_of(shape: str) -> int:
    return shape.count(",") + (not shape.endswith(",)"))


def _rank(operation: str, name: str, value: Tensor, shape: str) -> None:
    if value.dim() != (rank := _rank_of(shape)):
        fail(operation, name, f"of shape {shape}", tuple(value.shape), f"Reshape it to {rank} dimension(s).")


def same(operation: str, name: str, size: int, other: str, expected: int, what: str) -> None:
    """Check that a size agrees with that of another argument."""
    if size != expected:
        step = f"Check that {name} and {other} belong together."
        fail(operation, name, f"of {what} {expected}, as {other} is", size, step)


def not_empty(operation: str, name: str, value: Tensor, letters: str) -> None:
    """Check that no dimension of a codebook is 0; `letters` names them, e.g. "LKD"."""
    for letter, size in zip(letters, value.shape, strict=True):
        if size == 0:
            got = tuple(value.shape)
            fail(operation, name, f"of at least one entry in each dimension ({letter} = 0)", got, "Give it a codebook.")


def one_device(operation: str, **arguments: Tensor | None) -> None:
    """Check that all tensors live on the device of the first."""
    first = next(iter(arguments))  # never an optional one
    anchor = arguments[first]
    assert anchor is not None
    for name, value in arguments.items():
        if value is not None and value.device != anchor.device:
            step = f"Move it with {name}.to({first}.device)."
            fail(operation, name, f"on {anchor.device}, as {first} is", value.device, step)


def no_mixed_float64(operation: str, **arguments: Tensor | None) -> None:
    """Float64 is for checking gradients: either all floating inputs have it, or none."""
    wide = [n for n, v in arguments.items() if v is not None and v.dtype == torch.float64]
    if not wide:
        return
    given = {n: v for n, v in arguments.items() if v is not None}
    if len(wide) != len(given):
        narrow = next(n for n in given if n not in wide)
        got = given[narrow].dtype
        fail(operation, narrow, f"float64, as {wide[0]} is", got, "Convert both to one precision.", TypeError)


def at_least(operation: str, name: str, value: float, minimum: float, step: str) -> None:
    """Check a number against its lower limit."""
    if not value >= minimum:
        fail(operation, name, f"at least {minimum}", value, step)


def one_of(operation: str, name: str, value: object, options: tuple[str, ...]) -> None:
    """Check a named option."""
    if value not in options:
        fail(operation, name, "one of " + ", ".join(map(repr, options)), repr(value), "Pick one of them.")


def reads_data(setting: bool | None, anchor: Tensor) -> bool:
    """Resolve check_finite: on by default, except where it would cost a synchronisation."""
    return anchor.device.type != "cuda" if setting is None else setting


_REPAIR = "Remove or repair it; with check_finite=False a bad row gets the code -1."


def finite(operation: str, name: str, value: Tensor, step: str = _REPAIR) -> None:
    """Check for NaN and infinity; names the first bad row."""
    if bool(torch.isfinite(value.detach().sum(dtype=torch.float64 if value.dtype == torch.float64 else None))):
        return  # a finite sum has finite terms only; the other way round doesn't hold
    good = torch.isfinite(value.detach())
    if value.dim() > 1:
        good = good.all(-1)
    if bool(good.all()):
        return
    index = tuple((~good).nonzero()[0].tolist())
    bad = value.detach()[index].flatten()
    got = f"{bad[~torch.isfinite(bad)][0].item()} at {_place(index)}"
    fail(operation, name, "finite", got, step)


def _place(index: tuple[int, ...]) -> str:
    return f"row {index[0]}" if len(index) == 1 else f"index {index}"


_OWNER = "Check which codebook they belong to."


def in_range(operation: str, name: str, value: Tensor, limit: int, *, minimum: int = 0, step: str = _OWNER) -> None:
    """Check that integers lie in minimum .. limit - 1; names the first bad position."""
    if value.numel() == 0:
        return
    low, high = value.aminmax()
    if int(low) >= minimum and int(high) < limit:
        return
    index = tuple(((value < minimum) | (value >= limit)).nonzero()[0].tolist())
    got = f"{int(value[index])} at {_place(index)}"
    fail(operation, name, f"between {minimum} and {limit - 1}", got, step)
