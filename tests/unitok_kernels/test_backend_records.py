"""What a record and its files promise: a backend is named nowhere else, and what is added is found."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import unitok_kernels as uk
from unitok_kernels import backends, ops
from unitok_kernels.ops.ordered_linear import ordered_linear
from unitok_kernels.ops.residual_straight_through import residual_straight_through

ROOT = Path(uk.__file__).resolve().parents[1]
OPS = ROOT / "unitok_kernels" / "ops"
RECORDS = ROOT / "unitok_kernels" / "backends" / "records"
NAMES = tuple(backends.records())
SOURCES = [
    path
    for package in ("unitok", "unitok_kernels")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ROOT / "unitok_kernels" / "backends" not in path.parents
]
DOCUMENTED = {name: getattr(uk, name) for name in uk.__all__ if inspect.isfunction(getattr(uk, name))}
DOCUMENTED |= {"ordered_linear": ordered_linear, "residual_straight_through": residual_straight_through}


def test_each_record_is_in_the_file_of_its_name():
    assert {path.stem for path in RECORDS.glob("*.py")} == {*NAMES, "__init__"}
    preferences = [record.preference for record in backends.records().values()]
    assert preferences == sorted(set(preferences))


@pytest.mark.parametrize("folder", ops.__all__)
def test_each_backend_of_an_operation_has_all_its_functions(folder):
    found = backends.kernels(folder, NAMES[0])
    needed = {name for name in vars(found) if name.startswith(folder) and hasattr(torch.ops.unitok_kernels, name)}
    needed |= {"moe_residual_loss"} if folder == "residual_loss" else set()
    assert needed
    for name in backends.having(folder):
        tree = ast.parse((OPS / folder / f"{name}.py").read_text())
        bound = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        bound |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        bound |= {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert needed <= bound, name


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_lists_the_backends_that_the_operation_has(name):
    folder = DOCUMENTED[name].__module__.split(".")[-2]
    there = [f'"{backend}"' for backend in NAMES if (OPS / folder / f"{backend}.py").exists()]
    (line,) = [line.strip() for line in DOCUMENTED[name].__doc__.splitlines() if line.strip().startswith("backend:")]
    assert line.split(";")[0].rstrip(".") == f"backend: {' | '.join(['None', *there])}"


def test_a_layer_s_docstring_lists_the_backends_that_all_its_operations_have():
    tree = ast.parse(textwrap.dedent(inspect.getsource(uk.nn.MoEResidualVQ.forward)))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & {*DOCUMENTED}
    folders = {DOCUMENTED[name].__module__.split(".")[-2] for name in used}
    assert len(folders) == 3
    listed = " | ".join(["None", *(f'"{name}"' for name in backends.having(*folders))])
    assert f"backend: {listed}, for all operations" in uk.nn.MoEResidualVQ.__doc__


def test_no_placeholder_is_left():
    for value in (*DOCUMENTED.values(), uk.nn.MoEResidualVQ):
        assert "{backends}" not in value.__doc__
        assert "{packing}" not in value.__doc__


def named(source: str) -> list[str]:
    """Where a source names a backend: in a string of its own, or in quotes within a docstring."""
    tree = ast.parse(source)
    device_types = {constant for node in ast.walk(tree) for constant in _device_types(node, tree)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [
        f"line {node.lineno}: {node.value[:60]!r}"
        for node in strings
        if node not in device_types and any(node.value == name or f'"{name}"' in node.value for name in NAMES)
    ]


def _device_types(node: ast.AST, tree: ast.Module) -> list[ast.expr | None]:
    """Strings that name the type of a torch device, as what they stand beside shows; and Triton's targets."""
    match node:
        case ast.Compare(left, _, others) if any(map(_is_type, (left, *others))):
            return [left, *others]
        case ast.arguments():  # `device="cpu"` where a function is defined
            plain = [*node.posonlyargs, *node.args]
            plain = plain[len(plain) - len(node.defaults) :]
            given = [*zip(plain, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            return [default for argument, default in given if argument.arg == "device"]
        case ast.keyword("device", value):  # and where one is called
            return [value]
        case ast.Call(ast.Attribute(ast.Name(table), "get"), [key, *_]) if _is_type(key):
            values = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == table]
            return [key for value in values if isinstance(value, ast.Dict) for key in value.keys]
        case ast.Call(ast.Name("Target"), targets):
            return targets
        case ast.ClassDef("Target"):
            return [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return []


def _is_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "type"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_backend_is_named_outside_of_its_record(path):
    assert named(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        'if chosen == "cuda": pass',
        'kernels = backends.kernels(operation, "triton")',
        'there = backends.available()["cpu"]',
        'FALLBACK = {"cpu": "reference"}',
        'def call(backend="cpu"): pass',
        'def call():\n    """Call.\n\n    Args:\n        backend: None | "reference" | "cpu".\n    """',
        'match backend:\n    case "triton": pass',
        'ok = x.device.type == "cuda" and backend == "cuda"',
    ],
)
def test_a_name_that_is_written_out_is_found(planted):
    assert named(planted)


@pytest.mark.parametrize(
    "device",
    [
        'if x.device.type != "cuda": pass',
        'def load(folder, device="cpu"): pass',
        'x = torch.zeros(3, device="cpu")',
        'MOST = {"cpu": 3}\nmost = MOST.get(x.device.type, 5)',
        '"""Runs on the cpu, and on cuda devices."""',
    ],
)
def test_the_type_of_a_device_is_no_backend(device):
    assert named(device) == []


RECORD = """
from unitok_kernels.backends.record import Backend

BACKEND = Backend(
    name="abacus",
    preference=15,
    missing=lambda: None,
    devices=("cpu",),
    details=lambda operations: f", with {len(operations)} rods",
)
"""
KERNEL = """
def ordered_linear(x, weight, bias, relu):
    return x.new_full((x.shape[0], weight.shape[0]), 7.0, dtype=bias.double().dtype)
"""
CALLS = """
import torch, unitok_kernels as uk
from unitok_kernels.ops.ordered_linear import ordered_linear
from unitok_kernels import backends

x, weight, bias = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
print(backends.__file__)
print([*backends.available()], backends.available()["abacus"])
print(*[line for line in backends.explain().splitlines() if "abacus" in line], sep=" / ")
print(backends.choose("ordered_linear", None, x.device, False), backends.choose("hsic", "reference", x.device, False))
print(*(ordered_linear(x, weight, bias, backend=name).unique().tolist() for name in (None, "reference")))
print('None | "reference" | "cpu" | "abacus" | "triton".' in ordered_linear.__doc__, "abacus" in uk.hsic.__doc__)
try:
    uk.residual_decode(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1, 4, 3), backend="abacus")
except ValueError as error:
    print(error)
try:
    backends.choose("ordered_linear", "abacus", torch.device("cuda"), False)
except ValueError as error:
    print(error)
"""


def test_a_fifth_backend_is_one_record_and_one_file_an_operation(tmp_path):
    package = tmp_path / "unitok_kernels"
    shutil.copytree(ROOT / "unitok_kernels", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for module in (ROOT / "unitok_kernels").glob("*.so"):
        (package / module.name).symlink_to(module)
    (package / "backends" / "records" / "abacus.py").write_text(RECORD)
    (package / "ops" / "ordered_linear" / "abacus.py").write_text(KERNEL)
    kept = {name: value for name, value in os.environ.items() if name not in ("UNITOK_BACKEND", "UNITOK_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    where, there, explained, chosen, values, documented, lacking, misplaced = done.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert there == "['reference', 'cpu', 'abacus', 'triton', 'cuda'] True"
    assert explained.startswith("abacus: available, 1 operations, with 1 rods / cpu tensors: abacus then ")
    assert (chosen, values, documented) == ("abacus reference", "[7.0] [4.0]", "True False")
    assert "backend must be able to run this call, got 'abacus': it has no kernel for this operation" in lacking
    assert "got 'abacus': it takes cpu tensors, not cuda" in misplaced
