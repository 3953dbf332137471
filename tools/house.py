"""Hold the tree to the house rules that a reader can't check by eye: `python -m tools.house`.

Imports are read from the sources, and no code of theirs is run. One counts wherever it stands: in a function it may
still close a circle, and under TYPE_CHECKING it is still something that a reader has to know. What goes through a
lazy front door, an `__init__.py` with a table `_HOME`, counts as an import of the module that the table names.
Kernels that `unitok_kernels.backends` finds by their place in the tree are no imports.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# From the bottom to the top. A module imports from its own layer and from those before it; the longest name that is
# or holds the module says where it stands. CONTRIBUTING.md has this as a picture.
LAYERS = (
    ("unitok_kernels.rules", "unitok_kernels.arrays", "unitok_kernels.nvcc"),
    ("unitok_kernels.checks", "unitok_kernels.backends"),
    ("unitok_kernels.numpy",),
    ("unitok_kernels.ops.stats", "unitok_kernels.ops.common", "unitok_kernels.ops.chains"),
    ("unitok_kernels.ops._native", "unitok_kernels.ops._triton"),
    ("unitok_kernels.ops.registry",),
    ("unitok_kernels.ops",),
    ("unitok_kernels.nn",),
    ("unitok.numerics", "unitok.config", "unitok.storage"),
    ("unitok.data",),
    ("unitok.ids",),
    ("unitok.model",),
    ("unitok.metrics",),
    ("unitok.training",),
    ("unitok.evaluation",),
    ("unitok.tokenizer", "unitok.serving"),
    ("unitok.recommender", "unitok.sharded"),
    ("unitok.cli", "unitok.__main__"),
)
# Who may take names from a front door. All others import from where the name is, so that a reader sees it.
OPENED_BY = {
    "unitok_kernels": ("unitok_kernels.nn", "unitok"),
    "unitok": ("unitok.cli",),
    "unitok.recommender": ("unitok.cli",),
}
STARTS_LIGHT = ("unitok.cli",)  # imports of types alone keep torch out of its start
ROOT_MODULES = 6  # of unitok itself
LINES = 400
FILES = 12
PACKAGES = ("unitok", "unitok_kernels")
SIZED = (*PACKAGES, "tools", "benchmarks", "csrc")
_OPS = "unitok_kernels/ops"
ROOMS = ("unitok", "tools", "csrc/cpu", "unitok_kernels/backends", f"{_OPS}/_native", f"{_OPS}/_triton")
_PLAINLY = "Import it plainly; where that makes a circle, move what both need below both."
SUFFIXES = {".py", ".h", ".cpp", ".cuh", ".cu"}


@dataclass(frozen=True)
class Arrow:
    """An import.

    Attributes:
        source: the module that imports.
        target: the module that holds what is imported.
        line: where.
        for_types: whether it stands under TYPE_CHECKING.
        door: the front door that it goes through; "" without one.
    """

    source: str
    target: str
    line: int
    for_types: bool
    door: str = ""


@dataclass(frozen=True)
class Tree:
    """The modules of both packages by name, and their imports of one another."""

    modules: Mapping[str, Path]
    arrows: Sequence[Arrow]

    def where(self, arrow: Arrow) -> str:
        """Name the place of an import as an editor opens it."""
        return f"{self.modules[arrow.source]}:{arrow.line}"


def read(root: Path) -> Tree:
    """Read the imports of the packages under a folder."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            inner = path.relative_to(root).with_suffix("").parts
            modules[".".join(inner[:-1] if path.name == "__init__.py" else inner)] = path.relative_to(root)
    parsed = {name: ast.parse((root / path).read_text(encoding="utf-8")) for name, path in modules.items()}
    homes = {name: home for name, code in parsed.items() if (home := _home(code))}
    arrows: dict[Arrow, None] = {}
    for name, code in parsed.items():
        for statement, for_types in _imports(code):
            if for_types and name in homes:  # types of what the table loads
                continue
            for module, wanted in _wanted(statement, code, name, modules[name].name == "__init__.py"):
                target, door = _found(module, wanted, modules, homes)
                if target in modules:
                    arrows[Arrow(name, target, statement.lineno, for_types, door)] = None
    return Tree(modules, list(arrows))


def _home(code: ast.Module) -> dict[str, str]:
    """Read a front door's table: name -> the module that holds it, as seen from the package."""
    for node in code.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return dict(ast.literal_eval(node.value))
    return {}


