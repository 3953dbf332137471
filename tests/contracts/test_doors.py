"""Tests go in by public doors: a name with an underscore is what a module may change without a word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OURS = ("unitok", "unitok_kernels", "tools", "benchmarks", "tests")
# Native modules, and folders of what operations share: their modules' own names are what their tests go in by.
DOORS = {"_cpu", "_cuda", "_triton", "_native"}
NAMEDTUPLE = {"_replace", "_asdict", "_fields", "_make"}

TORCHS = "torch's: nothing public gives an operation's schema"
TIED = "vector-quantize-pytorch's name for a layer's codebook, by which models tie layers"
MOVED = "what a model that was moved reads: no other device but `meta` is everywhere, and it has no values to rank by"
NOWHERE = "a module that isn't there"
ALLOWED = {
    ("contracts/test_registry.py", "_schema"): TORCHS,
    ("unitok_kernels/triton/test_triton_launches.py", "_schema"): TORCHS,
    ("unitok_kernels/triton/test_triton_compile.py", "_expr"): "torch's: a traced size, before a hint stands for it",
    ("unitok_kernels/nn/test_layers.py", "_codebook"): TIED,
    ("unitok/recommender/test_restriction.py", "_trie"): MOVED,
    ("unitok/recommender/test_restriction.py", "_tokens"): MOVED,
    ("unitok_kernels/test_backends.py", "_none"): NOWHERE,
    ("unitok/cli/test_commands.py", "_none"): NOWHERE,
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in DOORS | NAMEDTUPLE and name.strip("_") != ""


def uses(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each private name: an attribute, an import, or a string that a patch or getattr is given.

    What is got from a foreign package, as in `torch._dynamo`, and what a class has for itself are their own business.
    """
    tree = ast.parse(source)
    foreign = {"self", "cls", "super"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None)
            for alias in node.names:
                parts = (module or alias.name).split(".")
                if parts[0] not in OURS:
                    foreign.add(alias.asname or alias.name.split(".")[0])
                    continue
                names = {*parts, *((alias.name,) if module else ())}
                yield from ((node.lineno, name) for name in sorted(names) if is_private(name))
    for node in tree.body:  # such as `aten = torch.ops.aten`
        if isinstance(node, ast.Assign) and root(node.value) in foreign:
            foreign |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and root(node) not in foreign:
            yield node.lineno, node.attr
        if isinstance(node, ast.Call):
            of_foreign = bool(node.args) and root(node.args[0]) in foreign
            strings = [each.value for each in node.args if isinstance(each, ast.Constant)]
            for text in (each for each in strings if isinstance(each, str)):
                if re.fullmatch(r"_\w+", text) and is_private(text) and not of_foreign:
                    yield node.lineno, text
                elif re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", text):
                    yield from ((node.lineno, name) for name in text.split(".") if is_private(name))


def root(node: ast.expr) -> str | None:
    """The name that a chain of attributes, calls and indices begins with."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


FOUND = {
    (str(path.relative_to(TESTS)), name): line
    for path in sorted(TESTS.rglob("*.py"))
    for line, name in uses(path.read_text(encoding="utf-8"))
}


def test_no_test_goes_in_by_a_back_door() -> None:
    assert not {f"{file}:{line}: {name}" for (file, name), line in FOUND.items() if (file, name) not in ALLOWED}


def test_what_is_allowed_is_still_in_use() -> None:
    assert ALLOWED.keys() <= FOUND.keys()


@pytest.mark.parametrize(
    "planted",
    [
        "from unitok.tokenizer import _check",
        "from unitok._hidden import check",
        "import unitok_kernels.nn._hidden",
        "layer.layers[0]._chain.tables()",
        "assert fit(x)._state is None",
        "patch.setattr('unitok.cli.doctor._checks', None)",
        "import unitok_kernels as uk\npatch.setattr(uk.backends, '_found', None)",
        "getattr(layer, '_chain')",
        "from unitok_kernels import numpy\nnumpy._threads()",
    ],
)
def test_a_back_door_is_found(planted: str) -> None:
    assert [*uses(planted)]


@pytest.mark.parametrize(
    "open_door",
    [
        "from unitok_kernels import _cpu\n_cpu.instruction_set()",
        "from unitok_kernels.ops._triton.configs import Config",
        "from tools.aot import __main__ as aot",
        "import torch\naten = torch.ops.aten\ntorch._dynamo.reset(), aten._to_copy(x)",
        "from torch.utils import _pytree as pytree\npytree.tree_map(f, x)",
        "class Fake:\n    def get(self):\n        return self._kept",
        "ids._fields, ids._replace(codes=1), [_ for _ in x]",
        "'_codebook.embed', '_private'",
    ],
)
def test_a_public_door_is_let_through(open_door: str) -> None:
    assert not [*uses(open_door)]
