"""The tree keeps the house rules that `tools.house` can see, and each rule's breach is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import house

ROOT = Path(__file__).resolve().parents[2]
LAZY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {0} import {1}\n_HOME = {{'{1}': '{2}'}}\n"


def plant(root: Path, files: dict[str, str]) -> list[str]:
    """Write files, and give what is said of the tree."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.faults(house.read(root), root)


def test_the_tree_keeps_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    status = house.main([])
    said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    modules, arrows, circles, layers, files = map(int, re.findall(r"\d+", said.out)[:5])
    assert modules > 150
    assert arrows > modules
    assert files > modules
    assert (circles, layers) == (0, len(house.LAYERS))


def test_every_layer_and_every_front_door_is_in_the_tree() -> None:
    modules = house.read(ROOT).modules
    assert {name for names in house.LAYERS for name in names} <= modules.keys()
    for door, visitors in house.OPENED_BY.items():
        assert "_HOME = {" in (ROOT / modules[door]).read_text()
        assert {*visitors} <= modules.keys()
    assert all((ROOT / folder).is_dir() for folder in (*house.SIZED, *house.ROOMS))


def test_the_picture_in_contributing_shows_these_layers() -> None:
    [picture] = re.findall(r"^```layers\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)
    shown = [tuple(line.split("|")[0].strip().split(", ")) for line in picture.splitlines()]
    assert shown == [*reversed(house.LAYERS)]


def test_a_circle_is_shown_as_a_path(tmp_path: Path) -> None:
    said = plant(tmp_path, {
        "unitok/ids/a.py": "from unitok.ids import b\n",
        "unitok/ids/b.py": "import unitok.ids.c as third\n",
        "unitok/ids/c.py": "from .a import name\n",
        "unitok/ids/d.py": "from unitok.ids.a import name\n",  # which leads there, and isn't on it
        "unitok/ids/__init__.py": "",
    })  # fmt: skip
    assert said == ["a circle of imports: unitok.ids.a -> unitok.ids.b -> unitok.ids.c -> unitok.ids.a."]


def test_an_import_in_a_function_closes_a_circle(tmp_path: Path) -> None:
    said = plant(tmp_path, {
        "unitok/ids/a.py": "import unitok.ids.b\n",
        "unitok/ids/b.py": "class B:\n    def late(self):\n        if self:\n            from unitok.ids.a import A\n",
    })  # fmt: skip
    assert said == ["a circle of imports: unitok.ids.a -> unitok.ids.b -> unitok.ids.a."]


def test_two_circles_through_one_module_are_both_told(tmp_path: Path) -> None:
    said = plant(tmp_path, {
        "unitok/ids/a.py": "from unitok.ids import b, c\n",
        "unitok/ids/b.py": "import unitok.ids.a\n",
        "unitok/ids/c.py": "import unitok.ids.a\n",
    })  # fmt: skip
    assert [line.count("->") for line in said] == [2, 2]
    assert len(set(said)) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "from unitok.tokenizer import Tokenizer",
        "import unitok.tokenizer",
        "from unitok import tokenizer",
        "from .. import tokenizer",
        "def late():\n    from unitok.tokenizer import Tokenizer",
    ],
)
def test_an_import_from_a_higher_layer_is_told(statement: str, tmp_path: Path) -> None:
    files = {"unitok/ids/a.py": f"{statement}\n", "unitok/tokenizer.py": "", "unitok/__init__.py": "_HOME = {}\n"}
    [said] = plant(tmp_path, files)
    line = 1 + statement.count("\n")
    assert said == f"unitok/ids/a.py:{line}: unitok.ids.a imports unitok.tokenizer, which stands in a higher layer."


def test_the_packages_have_one_direction_and_rooms_of_the_kernels_their_layers(tmp_path: Path) -> None:
    said = plant(tmp_path, {
        "unitok_kernels/nn/a.py": "from unitok import config\n",
        "unitok_kernels/ops/_triton/b.py": "from unitok_kernels.ops.hsic import triton\n",
        "unitok_kernels/ops/hsic/triton.py": "from unitok_kernels.ops._triton import b\n",
        "unitok/config.py": "import unitok_kernels.nn.a\n",
    })  # fmt: skip
    assert [line for line in said if "higher" in line] == [
        "unitok_kernels/nn/a.py:1: unitok_kernels.nn.a imports unitok.config, which stands in a higher layer.",
        "unitok_kernels/ops/_triton/b.py:1: unitok_kernels.ops._triton.b imports unitok_kernels.ops.hsic.triton, "
        "which stands in a higher layer.",
    ]
    assert sum("a circle" in line for line in said) == 2


