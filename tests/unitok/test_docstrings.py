"""Every public name says what it takes, gives and raises, as the docstring template asks."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest

import unitok
from unitok import data, metrics, recommender, trie

PACKAGES = ("unitok", "unitok_kernels.checks", "unitok_kernels.rules")  # what is raised elsewhere is documented there
SOURCED = {"SemanticIds", "Tokenizer", "UniTokModel", "PrefixTrie", *metrics.__all__}  # the paper's, or published


def ours(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in PACKAGES)


def public_names() -> Iterator[tuple[str, Any]]:
    """Name and object: functions, classes and the public methods that a class takes from this package."""
    for module in (unitok, metrics, trie, data, recommender):
        for name in getattr(module, "__all__", ["PrefixTrie"]):
            value = getattr(module, name)
            yield name, value
            if inspect.isclass(value):
                for method in sorted({name for base in value.__mro__ if ours(base.__module__) for name in vars(base)}):
                    found = getattr(value, method)
                    if not method.startswith("_") and inspect.isroutine(found) and callable(found):
                        yield f"{name}.{method}", found


NAMES = dict(public_names())


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring by their headings; what stands before the first is under ''."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Source):", doc, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def raising(function: Any, owner: type | None, seen: set[Any]) -> bool:
    """Whether a body raises, itself or by a function of this package, called by its name, self, cls or module."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, FunctionType) or not ours(function.__module__) or function in seen:
        return False
    seen.add(function)
    if function.__code__.co_filename.startswith("<"):  # made by @dataclass
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call) and raising(called(node.func, function, owner), owner, seen):
            return True
    return False


def called(node: ast.expr, function: FunctionType, owner: type | None) -> Any:
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        home = owner if node.value.id in ("self", "cls") else function.__globals__.get(node.value.id)
        return getattr(home, node.attr, None) if inspect.isclass(home) or isinstance(home, ModuleType) else None
    return None


def faults(name: str, value: Any) -> list[str]:
    """What a name's docstring leaves out."""
    doc = inspect.getdoc(value) or ""
    said = sections(doc)
    found = [] if said[""].strip().split("\n")[0].endswith((".", ":")) else ["a first sentence"]
    if inspect.isclass(value) and issubclass(value, Exception):
        return found
    parameters = () if getattr(value, "_is_protocol", False) else inspect.signature(value).parameters
    listed = said.get("Args", "") + (said.get("Attributes", "") if inspect.isclass(value) else "")
    found += [
        f"Args: {p}" for p in parameters if not re.search(rf"^ +{p}: \S", listed, re.M) and p not in ("self", "cls")
    ]
    if not inspect.isclass(value) and inspect.signature(value).return_annotation not in ("None", None):
        found += [] if said.get("Returns", "").strip() else ["Returns"]
    owner = NAMES.get(name.split(".")[0]) if "." in name else value if inspect.isclass(value) else None
    bodies = [value]
    if inspect.isclass(value):
        bodies = [vars(value).get(method) for method in ("__init__", "__post_init__")]
    if any(raising(body, owner, set()) for body in bodies) and not re.search(r"\w+: \S", said.get("Raises", "")):
        found.append("Raises")
    if name in SOURCED and not said.get("Source", "").strip():
        found.append("Source")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_whole(name: str) -> None:
    assert not faults(name, NAMES[name])


def test_what_is_left_out_is_found() -> None:
    def bare(x: int, y: int) -> int:
        """Say this.

        Args:
            x: an integer.
        """
        if x > y:
            raise ValueError
        return x

    assert faults("perplexity", bare) == ["Args: y", "Returns", "Source"]  # a test is not of this package
    bare.__module__ = "unitok.made"
    assert faults("perplexity", bare) == ["Args: y", "Returns", "Raises", "Source"]
    assert raising(unitok.SemanticIds.to_text, unitok.SemanticIds, set())
    assert raising(metrics.utilisation, None, set())
    assert not raising(unitok.SemanticIds.equals, unitok.SemanticIds, set())
