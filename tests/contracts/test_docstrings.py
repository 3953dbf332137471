"""Every public name says what it takes, gives and raises, as the docstring template asks, and explains each option."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pydoc
import re
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Protocol

import pytest

import unitok
import unitok_kernels as uk
from unitok import data, metrics, recommender, serving
from unitok.ids import trie
from unitok_kernels import backends, nn
from unitok_kernels.nn.config import CodebookOptions, VectorQuantizeConfig

MODULES: list[ModuleType] = [unitok, metrics, trie, data, recommender, serving, uk, backends, nn]
if backends.available()["cpu"]:  # without the native module it can't be imported
    MODULES.append(importlib.import_module("unitok_kernels.numpy"))
# Through what a name of a package may raise; what is raised elsewhere is documented there.
PACKAGES = {
    "unitok": ("unitok", "unitok_kernels.checks", "unitok_kernels.rules"),
    "unitok_kernels": ("unitok_kernels",),
}
OPERATIONS = [name for name in uk.__all__ if inspect.isfunction(getattr(uk, name))]
LAYERS = {"VectorQuantize", "ResidualVQ", "GroupedResidualVQ", "MoEResidualVQ"}
# The paper's, or published.
SOURCED = {"SemanticIds", "Tokenizer", "UniTokModel", "PrefixTrie", *metrics.__all__, *OPERATIONS, *LAYERS}
WORDS = 3  # that explain an option, at least; its own name and a dtype alone say nothing


def package_of(value: Any) -> str:
    return str(value.__module__).split(".")[0]


def ours(module: str, package: str) -> bool:
    return any(module == home or module.startswith(f"{home}.") for home in PACKAGES.get(package, ()))


def own_bases(owner: type) -> list[type]:
    return [base for base in owner.__mro__ if package_of(base) in PACKAGES]


def methods(owner: type) -> Iterator[tuple[str, Any]]:
    """The public methods that a class takes from our packages; what torch asks a module for is documented there."""
    foreign = [base for base in owner.__mro__ if package_of(base) == "torch"]
    for name in sorted({name for base in own_bases(owner) for name in vars(base)}):
        found = getattr(owner, name)
        is_asked_for = name != "forward" and any(name in vars(base) for base in foreign)
        if not name.startswith("_") and inspect.isroutine(found) and callable(found) and not is_asked_for:
            yield name, found


def public_names() -> Iterator[tuple[str, Any]]:
    """Name and object: functions, classes and their methods; the module's name too where two have one name."""
    seen: dict[str, Any] = {}
    for module in MODULES:
        for name in getattr(module, "__all__", ["PrefixTrie"]):
            value = getattr(module, name)
            if not isinstance(value, ModuleType) and seen.get(name) is not value:
                title = f"{module.__name__}.{name}" if name in seen else name
                seen.setdefault(name, value)
                yield title, value
                if inspect.isclass(value):
                    yield from ((f"{title}.{method}", found) for method, found in methods(value))


NAMES = dict(public_names())
KNOWN = {title.split(".")[-1] for title in NAMES}


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring by their headings; what stands before the first is under ''."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Source):", doc, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(listed: str) -> dict[str, str]:
    """The text of each name that a section lists."""
    return {
        name: f"{first} {textwrap.dedent(rest)}"
        for name, first, rest in re.findall(r"^ {4}(\w+):(.*)((?:\n {5,}.*|\n(?= {5,}))*)", listed, re.M)
        if first.strip() or rest.strip()
    }


def raising(function: Any, owner: type | None, seen: set[Any]) -> bool:
    """Whether a body raises, itself or by a function of this package, called by its name, self, cls or module."""
    function = inspect.unwrap(getattr(function, "__func__", function)) if callable(function) else None
    if not isinstance(function, FunctionType) or function in seen:
        return False
    if not ours(function.__module__, package_of(owner or function)):
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


def listed_of(value: Any, said: dict[str, str]) -> dict[str, str]:
    """What a docstring lists: arguments and fields, with those of a dataclass's bases and of what gives a result."""
    if not inspect.isclass(value):
        return entries(said.get("Args", ""))
    found = {**entries(said.get("Args", "")), **entries(said.get("Attributes", ""))}
    if dataclasses.is_dataclass(value):
        for base in own_bases(value):
            parts = sections(inspect.getdoc(base) or "")
            found = {**entries(parts.get("Args", "")), **entries(parts.get("Attributes", "")), **found}
    if issubclass(value, tuple) and (result := re.match(r"Result of `(\w+)`", said[""])):
        giver = getattr(importlib.import_module(value.__module__), result[1])
        gives = sections(inspect.getdoc(giver) or "").get("Returns", "")
        found |= {name: gives for name in value._fields if re.search(rf"\b{name}\b", gives)}
    return found


def resolves(reference: str, value: Any) -> bool:
    """Whether there is such a public name, or one in the module of what refers to it, or anywhere by its whole name."""
    home = vars(sys.modules[value.__module__]) if value.__module__ in sys.modules else {}
    return reference.split(".")[-1] in KNOWN or reference in home or pydoc.locate(reference) is not None