def _imports(node: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Go through the imports at any depth, and say which stand under TYPE_CHECKING."""
    is_guard = isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        guarded = for_types or (is_guard and isinstance(node, ast.If) and child in node.body)
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, guarded
        yield from _imports(child, guarded)


def _wanted(
    statement: ast.Import | ast.ImportFrom, code: ast.Module, name: str, is_package: bool
) -> Iterator[tuple[str, str]]:
    """Give what a statement takes as (module, name in it); after `import x as y`, the names are those that y.<name>."""
    if isinstance(statement, ast.ImportFrom):
        above = name.split(".")[: len(name.split(".")) - statement.level + is_package] if statement.level else []
        module = ".".join([*above, *([statement.module] if statement.module else [])])
        yield from ((module, alias.name) for alias in statement.names)
        return
    for alias in statement.names:
        if alias.name.split(".")[0] in PACKAGES:
            bound = alias.asname or alias.name
            reads = (node for node in ast.walk(code) if isinstance(node, ast.Attribute))
            uses = {node.attr for node in reads if ast.unparse(node.value) == bound}
            yield from ((alias.name, use) for use in sorted(uses) or [""])


def _found(
    module: str, name: str, modules: Mapping[str, Path], homes: Mapping[str, Mapping[str, str]]
) -> tuple[str, str]:
    """Name the module that holds a name, and the front door on the way to it."""
    if f"{module}.{name}" in modules:
        return f"{module}.{name}", ""
    if home := homes.get(module, {}).get(name):
        return f"{module}.{home}", module
    return module, ""


def circles(tree: Tree) -> list[list[str]]:
    """Find the shortest circle of imports through each module that is on one; each begins with its first by name."""
    after = defaultdict(set)
    for arrow in tree.arrows:
        after[arrow.source].add(arrow.target)
    found: dict[tuple[str, ...], None] = {}
    for start in tree.modules:
        ways, waiting = {start: [start]}, [start]
        for module in waiting:  # which grows
            if start in after[module]:
                way = ways[module]
                first = way.index(min(way))
                found[tuple(way[first:] + way[:first])] = None
                break
            for other in sorted(after[module] - ways.keys()):
                ways[other] = [*ways[module], other]
                waiting.append(other)
    return [list(circle) for circle in found]


def _under(module: str, names: Sequence[str]) -> str:
    """Give the longest of some names that is a module or holds it; "" where none does."""
    return max((name for name in names if f"{module}.".startswith(f"{name}.")), key=len, default="")


def layer_faults(tree: Tree) -> list[str]:
    """List the modules without a layer, and the imports that go up."""
    places = {name: height for height, names in enumerate(LAYERS) for name in names}
    heights = {module: places.get(_under(module, list(places))) for module in tree.modules}
    said = [
        f"{path}: {module} stands in no layer. Give it one in LAYERS."
        for module, path in tree.modules.items()
        if heights[module] is None and module not in OPENED_BY
    ]
    for arrow in tree.arrows:
        low, high = heights[arrow.source], heights[arrow.target]
        if low is not None and high is not None and low < high:
            said.append(f"{tree.where(arrow)}: {arrow.source} imports {arrow.target}, which stands in a higher layer.")
    return said


def import_faults(tree: Tree) -> list[str]:
    """List imports through a front door that is for others, and imports of types from the same package."""
    said = []
    for arrow in tree.arrows:
        if arrow.door and not _under(arrow.source, OPENED_BY.get(arrow.door, ())):
            said.append(
                f"{tree.where(arrow)}: takes what {arrow.target} holds from {arrow.door}. Import it from where it is."
            )
        is_same = arrow.source.split(".")[0] == arrow.target.split(".")[0]
        if arrow.for_types and is_same and not _under(arrow.source, STARTS_LIGHT):
            said.append(f"{tree.where(arrow)}: imports {arrow.target} under TYPE_CHECKING. {_PLAINLY}")
    return said


def sources(root: Path, folder: str) -> list[Path]:
    """List the source files under a folder."""
    return sorted(path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)


def size_faults(root: Path) -> list[str]:
    """List files that are too long and folders that are too full."""
    lines = {path: path.read_bytes().count(b"\n") for folder in SIZED for path in sources(root, folder)}
    held = Counter(path.parent for folder in ROOMS for path in sources(root, folder))
    limits = {room: ROOT_MODULES if room == root / "unitok" else FILES for room in held}
    return [
        *(f"{path.relative_to(root)}: {n} lines; {LINES} are the most." for path, n in lines.items() if n > LINES),
        *(
            f"{room.relative_to(root)}: {n} source files; {limits[room]} are the most. Part them into rooms."
            for room, n in held.items()
            if n > limits[room]
        ),
    ]


def faults(tree: Tree, root: Path) -> list[str]:
    """List all that breaks a rule."""
    closed = [f"a circle of imports: {' -> '.join([*circle, circle[0]])}." for circle in circles(tree)]
    return [*closed, *layer_faults(tree), *import_faults(tree), *size_faults(root)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.house", description="Hold the tree to the house rules.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1], help="of the tree (this one)")
    root = parser.parse_args(arguments).root
    tree = read(root)
    said = faults(tree, root)
    for line in said:
        print(line, file=sys.stderr)
    files = sum(len(sources(root, folder)) for folder in SIZED)
    print(
        f"{len(tree.modules)} modules, {len(tree.arrows)} imports of one another, {len(circles(tree))} circles, "
        f"{len(LAYERS)} layers, {files} source files: {len(said)} faults"
    )
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