def test_a_module_without_a_layer_is_told(tmp_path: Path) -> None:
    [said] = plant(tmp_path, {"unitok/new.py": ""})
    assert said == "unitok/new.py: unitok.new stands in no layer. Give it one in LAYERS."


@pytest.mark.parametrize("statement", ["from unitok import Tokenizer", "import unitok as u\nu.Tokenizer"])
def test_a_front_door_stands_for_the_module_that_holds_the_name(statement: str, tmp_path: Path) -> None:
    files = {"unitok/__init__.py": LAZY.format("unitok.tokenizer", "Tokenizer", "tokenizer")}
    files |= {"unitok/tokenizer.py": "", "unitok/cli/a.py": statement, "unitok/recommender/a.py": statement}
    assert plant(tmp_path, files) == [
        "unitok/recommender/a.py:1: takes what unitok.tokenizer holds from unitok. Import it from where it is."
    ]
    said = plant(tmp_path, {"unitok/data/a.py": statement})
    assert "unitok/data/a.py:1: unitok.data.a imports unitok.tokenizer, which stands in a higher layer." in said


def test_an_import_of_types_from_the_same_package_is_told_and_counts(tmp_path: Path) -> None:
    types = "import typing\nif typing.TYPE_CHECKING:\n    from {} import name\nelse:\n    import unitok.ids.rows\n"
    said = plant(tmp_path, {
        "unitok/ids/a.py": types.format("unitok.ids.b"),
        "unitok/ids/b.py": "import unitok.ids.a\n",
        "unitok/ids/rows.py": types.format("unitok_kernels.rules"),  # of the other package: that is no sign of a knot
        "unitok/cli/a.py": types.format("unitok.ids.b"),
        "unitok_kernels/rules.py": "",
    })  # fmt: skip
    assert [line.split(". ")[0] for line in said] == [
        "a circle of imports: unitok.ids.a -> unitok.ids.b -> unitok.ids.a.",
        "a circle of imports: unitok.ids.rows -> unitok.ids.rows.",
        "unitok/ids/a.py:3: imports unitok.ids.b under TYPE_CHECKING",
    ]


@pytest.mark.parametrize("name", ["unitok/ids/a.py", "benchmarks/ops/a.py", "tools/a.py", "csrc/cuda/a.cuh"])
def test_a_file_of_401_lines_is_told(name: str, tmp_path: Path) -> None:
    assert plant(tmp_path, {name: "\n" * 400}) == []
    assert plant(tmp_path, {name: "\n" * 401}) == [f"{name}: 401 lines; 400 are the most."]


def test_a_seventh_module_at_the_root_is_told(tmp_path: Path) -> None:
    names = ("__init__", "__main__", "config", "numerics", "serving", "tokenizer")
    assert plant(tmp_path, {f"unitok/{name}.py": "" for name in names}) == []
    [said] = plant(tmp_path, {"unitok/storage.py": ""})
    assert said.startswith("unitok: 7 source files; 6 are the most.")


@pytest.mark.parametrize(
    ("room", "suffix"), [("unitok/ids", "py"), ("csrc/cpu/ops", "cpp"), ("unitok_kernels/ops/_triton", "py")]
)
def test_a_room_of_thirteen_files_is_told(room: str, suffix: str, tmp_path: Path) -> None:
    assert plant(tmp_path, {f"{room}/a{n}.{suffix}": "" for n in range(12)}) == []
    [said] = plant(tmp_path, {f"{room}/a12.{suffix}": "", f"{room}/notes.md": ""})
    assert said.startswith(f"{room}: 13 source files; 12 are the most.")


def test_the_command_fails_with_a_line_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, {"unitok/new.py": "\n" * 500})
    assert house.main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2
    assert said.out.endswith("2 faults\n")
