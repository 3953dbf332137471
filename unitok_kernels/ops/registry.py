"""How an operation is put before torch: schema, checks, dispatch, fake kernel, autograd.

`torch.library.Library` is used rather than `custom_op` because a call through it costs 6.6 microseconds instead of 16.

torch.compile sees an operation as one opaque node, but for CUDA tensors on the backend "triton": there its launches
stand in the graph, as those of a `torch.library.triton_op` do. The backend is then the one chosen while compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._library import triton as torch_triton
from torch._subclasses.functional_tensor import FunctionalTensorMode

from unitok_kernels import backends
from unitok_kernels.ops.launch import UntraceableError, traced_launches

_LIBRARY = torch.library.Library("unitok_kernels", "DEF")
_READY = (torch.float32, torch.int64, torch.float16, torch.bfloat16, torch.float64)  # what kernels take as it is
_REMEMBERED = 4096  # most kinds of calls whose checks aren't made again


class _Uncached(list[Any]):
    """Stands where torch looks up an operation's kernels, which the key of its cache of traced graphs is made of.

    That key would know neither a launcher nor the backend that was chosen. So where launches may stand in a graph, the
    graph isn't kept for other processes; what is compiled from it still is.
    """

    def __iter__(self) -> Iterator[Any]:
        if backends.available()["triton"]:
            from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache

            raise BypassAOTAutogradCache("UniTok's operations are traced into Triton kernels")
        return super().__iter__()


_UNCACHED = _Uncached()
# Not public: a torch without it looks up kernels somewhere else, or caches no such graph.
_KERNELS_OF: dict[str, list[Any]] = getattr(torch_triton, "triton_ops_to_kernels", {})


def define(
    name: str,
    schema: str,
    *,
    check: Callable[..., None],
    fake: Callable[..., Any],
    folder: str | None = None,
    takes_float64: bool = False,
    sized_by_backend: bool = False,
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define `torch.ops.unitok_kernels.<name>`, whose last schema argument is `str? backend`.

    Args:
        name: the operation's name.
        schema: its arguments and returns in torch's schema language, without the name.
        check: raises for arguments that don't fit; reads shapes, dtypes and devices only.
        fake: builds the outputs' shapes; called with the arguments, backend left out.
        folder: folder under `ops/` that holds the kernels, where it isn't `name`.
        takes_float64: its kernels do; otherwise float64 runs on the reference alone.
        sized_by_backend: its outputs' shapes are; `fake` is called with the chosen one, too.
        setup: keeps what `backward` needs; see `torch.library.register_autograd`.
        backward: the gradient; without it no output requires one, whatever the inputs do.

    Returns:
        Callable: the operation's default overload.
    """
    home = folder or name
    accepted: set[tuple[Any, ...]] = set()

    def run(*arguments: Any, **keywords: Any) -> Any:
        *given, backend = _positional(arguments, keywords) if keywords else (*arguments, *defaults[len(arguments) :])
        signature = [*given]
        is_float64 = traced = raw = False
        for place in tensors:
            if (value := given[place]) is not None:
                signature[place] = (value.shape, value.dtype, value.device)
                is_float64 = is_float64 or value.dtype == torch.float64
                traced = traced or value.requires_grad
                raw = raw or value.dtype not in _READY or not value.is_contiguous()
        if (seen := tuple(signature)) not in accepted:
            check(*given)
            if len(accepted) == _REMEMBERED:
                accepted.clear()
            accepted.add(seen)
        if raw:
            given = [_plain(value) if isinstance(value, Tensor) else value for value in given]
        chosen = backends.choose(home, backend, given[tensors[0]].device, is_float64 and not takes_float64)
        kernel = getattr(backends.kernels(home, chosen), name)
        if packed and chosen != "cuda":
            del given[-packed:]
        if not traced:
            return kernel(*given)
        with torch.no_grad():  # a gradient is what `backward` gives, never a trace through a kernel
            return kernel(*given)

    def run_fake(*arguments: Any, **keywords: Any) -> Any:
        *given, backend = _positional(arguments, keywords)
        check(*given)
        return fake(*given, choice(given, backend)) if sized_by_backend else fake(*given)

    def run_traced(mode: Any, operation: Any, types: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        *given, backend = _positional(arguments, keywords)
        is_cuda = given[tensors[0]].device.type == "cuda"
        decomposes = is_cuda and torch._functorch.config.decompose_custom_triton_ops  # export doesn't
        decomposes = decomposes and True not in [given[place] for place in reads]  # a value that is read ends a trace
        if not decomposes or choice(given, backend) != "triton":
            return mode.__torch_dispatch__(operation, types, arguments, keywords)
        check(*given)
        given = given[: len(given) - packed]
        try:
            with mode, traced_launches():
                given = [_plain(value) if isinstance(value, Tensor) else value for value in given]
                return getattr(backends.kernels(home, "triton"), name)(*given)
        except UntraceableError:
            return mode.__torch_dispatch__(operation, types, arguments, keywords)

    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    operation = getattr(torch.ops.unitok_kernels, name).default
    declared = operation._schema.arguments
    defaults = tuple(a.default_value for a in declared)  # None for an argument that has none
    tensors = [place for place, a in enumerate(declared) if "Tensor" in str(a.type)]
    reads = [place for place, a in enumerate(declared) if a.name == "check_finite"]
    packed = sum(a.name.startswith("packed") for a in declared)  # the last ones, for the backend that packs

    def choice(given: list[Any], backend: str | None) -> str:
        is_float64 = any(given[place] is not None and given[place].dtype == torch.float64 for place in tensors)
        return backends.choose(home, backend, given[tensors[0]].device, is_float64 and not takes_float64)

    def _positional(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
        return [*arguments, *(keywords.get(a.name, a.default_value) for a in declared[len(arguments) :])]

    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unitok_kernels::{name}", run_fake, lib=_LIBRARY)
    torch.library.register_torch_dispatch(f"unitok_kernels::{name}", FunctionalTensorMode, run_traced, lib=_LIBRARY)
    _KERNELS_OF[f"unitok_kernels::{name}"] = _UNCACHED
    if backward is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        torch.library.register_autograd(f"unitok_kernels::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return operation


def _plain(x: Tensor) -> Tensor:
    """What every backend gets: contiguous tensors, and int64 for integers (uint8 would wrap beside K = 256)."""
    x = x if x.is_floating_point() else x.long()
    return x if x.is_contiguous() else x.contiguous()
