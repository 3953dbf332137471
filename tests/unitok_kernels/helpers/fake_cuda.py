"""Fake CUDA tensors on any build of torch, and what makes the host wait for their device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READERS = {
    aten._local_scalar_dense,  # .item(), int(), float(), bool(), if
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.equal,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # a mask in them is made a list of rows
MASKS = (torch.bool, torch.uint8)
COPIES = {aten._to_copy, aten.copy_, aten.copy}


class SynchronisedError(AssertionError):
    """The host would wait for the device."""


class NoSynchronisation(TorchDispatchMode):
    """Refuse what makes the host wait: values that are read, shapes that depend on them, copies that block."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_cuda for tensor in tensors):
            if packet in READERS:
                raise SynchronisedError(f"{func} reads values")
            if packet in INDEXED and any(i is not None and i.dtype in MASKS for i in args[1]):
                raise SynchronisedError(f"{func} counts a mask")
            if packet is aten.repeat_interleave and kwargs.get("output_size") is None:
                raise SynchronisedError(f"{func} counts its rows")
        result = func(*args, **kwargs)
        if packet in COPIES:
            source = tensors[0] if packet is aten._to_copy else tensors[1]
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if source.device.type != result.device.type and (waits or not result.is_cuda):
                raise SynchronisedError(f"{func} copies from {source.device} to {result.device}")
        return result


class _AnyBuild(TorchFunctionMode):
    """Take another way where a method sets the current device before it dispatches: torch built without CUDA can't."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support" not in str(error):
                raise
        name = func.__name__
        if name in ("__getitem__", "__setitem__"):
            return _indexed(*args)
        if name in ("__int__", "__float__", "__bool__", "__index__"):
            return aten._local_scalar_dense(*args)
        if name == "to":
            return aten._to_copy(args[0], device=torch.device(args[1]), **kwargs)
        return getattr(aten, name)(*args, **kwargs)


def _indexed(x: Tensor, index: Any, *value: Any) -> Any:
    """x[index], or x[index] = value, by what Python's indexing dispatches to."""
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, Tensor) for i in index):
        places = [None if i == slice(None) else i for i in index]
        return (
            aten.index_put_(x, places, *(torch.as_tensor(v, device=x.device) for v in value))
            if value
            else aten.index(x, places)
        )
    if Ellipsis in index:
        place = index.index(Ellipsis)
        missing = x.dim() - sum(i is not None for i in index) + 1
        index = (*index[:place], *[slice(None)] * missing, *index[place + 1 :])
    dim, part = 0, x
    for i in index:
        if isinstance(i, slice):
            part = aten.slice(part, dim, i.start, i.stop, i.step or 1)
        else:
            part = aten.unsqueeze(part, dim) if i is None else aten.select(part, dim, i)
        dim += not isinstance(i, int)
    return part.copy_(torch.as_tensor(value[0], device=x.device)) if value else part


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let device="cuda" give tensors that have all but values."""
    with FakeTensorMode(), _AnyBuild():
        yield
