"""The wording of errors, and the checks of sizes and settings that tensors (`checks`) and arrays (`arrays`) share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, NoReturn, Protocol, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

REPAIR = "Remove or repair it; with check_finite=False a bad row gets the code -1."
OWNER = "Check which codebook they belong to."

_LONGEST = 300  # of a value in a message
MOST_THREADS = 1 << 16  # far more than any machine has processors, and few enough for a C int


class Shaped(Protocol):
    """A tensor or an array."""

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


def fail(
    operation: str, argument: str, rule: str, got: object, step: str, error: type[Exception] = ValueError
) -> NoReturn:
    """Raise an error in the form that all messages of the library have; a long value is cut, on one line."""
    shown = " ".join(str(got).split())
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    raise error(f"{operation}: {argument} must be {rule}, got {shown}. {step}")


def typed(operation: str, name: str, value: object, kinds: tuple[type, ...], rule: str) -> None:
    """Refuse a setting of another type; a bool doesn't count as a number."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        fail(operation, name, rule, type(value).__name__, "Convert it.", TypeError)


def unknown(operation: str, name: str, got: object, known: Iterable[str]) -> NoReturn:
    """Refuse a keyword that there isn't, and name the one that was probably meant."""
    from difflib import get_close_matches  # only needed here

    close = get_close_matches(name, sorted(known), 1)
    step = f"Did you mean {close[0]}? " if close else ""
    fail(operation, name, f"an option of {operation}", repr(got), step + "The docs list them.", TypeError)


def names_unknown(operation: str) -> Callable[[_Function], _Function]:
    """Make a function refuse keywords that it doesn't have by `unknown`, in place of Python's message."""
    import inspect  # which takes long

    def wrap(function: _Function) -> _Function:
        known = [name for name in inspect.signature(function).parameters if name != "self"]

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            for name, value in keywords.items():
                if name not in known:
                    unknown(operation, name, value, known)
            return function(*arguments, **keywords)

        return call  # type: ignore[return-value]

    return wrap


def fits(operation: str, name: str, value: object) -> None:
    """Refuse an int of more than 64 bits: neither torch nor the native module could read it."""
    if isinstance(value, Integral) and (bits := int(value).bit_length() + 1) > 64:
        fail(operation, name, "a number of at most 64 bits", f"one of {bits}", "Pass a smaller one.")


def number(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a real number."""
    for name, value in arguments.items():
        typed(operation, name, value, (Real,), "a float or an int")  # numpy's numbers are Real
        fits(operation, name, value)


def flag(operation: str, **arguments: object) -> None:
    """Refuse anything that isn't a bool."""
    for name, value in arguments.items():
        typed(operation, name, value, (bool,), "a bool")


def threads(operation: str, value: object) -> None:
    """Refuse a number of threads that isn't a positive int or None."""
    typed(operation, "threads", value, (Integral, type(None)), "an int or None")
    if isinstance(value, Integral):
        step = "Leave it unset to use every processor."
        fits(operation, "threads", value)
        at_least(operation, "threads", int(value), 1, step)
        if int(value) > MOST_THREADS:
            fail(operation, "threads", f"at most {MOST_THREADS}", value, step)


def rank(operation: str, name: str, value: Shaped, shape: str) -> None:
    """Check the number of dimensions; `shape` looks like "(N, D)"."""
    if value.ndim != (expected := shape.count(",") + (not shape.endswith(",)"))):
        fail(operation, name, f"of shape {shape}", tuple(value.shape), f"Reshape it to {expected} dimension(s).")


def same(operation: str, name: str, size: int, other: str, expected: int, what: str) -> None:
    """Check that a size agrees with the size of another argument."""
    if size != expected:
        step = f"Check that {name} and {other} belong together."
        fail(operation, name, f"of {what} {expected}, as {other} is", size, step)


def not_empty(operation: str, name: str, value: Shaped, letters: str) -> None:
    """Check that no dimension of a codebook is 0; `letters` names the dimensions, such as "LKD"."""
    if 0 in value.shape:
        letter, got = letters[value.shape.index(0)], tuple(value.shape)
        fail(operation, name, f"of at least one entry in each dimension ({letter} = 0)", got, "Give it a codebook.")


def at_least(operation: str, name: str, value: float, minimum: float, step: str) -> None:
    """Check that a number isn't below its minimum."""
    if not value >= minimum:
        fail(operation, name, f"at least {minimum}", value, step)


def one_of(operation: str, name: str, value: object, options: tuple[str, ...]) -> None:
    """Check a named option."""
    if value not in options:
        fail(operation, name, "one of " + ", ".join(map(repr, options)), repr(value), "Pick one of them.")


def not_finite(operation: str, name: str, first: float, index: tuple[int, ...], step: str) -> NoReturn:
    """Raise for NaN or infinity; `first` is the first such value, at `index`."""
    fail(operation, name, "finite", f"{first} at {_place(index)}", step)


def out_of_range(
    operation: str, name: str, first: int, index: tuple[int, ...], minimum: int, limit: int, step: str
) -> NoReturn:
    """Raise for an integer outside minimum .. limit - 1; `first` is the first one, at `index`."""
    fail(operation, name, f"between {minimum} and {limit - 1}", f"{first} at {_place(index)}", step)


def _place(index: tuple[int, ...]) -> str:
    return f"row {index[0]}" if len(index) == 1 else f"index {index}"
