"""Autotuning, only with UNITOK_AUTOTUNE=1: tile sizes around those of the rules in `configs` are timed once and kept.

A launcher that is `tuned`, and passes its rule's Config through `changed`, is timed with each change when it first sees
a device and a bucket of shapes: the number of rows rounded up to a power of two, everything else as it is. The fastest
change is kept in $XDG_CACHE_HOME/unitok/autotune.json, or under ~/.cache. While torch traces a call or captures a CUDA
graph, the kept change is used and nothing is timed; a trace for any number of rows uses the rule. The variable is read
when a launcher is imported.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from unitok_kernels import __version__
from unitok_kernels.ops._triton.configs import Config

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Change:
    """A change of a rule's Config: factors of block sizes and warps, and a number of stages to add."""

    rows: float = 1
    columns: float = 1
    warps: float = 1
    stages: int = 0

    def of(self, config: Config) -> Config:
        """Apply the change."""
        return Config(
            max(1, int(config.block_rows * self.rows)),
            max(1, int(config.block_columns * self.columns)),
            max(1, int(config.num_warps * self.warps)),
            max(1, config.num_stages + self.stages),
        )


NONE = Change()
CHANGES = (
    NONE,
    *(Change(rows=0.5), Change(rows=2), Change(columns=0.5), Change(columns=2)),
    *(Change(warps=0.5), Change(warps=2), Change(stages=-1), Change(stages=1)),
    *(Change(rows=2, warps=2), Change(rows=0.5, columns=2)),
)

_change: ContextVar[Change] = ContextVar("unitok_kernels.change", default=NONE)


@contextmanager
def changing(change: Change) -> Iterator[None]:
    """Let `changed` apply this change."""
    token = _change.set(change)
    try:
        yield
    finally:
        _change.reset(token)


def changed(config: Config) -> Config:
    """Give a rule's Config, with the change that is being tried or was found to be fastest."""
    change = _change.get()
    return config if change == NONE else change.of(config)


def tuned(launcher: Function) -> Function:
    """Call a launcher with the change that is fastest for its device and bucket of shapes."""

    @functools.wraps(launcher)
    def call(*arguments: Any) -> Any:
        anchor = next(a for a in arguments if isinstance(a, Tensor))
        if not anchor.is_cuda or isinstance(anchor, FakeTensor) or isinstance(anchor.shape[0], torch.SymInt):
            return launcher(*arguments)  # interpreted, fake, or without a fixed size
        place, bucket = _place(anchor), _bucket(launcher.__name__, arguments)
        change = kept().get(place, {}).get(bucket)
        if change is None and _may_time(anchor):
            change = _fastest(lambda: launcher(*arguments))
            _keep(place, bucket, change)
        with changing(change or NONE):
            return launcher(*arguments)

    return call if os.environ.get("UNITOK_AUTOTUNE") == "1" else launcher  # type: ignore[return-value]


def _fastest(call: Callable[[], Any]) -> Change:
    times = {}
    for change in CHANGES:
        with changing(change):
            try:
                times[change] = _milliseconds(call)
            except Exception:  # too much shared memory, or tiles that the compiler rejects
                if change == NONE:
                    raise
    return min(times, key=times.__getitem__)


def _milliseconds(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median"))


def _may_time(anchor: Tensor) -> bool:
    return not isinstance(anchor, FunctionalTensor) and not torch.cuda.is_current_stream_capturing()


def _place(anchor: Tensor) -> str:
    import triton

    return f"{torch.cuda.get_device_name(anchor.device)}, triton {triton.__version__}, unitok {__version__}"


def _bucket(name: str, arguments: tuple[Any, ...]) -> str:
    parts = [name]
    for argument in arguments:
        if isinstance(argument, Tensor):
            rows, *others = argument.shape or (1,)
            shape = "x".join(map(str, (1 << max(int(rows) - 1, 0).bit_length(), *others)))
            parts.append(f"{shape}:{str(argument.dtype).removeprefix('torch.')}")
        elif not isinstance(argument, float):
            parts.append(str(argument))
    return " ".join(parts)


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unitok" / "autotune.json"


def _read() -> dict[str, dict[str, Change]]:
    try:
        found = json.loads(_file().read_text())
        return {place: {bucket: Change(*c) for bucket, c in buckets.items()} for place, buckets in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # missing, or not ours: timed again
        return {}


@functools.cache
def kept() -> dict[str, dict[str, Change]]:
    """Give the changes that were found to be fastest, by device and bucket: the file's, read once a process."""
    return _read()


def _keep(place: str, bucket: str, change: Change) -> None:
    """Remember a change, and add it to what other processes have written to the file meanwhile."""
    kept().setdefault(place, {})[bucket] = change
    every = _read()
    every.setdefault(place, {})[bucket] = change
    text = json.dumps({p: {b: astuple(c) for b, c in buckets.items()} for p, buckets in every.items()}, indent=1)
    with contextlib.suppress(OSError):  # if the folder can't be written to, the next process times again
        _file().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_file().parent, delete=False) as file:
            file.write(text)
        os.replace(file.name, _file())
