"""What torch's compilers see of an operation whose backend is Triton, on fake CUDA tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional
from torch._library.triton import get_triton_kernels_for_op
from triton.backends.compiler import GPUTarget

import unitok_kernels as uk
from tests.unitok_kernels.helpers.fake_cuda import fake_cuda
from unitok_kernels import backends
from unitok_kernels.ops._triton import launch
from unitok_kernels.ops._triton.configs import TARGETS
from unitok_kernels.ops.residual_encode import reference

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter's kernels have no graph")


class Driver:
    """As much of a device as torch asks for while it looks at what a kernel writes to."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU that is there for all but running a kernel."""
    for name in ("UNITOK_BACKEND", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    found = backends.records()["triton"]._replace(missing=lambda: None)
    monkeypatch.setitem(backends.records(), "triton", found)
    monkeypatch.setattr(launch, "device_target", lambda device: TARGETS["sm_90"])
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    backends.forget()
    with fake_cuda():
        yield
    monkeypatch.undo()
    backends.forget()
    torch.compiler.reset()


def rows(*shape: int, device: str = "cuda", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, device=device, dtype=dtype)


def launches(graph: torch.fx.GraphModule) -> list[tuple[str, list[str]]]:
    """The launched kernels, and which of their arguments they write to."""
    return [
        (kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__, node.kwargs["tensors_to_clone"])
        for node in graph.graph.nodes
        if node.target is triton_kernel_wrapper_functional
    ]


def operations(graph: torch.fx.GraphModule) -> list[str]:
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return [name for name in names if name.startswith("unitok_kernels")]


def encode(z: torch.Tensor, codebooks: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
    return tuple(uk.residual_encode(z, codebooks, **options))


def assert_encodes(graph: torch.fx.GraphModule) -> None:
    """Three launches stand in the graph, and all that they write to are results or their own."""
    packing, encoding, adding = (set(written) for _, written in launches(graph))
    assert packing == {"p_digits", "p_scales"}
    assert {"p_codes", "p_quantized"} <= encoding
    assert adding
    assert not {"p_z", "p_tables", "p_digits"} & (encoding | adding)
    assert operations(graph) == []


def test_a_traced_operation_shows_its_kernels_and_that_they_write_to_their_results_alone():
    graph = aot_export_joint_simple(encode, (rows(1000, 32), rows(4, 256, 32)), trace_joint=False)
    assert_encodes(graph)


def compiled(function: Callable[..., Any], *arguments: Any) -> torch.fx.GraphModule:
    """The graph that torch.compile makes of a call with any number of rows; it isn't run."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        raise NotImplementedError

    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        torch.compile(function, backend=aot_autograd(fw_compiler=keep), dynamic=True, fullgraph=True)(*arguments)
    return graphs[0]


def test_torch_compile_sees_the_kernels_and_a_grid_for_any_number_of_rows():
    graph = compiled(encode, rows(1000, 32), rows(4, 256, 32))
    assert_encodes(graph)
    nodes = [node for node in graph.graph.nodes if node.target is triton_kernel_wrapper_functional]
    ((programs, *_),) = nodes[1].kwargs["grid"]
    assert isinstance(programs, torch.fx.Node)  # worked out from the number of rows, call by call


ANY_ROWS = {
    "residual_encode": (encode, lambda: (rows(1000, 32), rows(4, 256, 32))),
    "nearest_codeword": (lambda x, c: tuple(uk.nearest_codeword(x, c)), lambda: (rows(1000, 32), rows(256, 32))),
    "sinkhorn_assign": (
        lambda x, c: uk.sinkhorn_assign(x, c, epsilon=0.1, iterations=2),
        lambda: (rows(1000, 32), rows(256, 32)),
    ),
    "hsic": (
        lambda x, z, segments: uk.hsic(x, z, segments, num_segments=3),
        lambda: (rows(1000, 64), rows(1000, 32), rows(1000, dtype=torch.int64)),
    ),
}


@pytest.mark.parametrize("name", ANY_ROWS)
def test_one_graph_serves_any_number_of_rows(name, monkeypatch):
    """But for as few as make one tile: a compiler looks for ones."""
    # what torch makes of isfinite, in a trace, sets the device
    monkeypatch.setattr("unitok_kernels.ops.hsic.triton.finite_rows", lambda x: x.abs().amax(1) < torch.inf)
    function, inputs = ANY_ROWS[name]
    graph = compiled(function, *inputs())
    given = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    sizes = [size for value in given if isinstance(value, torch.Tensor) for size in value.shape]
    rows_given = next(size.node for size in sizes if isinstance(size, torch.SymInt) and size.node.hint == 1000)
    symbol = rows_given._expr  # `expr` would be 1000, where a graph is for a thousand alone
    asked = [guard.expr for guard in rows_given.shape_env.guards if guard.expr.free_symbols == {symbol}]
    assert launches(graph)
    failing = [str(c) for c in asked if not all(c.subs(symbol, n) for n in (200, 700, 5_000, 1_000_000))]
    assert not failing


GRADIENTS = {  # autograd itself asks a CUDA tensor for its stream, which takes a torch that is built for CUDA
    "residual_decode_backward": lambda: (rows(50, 32), rows(50, 4).long(), 16),
    "moe_residual_encode_backward": lambda: (
        *(rows(50, 32), rows(3, 4, 16, 32), rows(50, 2).long(), rows(50, 2), rows(50, 2, 4).long()),
        *(rows(4, 16, 32), 0.5, rows(50, 4).long(), True),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_so_does_the_operation_of_a_gradient(name):
    operation = getattr(torch.ops.unitok_kernels, name).default
    given = GRADIENTS[name]()
    tensors = tuple(value for value in given if isinstance(value, torch.Tensor))

    def gradients(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        left = iter(tensors)
        found = operation(*(next(left) if isinstance(value, torch.Tensor) else value for value in given))
        return (found,) if isinstance(found, torch.Tensor) else found

    graph = aot_export_joint_simple(gradients, tensors, trace_joint=False)
    assert launches(graph)
    assert operations(graph) == []


@pytest.mark.parametrize(
    ("options", "place", "dtype"),
    [
        ({"backend": "reference"}, "cuda", torch.float32),
        ({}, "cpu", torch.float32),
        ({}, "cuda", torch.float64),  # which runs on the reference alone
    ],
)
def test_everything_else_stays_one_opaque_node(options, place, dtype):
    tensors = rows(1000, 32, device=place, dtype=dtype), rows(4, 256, 32, device=place, dtype=dtype)
    graph = aot_export_joint_simple(lambda *tensors: encode(*tensors, **options), tensors, trace_joint=False)
    assert launches(graph) == []
    assert operations(graph) == ["unitok_kernels.residual_encode.default"]


def test_a_call_that_a_launcher_keeps_out_of_graphs_stays_opaque(monkeypatch):
    def leave(*arguments: Any) -> Any:
        launch.leave_opaque()
        return reference.residual_encode(*arguments)

    monkeypatch.setattr(backends.kernels("residual_encode", "triton"), "residual_encode", leave)
    z, codebooks = rows(1000, 32), rows(4, 256, 32)
    assert operations(compiled(encode, z, codebooks)) == ["unitok_kernels.residual_encode.default"]
    graph = aot_export_joint_simple(encode, (z, codebooks), trace_joint=False)
    assert operations(graph) == ["unitok_kernels.residual_encode.default"]
    launch.leave_opaque()  # outside of a trace it does nothing


def test_a_call_that_reads_values_or_draws_stays_opaque():
    graph = compiled(lambda z, c: encode(z, c, check_finite=True), rows(1000, 32), rows(4, 256, 32))
    assert operations(graph) == ["unitok_kernels.residual_encode.default"]
    graph = compiled(lambda x: uk.kmeans(x, 8, iterations=2, seed=0), rows(1000, 32))
    assert operations(graph) == ["unitok_kernels.kmeans.default"]
    graph = compiled(lambda x, start: uk.kmeans(x, 8, iterations=2, seed=0, init=start), rows(1000, 32), rows(8, 32))
    assert launches(graph)


def test_no_number_made_of_a_traced_size_reaches_a_kernel_but_as_an_integer():
    """Inductor would declare an expression as an integer, whatever it stands for."""

    integers = torch.int64
    inputs = rows(1000, 32), rows(1000, 1, 4, dtype=integers), rows(2, 4, 256, 32), rows(1000, 1, dtype=integers)
    graph = compiled(torch.ops.unitok_kernels.moe_residual_loss, *inputs)
    assert launches(graph)
    nodes = [node for node in graph.graph.nodes if node.target is triton_kernel_wrapper_functional]
    given = [value for node in nodes for value in node.kwargs["kwargs"].values() if isinstance(value, torch.fx.Node)]
    assert not any(isinstance(value.meta["val"], torch.SymFloat) for value in given)


def test_what_the_environment_demands_is_looked_up_while_tracing(monkeypatch):
    monkeypatch.setenv("UNITOK_BACKEND", "reference")
    graph = aot_export_joint_simple(encode, (rows(1000, 32), rows(4, 256, 32)), trace_joint=False)
    assert operations(graph) == ["unitok_kernels.residual_encode.default"]


def test_an_exported_program_holds_the_operation_and_no_kernel():
    class Encoder(torch.nn.Module):
        def forward(self, z: torch.Tensor, codebooks: torch.Tensor) -> Any:
            return encode(z, codebooks)

    program = torch.export.export(Encoder(), (rows(1000, 32), rows(4, 256, 32)))
    assert operations(program.graph_module) == ["unitok_kernels.residual_encode.default"]


def test_arguments_that_do_not_fit_are_refused_while_tracing():
    with pytest.raises(ValueError, match="residual_encode: z must be"):
        aot_export_joint_simple(encode, (rows(1000, 31), rows(4, 256, 32)), trace_joint=False)


def test_a_graph_with_launches_is_not_kept_for_other_processes(monkeypatch):
    with pytest.raises(BypassAOTAutogradCache):
        list(get_triton_kernels_for_op("unitok_kernels::residual_encode"))
    missing = backends.records()["triton"]._replace(missing=lambda: "there is no CUDA device")
    monkeypatch.setitem(backends.records(), "triton", missing)
    backends.forget()
    assert list(get_triton_kernels_for_op("unitok_kernels::residual_encode")) == []


def test_outside_of_a_trace_a_kernel_is_launched_without_the_tracer(monkeypatch):
    seen, rows = [], torch.zeros(1)

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **options: seen.append((grid, arguments, options))

    monkeypatch.setattr(launch, "wrap_triton", lambda kernel: pytest.fail("the tracer takes a millisecond a launch"))
    launch.launch(Kernel(), (3,), rows, 7, config=launch.Config(16, 16, 4, 2), BN=16)
    launch.launch(Kernel(), (0,), rows, 7, config=launch.Config(16, 16, 4, 2), BN=16)
    assert seen == [((3,), (rows, 7), {"BN": 16, "num_warps": 4, "num_stages": 2, **launch.OPTIONS})]