def faults(name: str, value: Any) -> list[str]:
    """What a name's docstring leaves out."""
    said = sections(inspect.getdoc(value) or "")
    found = [] if said[""].strip().split("\n")[0].endswith((".", ":")) else ["a first sentence"]
    if inspect.isclass(value) and issubclass(value, Exception):
        return found
    parameters = () if Protocol in getattr(value, "__bases__", ()) else inspect.signature(value).parameters
    listed = listed_of(value, said)
    found += [f"Args: {p}" for p in parameters if p not in listed and p not in ("self", "cls")]
    if dataclasses.is_dataclass(value):
        for field in (each.name for each in dataclasses.fields(value) if each.name in listed):
            own = {word for word in re.findall(r"[A-Za-z]{2,}", listed[field]) if word not in field.split("_")}
            found += [] if len(own) >= WORDS else [f"a text of its own: {field}"]
    references = [ref for text in listed.values() for ref in re.findall(r"(?:see|as in|as for|as of) `([\w.]+)`", text)]
    found += [f"what is referred to: {reference}" for reference in references if not resolves(reference, value)]
    if not inspect.isclass(value) and inspect.signature(value).return_annotation not in ("None", None):
        found += [] if said.get("Returns", "").strip() else ["Returns"]
    owner = NAMES.get(name.rpartition(".")[0]) if "." in name else None
    owner = value if inspect.isclass(value) else owner
    bodies = [value]
    if inspect.isclass(value):
        bodies = [vars(value).get(method) for method in ("__init__", "__post_init__")]
    if any(raising(body, owner, set()) for body in bodies) and not re.search(r"\w+: \S", said.get("Raises", "")):
        found.append("Raises")
    if name in SOURCED and not said.get("Source", "").strip():
        found.append("Source")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_is_whole(name: str) -> None:
    assert not faults(name, NAMES[name])


def operation_faults(function: Any) -> list[str]:
    """What an operation's docstring leaves out of all that theirs have, in their order, and its signature."""
    doc, signature = inspect.getdoc(function) or "", inspect.signature(function)
    said = sections(doc)
    found = [] if [*said][1:] == ["Args", "Returns", "Raises", "Source"] else ["sections in their order"]
    found += [] if "=" in said[""] or "Minimises" in said[""] else ["the formula"]
    found += [] if [*entries(said.get("Args", ""))] == [*signature.parameters] else ["arguments in their order"]
    found += [f"Raises: {error}" for error in ("ValueError", "TypeError") if error not in said.get("Raises", "")]
    backend = signature.parameters.get("backend")
    if backend is None or backend.kind is not inspect.Parameter.KEYWORD_ONLY or backend.default is not None:
        found.append("a backend by its name alone")
    if inspect.Parameter.empty in (signature.return_annotation, *(p.annotation for p in signature.parameters.values())):
        found.append("annotations")
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_every_section_its_formula_and_a_backend(name: str) -> None:
    assert not operation_faults(NAMES[name])


def test_there_is_something_of_each_kind_to_look_at() -> None:
    assert len(OPERATIONS) >= 10
    assert LAYERS | {"VectorQuantize.forward", "load", "ServingTokenizer.tokenize", "explain", "encode"} <= {
        *NAMES,
        *(() if backends.available()["cpu"] else ("encode",)),
    }


def test_what_is_left_out_is_found() -> None:
    def bare(x: int, y: int) -> int:
        """Say this.

        Args:
            x: an integer; see `perplexity` and `nothing.of_the_kind`.
        """
        if x > y:
            raise ValueError
        return x

    assert faults("perplexity", bare) == ["Args: y", "Returns", "Source"]  # a test is of no package of ours
    bare.__module__ = "unitok.made"
    assert faults("perplexity", bare) == ["Args: y", "Returns", "Raises", "Source"]
    bare.__doc__ = (bare.__doc__ or "").replace("; see", "; as in `nothing.of_the_kind`, see")
    assert faults("perplexity", bare)[1] == "what is referred to: nothing.of_the_kind"
    assert raising(unitok.SemanticIds.to_text, unitok.SemanticIds, set())
    assert raising(metrics.utilisation, None, set())
    assert not raising(unitok.SemanticIds.equals, unitok.SemanticIds, set())


def test_an_option_without_a_text_of_its_own_is_found() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(CodebookOptions):
        """Options of a test.

        Attributes:
            beam_size: the beam size.
            named: what it is
                called by people.
            typed: (N,) int64.
        """

        beam_size: int = 1
        named: str = ""
        typed: int = 0
        silent: bool = False

    assert faults("Options", Options)[:1] == ["Args: silent"]
    assert faults("Options", Options)[1:3] == ["a text of its own: beam_size", "a text of its own: typed"]


def test_an_operation_s_gap_is_found() -> None:
    def bare(z: int, codebooks: int, backend=None):  # type: ignore[no-untyped-def]
        """Say this.

        Args:
            codebooks: some.
            z: an integer.

        Raises:
            ValueError: always.
        """

    assert operation_faults(bare) == [
        "sections in their order",
        "the formula",
        "arguments in their order",
        "Raises: TypeError",
        "a backend by its name alone",
        "annotations",
    ]


def test_inherited_options_are_explained_where_they_are_declared() -> None:
    own = sections(inspect.getdoc(VectorQuantizeConfig) or "")
    shared = {field.name for field in dataclasses.fields(CodebookOptions)}
    assert shared <= {*listed_of(VectorQuantizeConfig, own)}
    assert not shared & {*entries(own.get("Attributes", ""))}
