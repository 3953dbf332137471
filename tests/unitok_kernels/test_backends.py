"""Which backend a call gets: preference, demands that are met or raise, and reasons that name the next step."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels import backends
from unitok_kernels.backends.records import cpu as cpu_record
from unitok_kernels.backends.records import cuda as cuda_record
from unitok_kernels.ops import registry

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALL = ("reference", "cpu", "triton", "cuda")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What the environment forces is forgotten, and so is what was looked up."""
    monkeypatch.delenv("UNITOK_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    backends.forget()
    yield
    monkeypatch.undo()
    backends.forget()


@pytest.fixture
def pretend(monkeypatch) -> Callable[..., None]:
    """Make backends look built: pretend(cpu={"residual_encode"}, ...); all others but the reference are missing."""

    real = backends.operations_of

    def install(**built: set[str]) -> None:
        found = lambda name: real(name) if name == "reference" else frozenset(built.get(name, ()))  # noqa: E731
        monkeypatch.setattr(backends, "operations_of", cache(found))
        for name, record in backends.records().items():
            monkeypatch.setitem(backends.records(), name, record._replace(missing=lambda: None))
        backends.forget()

    return install


def choose(operation="residual_encode", requested=None, device=CPU, is_float64=False):
    return backends.choose(operation, requested, device, is_float64)


def test_the_reference_is_always_there():
    there = backends.available()
    assert tuple(there) == ALL
    assert there["reference"] is True
    assert all(isinstance(answer, bool) for answer in there.values())


def test_the_reference_has_every_operation():
    from unitok_kernels import ops

    assert backends.operations_of("reference") == set(ops.__all__)


def test_explain_names_each_backend_with_its_reason_and_each_device_with_its_choice(monkeypatch):
    text = backends.explain()
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert set(lines) == {*ALL, "cpu tensors", "cuda tensors"}
    for name, there in backends.available().items():
        assert lines[name].startswith("available, " if there else "not available: ")
    assert lines["cpu tensors"].endswith("reference")
    sets = backends.instruction_sets()
    assert bool(sets) == (backends.instruction_set() is not None) == backends.available()["cpu"]
    if sets:
        assert backends.instruction_set() in sets
        told = f", instruction set {backends.instruction_set()} of {', '.join(sets)} (UNITOK_CPU forces one)"
        assert lines["cpu"].endswith(told)
    monkeypatch.setenv("UNITOK_BACKEND", "triton")
    assert "cpu tensors: triton (UNITOK_BACKEND)" in backends.explain()


def test_the_order_of_preference(pretend):
    operations = {"residual_encode"}
    pretend(cpu=operations, triton=operations, cuda=operations)
    assert choose() == "cpu"
    assert choose(device=CUDA) == "cuda"
    pretend(triton=operations)
    assert choose() == "reference"  # Triton takes no CPU tensors unless it is asked to interpret
    assert choose(device=CUDA) == "triton"
    pretend()
    assert choose(device=CUDA) == choose() == choose(device=torch.device("meta")) == "reference"


def test_a_backend_without_the_operation_is_passed_over(pretend):
    pretend(cpu={"hsic"}, cuda={"hsic"}, triton={"residual_encode"})
    assert choose() == "reference"
    assert choose(device=CUDA) == "triton"
    assert choose("hsic") == "cpu"
    with raises(
        "residual_encode: backend must be able to run this call, got 'cpu': it has no kernel for this operation"
    ):
        choose(requested="cpu")


def test_float64_runs_on_the_reference_alone(pretend):
    operations = {"residual_encode"}
    pretend(cpu=operations, triton=operations, cuda=operations)
    assert choose(is_float64=True) == "reference"
    assert choose(is_float64=True, device=CUDA) == "reference"
    assert choose(is_float64=True, requested="reference") == "reference"
    for name in ("cpu", "cuda", "triton"):
        with raises(f"residual_encode: backend must be able .*, got '{name}': float64 runs on the reference alone"):
            choose(requested=name, is_float64=True)


def test_explicit_wins_over_the_environment_and_that_over_preference(pretend, monkeypatch):
    pretend(cpu={"residual_encode"})
    assert choose() == "cpu"
    monkeypatch.setenv("UNITOK_BACKEND", "reference")
    assert choose() == "reference"
    assert choose(requested="cpu") == "cpu"
    monkeypatch.setenv("UNITOK_BACKEND", "")
    assert choose() == "cpu"


def test_demands_that_cannot_be_met_raise(pretend, monkeypatch):
    pretend(cuda={"residual_encode"}, triton={"residual_encode"}, cpu={"residual_encode"})
    with raises("backend must be able .*, got 'cuda': it takes cuda tensors, not cpu. unitok_kernels.backends.explain"):
        choose(requested="cuda")
    with raises("got 'cpu': it takes cpu tensors, not cuda"):
        choose(requested="cpu", device=CUDA)
    with raises("got 'triton': it takes cuda tensors, not cpu"):
        choose(requested="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose(requested="triton") == "triton"
    monkeypatch.setenv("UNITOK_BACKEND", "cuda")
    with raises("residual_encode: UNITOK_BACKEND must be able .*, got 'cuda': it takes cuda tensors, not cpu"):
        choose()
    monkeypatch.setenv("UNITOK_BACKEND", "gpu")
    with raises("residual_encode: UNITOK_BACKEND must be one of reference, cpu, triton, cuda, got 'gpu'"):
        choose()
    with raises("residual_encode: backend must be one of reference, cpu, triton, cuda, got 'gpu'"):
        choose(requested="gpu")


def test_a_missing_backend_says_why_and_nothing_else_runs_quietly(pretend, monkeypatch):
    pretend()
    z, codebooks = normal(3, 2), normal(1, 2, 2)
    monkeypatch.setenv("UNITOK_BACKEND", "cpu")
    with raises(
        "residual_encode: UNITOK_BACKEND must be able to run this call, got 'cpu': this release has no kernels"
    ):
        uk.residual_encode(z, codebooks)
    assert uk.residual_encode(z, codebooks, backend="reference").codes.shape == (3, 1)
    monkeypatch.undo()
    pretend(cpu={"residual_encode"})
    monkeypatch.setattr(cpu_record, "MODULE", "unitok_kernels._none")
    monkeypatch.setitem(backends.records(), "cpu", cpu_record.BACKEND)
    with raises("got 'cpu': the native module unitok_kernels._none is not built"):
        uk.residual_encode(z, codebooks, backend="cpu")
    assert backends.available() == {"reference": True, "cpu": False, "triton": False, "cuda": False}


def test_what_is_not_built_comes_with_the_next_command(monkeypatch):
    monkeypatch.setattr(cpu_record, "MODULE", "unitok_kernels._none")
    assert (backends.instruction_set(), backends.instruction_sets(), backends.misnamed()) == (None, [], None)
    assert "cpu: not available: the native module unitok_kernels._none is not built (install a" in backends.explain()
    assert "`apt install g++`" in backends.explain()
    assert "`pip install " in backends.explain()


def test_a_module_that_cannot_be_loaded_says_why(monkeypatch):
    def broken(name):
        raise ImportError("GLIBCXX_3.4.32 not found")

    assert backends.records()  # before nothing can be imported
    monkeypatch.setattr(cpu_record, "MODULE", "unitok_kernels.rules")  # it is there
    monkeypatch.setattr(cpu_record.importlib, "import_module", broken)
    assert "unitok_kernels.rules can't be loaded: GLIBCXX_3.4.32 not found (" in backends.explain()


@pytest.mark.skipif(not backends.available()["cpu"], reason="the native module is not built")
def test_an_instruction_set_that_is_not_there_is_refused_and_nothing_else_runs_quietly():
    code = """
import torch, unitok_kernels as uk
for backend in (None, "cpu", "reference"):
    try:
        print(uk.residual_encode(torch.ones(3, 2), torch.ones(1, 4, 2), backend=backend).codes.shape)
    except ValueError as error:
        print(error)
print(uk.backends.available()["cpu"], uk.backends.explain())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "UNITOK_CPU": "sse"}
    )
    assert done.returncode == 0, done.stderr
    by_default, asked, reference, explained, *_ = done.stdout.splitlines()
    wrong = f"UNITOK_CPU must be one of {', '.join(backends.instruction_sets())}, got 'sse'. Leave it unset"
    assert by_default.startswith(f"residual_encode: {wrong}")
    assert f"got 'cpu': {wrong}" in asked
    assert reference == "torch.Size([3, 1])"
    assert explained.startswith("False reference: available")
    assert wrong in done.stdout.split("cpu: not available: ")[1]


def refused():
    raise RuntimeError("CUDA driver version is insufficient")


@pytest.mark.parametrize(
    ("built_for", "device", "reason"),
    [
        ([800, 900, 1200], 900, None),
        ([800, 900, 1200], 890, None),  # machine code runs on later devices of its kind
        ([800, 900], 1210, None),  # and PTX of the newest on whatever comes after it
        ([800, 900, 1200], 1000, r"for sm_80, .* Some GPU is an sm_100 \(`UNITOK_CUDA_ARCHS=100 UNITOK_CUDA=1 pip "),
        ([860], 800, r"for sm_86 and newer, and Some GPU is an sm_80 \(`UNITOK_CUDA_ARCHS=80 "),
        ([800], 750, r"is an sm_75 \(the kernels need sm_80\)"),
        ([800], None, r"CUDA driver version is insufficient \(.* install or update NVIDIA's driver\)"),
    ],
)
def test_the_cuda_module_is_used_where_a_device_runs_its_code(built_for, device, reason, monkeypatch):
    devices = refused if device is None else lambda: [("Some GPU", device)]
    module = types.SimpleNamespace(
        architectures=built_for, devices=devices, widest=128, by_warpgroups=lambda *_: device == 900, __spec__=object()
    )
    monkeypatch.setitem(sys.modules, cuda_record.MODULE, module)
    monkeypatch.delenv("UNITOK_CUDA_EMULATED", raising=False)
    assert backends.available()["cuda"] == (reason is None)
    if reason is None:
        names = ", ".join(f"sm_{a // 10}" for a in built_for)
        said = backends.explain().split("cuda: available")[1]
        assert f"residual_encode), for {names} and newer; " in said
        assert ("by wgmma on device 0 (UNITOK_WGMMA=1)" in said) == (device == 900)
        assert ("all rows by mma.sync" in said) == (device != 900)
        assert choose("residual_decode", device=CUDA) == "cuda"
        assert choose("hsic", device=CUDA) != "cuda"
    else:
        assert re.search(f"cuda: not available: its module is built.*{reason}", backends.explain())


def test_a_cuda_module_that_is_not_built_comes_with_what_builds_it(monkeypatch):
    monkeypatch.setattr(cuda_record, "MODULE", "unitok_kernels._none")
    monkeypatch.delenv("UNITOK_CUDA_EMULATED", raising=False)
    monkeypatch.setattr("unitok_kernels.nvcc.find", lambda: None)
    told = backends.explain().split("cuda: not available: ")[1]
    assert told.startswith(
        "the native module unitok_kernels._none is not built (`pip install 'cuda-toolkit[nvcc,cccl]'`"
    )
    assert backends.modules()["_cuda"] == told.splitlines()[0]


def test_the_chosen_kernels_get_the_call_in_one_form(pretend, monkeypatch):
    """A new backend sees contiguous tensors, int64 integers and no gradient, and its result is what the caller gets."""
    seen = []

    def residual_decode(codes, codebooks, check_finite):
        seen.append((codes, codebooks, check_finite, torch.is_grad_enabled()))
        return codebooks.new_full((codes.shape[0], codebooks.shape[2]), 7.0)

    pretend(cpu={"residual_decode"})
    real = backends.kernels
    fake = types.SimpleNamespace(residual_decode=residual_decode)
    chosen = lambda operation, backend: fake if backend == "cpu" else real(operation, backend)  # noqa: E731
    monkeypatch.setattr(backends, "kernels", chosen)

    codes, codebooks = torch.tensor([[1, 2], [0, 0]], dtype=torch.uint8).T, normal(2, 4, 3).mT.requires_grad_()
    found = uk.residual_decode(codes, codebooks)
    assert found.eq(7).all()
    assert found.requires_grad
    ((got_codes, got_codebooks, check_finite, grad_enabled),) = seen
    assert got_codes.dtype == torch.int64
    assert got_codes.is_contiguous()
    assert got_codebooks.is_contiguous()
    assert torch.equal(got_codebooks, codebooks)
    assert check_finite is None
    assert not grad_enabled
    assert not uk.residual_decode(codes, codebooks, backend="reference").eq(7).any()
    # The first tensor holds integers: float64 is looked for in all of them.
    assert not uk.residual_decode(codes, codebooks.double()).eq(7).any()
    assert len(seen) == 1


def test_calls_are_checked_whatever_went_well_before(monkeypatch):
    """Checks are skipped for calls like one before: the same shapes, dtypes, devices and settings, and no others."""
    monkeypatch.setattr(registry, "REMEMBERED", 2)
    codebooks = normal(2, 4, 3)
    for _ in range(2):
        for rows in range(4):
            assert uk.residual_encode(normal(rows, 3), codebooks).codes.shape == (rows, 2)
            with pytest.raises(ValueError, match="width"):
                uk.residual_encode(normal(rows, 4), codebooks)
            with pytest.raises(TypeError, match="float64"):
                uk.residual_encode(normal(rows, 3), codebooks.double())
            with pytest.raises(TypeError, match="complex64"):
                uk.residual_encode(normal(rows, 3).to(torch.complex64), codebooks)
            with pytest.raises(ValueError, match="precision"):
                uk.residual_encode(normal(rows, 3), codebooks, precision="exactly")


ROWS, BOOKS, ONE = normal(6, 3), normal(2, 4, 3, seed=1), torch.zeros(6, 1, dtype=torch.int64)
LEVELS = torch.zeros(6, 2, dtype=torch.int64)
DIFFERENTIABLE = {
    "moe_residual_encode": lambda leaf, **o: (
        uk.moe_residual_encode(ROWS, BOOKS[None] * leaf, ONE, ROWS[:, :1], BOOKS * leaf, **o).combined
    ),
    "residual_decode": lambda leaf, **o: uk.residual_decode(LEVELS, BOOKS * leaf, **o),
    "residual_loss": lambda leaf, **o: uk.residual_loss(ROWS, LEVELS, BOOKS * leaf, **o),
}


@pytest.mark.parametrize("demanded", ["reference", None])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_gradient_runs_where_its_operation_was_told_to(name, demanded, monkeypatch):
    asked, real = [], backends.choose

    def recorded(operation, requested, *rest):
        asked.append((operation, requested))
        return real(operation, requested, *rest)

    leaf = torch.ones((), requires_grad=True)
    value = DIFFERENTIABLE[name](leaf, backend=demanded).sum()
    monkeypatch.setattr(backends, "choose", recorded)
    value.backward()
    # the others make their gradient along with their value
    made_later = {name} & {"moe_residual_encode", "residual_decode"}
    assert set(asked) == {(operation, demanded) for operation in made_later}


@pytest.mark.parametrize(("installed", "interpreted", "device"), [*itertools.product([True, False], repeat=3)])
def test_triton_is_there_where_it_can_run(installed, interpreted, device, monkeypatch):
    real = backends.operations_of
    monkeypatch.setattr(backends, "operations_of", lambda name: {"hsic"} if name == "triton" else real(name))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreted)))
    assert backends.available()["triton"] == (installed and (interpreted or device))
    if installed and not (interpreted or device):
        assert "triton: not available: there is no CUDA device, and TRITON_INTERPRET=1 is not set" in backends.explain()
