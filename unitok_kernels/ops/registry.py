"""Registers an operation with torch: schema, checks, dispatch, fake kernel, autograd.

`torch.library.Library` is used rather than `custom_op` because a call through it costs 6.6 microseconds instead of 16.

torch.compile sees an operation as one opaque node, except on a backend whose launches can stand in the graph: there
they do, as those of a `torch.library.triton_op` would. The backend is then the one chosen while compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._library import triton as torch_triton
from torch._subclasses.functional_tensor import FunctionalTensorMode

from unitok_kernels import backends
from unitok_kernels.ops._triton.launch import UntraceableError, traced_launches
from unitok_kernels.rules import fail

_LIBRARY = torch.library.Library("unitok_kernels", "DEF")
_READY = (torch.float32, torch.int64, torch.float16, torch.bfloat16, torch.float64)  # what kernels take as they are
# Operations in plain torch, by name: an ONNX model can't hold ours. `unitok_kernels.nn` fills it.
PLAIN: dict[str, Callable[..., Any]] = {}
REMEMBERED = 4096  # how many kinds of calls are remembered, whose checks aren't repeated


class _Uncached(list[Any]):
    """Stands where torch looks up an operation's kernels, from which it makes the key of its cache of traced graphs.

    That key would cover neither a launcher nor the backend that was chosen. So where launches may stand in a graph, the
    graph isn't kept for other processes; what is compiled from it still is.
    """

    def __iter__(self) -> Iterator[Any]:
        if any(there and backends.records()[name].joins_graphs for name, there in backends.available().items()):
            from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache

            raise BypassAOTAutogradCache("UniTok's operations are traced into their launches")
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
        fake: builds outputs of the right shapes; called with the arguments, without the backend.
        folder: folder under `ops/` that holds the kernels, if it isn't `name`.
        takes_float64: whether all its kernels take float64; otherwise only backends that take float64 get it.
        sized_by_backend: whether the outputs' shapes depend on the backend; `fake` then gets the chosen one, too.
        setup: keeps what `backward` needs; see `torch.library.register_autograd`.
        backward: the gradient; without it no output requires a gradient, whatever the inputs do.

    Returns:
        Callable: calls the operation's default overload.
    """
    home, call = folder or name, name.removesuffix("_backward")
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
            if len(accepted) == REMEMBERED:
                accepted.clear()
            accepted.add(seen)
        if raw:
            given = [_plain(value) if isinstance(value, Tensor) else value for value in given]
        chosen = backends.choose(home, backend, given[tensors[0]].device, is_float64 and not takes_float64, call)
        kernel = getattr(backends.kernels(home, chosen), name)
        if packed and not backends.records()[chosen].reads_packed:
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
        if torch.onnx.is_in_onnx_export():  # torch.onnx.export(dynamo=True)
            with mode:
                return plain()(*given)
        decomposes = torch._functorch.config.decompose_custom_triton_ops  # export doesn't
        decomposes = decomposes and True not in [given[place] for place in reads]  # reading a value would end the trace
        chosen = traceable(given, backend) if decomposes else None
        if chosen is None:
            return mode.__torch_dispatch__(operation, types, arguments, keywords)
        check(*given)
        given = given[: len(given) - packed]
        try:
            with mode, traced_launches():
                given = [_plain(value) if isinstance(value, Tensor) else value for value in given]
                return getattr(backends.kernels(home, chosen), name)(*given)
        except UntraceableError:
            return mode.__torch_dispatch__(operation, types, arguments, keywords)

    def run_vmapped(info: Any, places: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """Run a call for each entry of the batch: each has statistics and checks of its own."""
        if info.batch_size == 0:
            fail(call, "the vmapped dimension", "of size 1 at least", 0, "Leave such a call out.")
        single = [
            operation(*(x if d is None else x.select(d, i) for x, d in zip(arguments, places, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(single[0], Tensor):
            return torch.stack(single), 0
        outputs = tuple(map(torch.stack, zip(*single, strict=True)))
        return outputs, (0,) * len(outputs)

    def call_operation(*arguments: Any) -> Any:
        # dynamo=False
        if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():  # type: ignore[attr-defined]
            return plain()(*arguments[:-1])
        return operation(*arguments)

    def plain() -> Callable[..., Any]:
        """The operation as ONNX has it; see `unitok_kernels.nn.to_onnx`."""
        if name not in PLAIN:
            rule = "among those of unitok_kernels.nn.decompositions()"
            fail(
                call,
                "what is exported to ONNX",
                rule,
                name,
                "Export the rest of the model; see unitok_kernels.nn.to_onnx.",
            )
        return PLAIN[name]

    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    operation = getattr(torch.ops.unitok_kernels, name).default
    declared = operation._schema.arguments
    defaults = tuple(a.default_value for a in declared)  # None for an argument that has none
    tensors = [place for place, a in enumerate(declared) if "Tensor" in str(a.type)]
    reads = [place for place, a in enumerate(declared) if a.name == "check_finite"]
    packed = sum(a.name.startswith("packed") for a in declared)  # the last ones, for backends that read them

    def choice(given: list[Any], backend: str | None) -> str:
        is_float64 = any(given[place] is not None and given[place].dtype == torch.float64 for place in tensors)
        return backends.choose(home, backend, given[tensors[0]].device, is_float64 and not takes_float64, call)

    def traceable(given: list[Any], backend: str | None) -> str | None:
        """The chosen backend, if its launches can stand in a graph for such tensors."""
        device_type = given[tensors[0]].device.type
        if not any(r.joins_graphs and r.serves(device_type) for r in backends.records().values()):
            return None  # without choosing: a demand that can't be met is refused by the call
        chosen = choice(given, backend)
        return chosen if backends.records()[chosen].joins_graphs else None

    def _positional(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
        return [*arguments, *(keywords.get(a.name, a.default_value) for a in declared[len(arguments) :])]

    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unitok_kernels::{name}", run_fake, lib=_LIBRARY)
    torch.library.register_vmap(f"unitok_kernels::{name}", run_vmapped, lib=_LIBRARY)
    torch.library.register_torch_dispatch(f"unitok_kernels::{name}", FunctionalTensorMode, run_traced, lib=_LIBRARY)
    _KERNELS_OF[f"unitok_kernels::{name}"] = _UNCACHED
    if backward is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        torch.library.register_autograd(f"unitok_kernels::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return call_operation


def _plain(x: Tensor) -> Tensor:
    """What every backend gets: contiguous tensors, and int64 for integers (with K = 256, uint8 would overflow)."""
    x = x if x.is_floating_point() else x.long()
    return x if x.is_contiguous() else x.contiguous()
