"""Each thing that `make prove` asks of a built package can fail."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.prove import building, checks

ROOT = Path(__file__).resolve().parents[2]
CPU = "unitok_kernels/_cpu.cpython-311-x86_64-linux-gnu.so"
LOG = "  Using cached setuptools-84.2.1-py3-none-any.whl (1 kB)\nSuccessfully installed pybind11-3 setuptools-84.2.1\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("unitok/__init__.py", "unitok/ids/trie.py", "unitok_kernels/nn/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def names(tree: Path) -> list[str]:
    return [*checks.expected(tree), CPU, "unitok_kernels-0.1.0.dist-info/licenses/LICENSE"]


def test_a_whole_wheel_passes(tree: Path, names: list[str]) -> None:
    assert {"unitok/py.typed", "unitok_kernels/py.typed", "unitok/ids/trie.py"} <= {*names}
    assert checks.content_faults(names, tree, ["cpu"]) == []


@pytest.mark.parametrize("name", ["unitok/py.typed", "unitok/ids/trie.py", "unitok_kernels/nn/__init__.py"])
def test_a_file_that_the_wheel_lacks_is_told(name: str, tree: Path, names: list[str]) -> None:
    names.remove(name)
    assert checks.content_faults(names, tree, ["cpu"]) == [f"the wheel lacks {name}"]


@pytest.mark.parametrize(
    "name",
    [
        "unitok_kernels/aot/page.py",
        "unitok_kernels/budgets.json",
        "tests/test_one.py",
        "unitok/ids/test_trie.py",
        "tools/house.py",
        "benchmarks/beam.py",
        "csrc/cpu/simd/isa.h",
    ],
)
def test_a_file_for_development_is_told_even_where_the_tree_has_it(name: str, tree: Path, names: list[str]) -> None:
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).touch()
    assert f"the wheel holds {name}, which is for development" in checks.content_faults([*names, name], tree, ["cpu"])


def test_a_module_of_an_earlier_tree_is_told(tree: Path, names: list[str]) -> None:
    [said] = checks.content_faults([*names, "unitok/batches.py"], tree, ["cpu"])
    assert said == "the wheel holds unitok/batches.py, which is not of the packages"


def test_native_modules_are_those_that_were_to_be_built(tree: Path, names: list[str]) -> None:
    for wanted in ([], ["cpu", "cuda"]):
        [said] = checks.content_faults(names, tree, wanted)
        assert "native modules ['cpu']" in said


def test_a_build_that_was_given_torch_or_shows_nothing_is_told() -> None:
    assert checks.isolation_faults(LOG) == []
    [said] = checks.isolation_faults(LOG + "  Downloading torch-2.10.0-cp311-none.whl (1 kB)\n")
    assert "given torch: torch-2.10.0" in said
    [said] = checks.isolation_faults("")
    assert "no setuptools" in said


@pytest.mark.parametrize("count", [0, 2])
def test_one_warning_is_one(count: int) -> None:
    assert checks.fallback_faults(f"warning: {checks.GOING_ON}: there is no nvcc.\n") == []
    [said] = checks.fallback_faults(checks.GOING_ON * count)
    assert f"{count} times" in said


def test_the_words_of_the_warning_are_those_of_setup_py() -> None:
    assert checks.GOING_ON in (ROOT / "setup.py").read_text()


def test_other_architectures_are_told() -> None:
    assert checks.architecture_faults(["800", "900"], ["80", "90"]) == []
    for found in ([], ["800"], ["900", "800"]):
        assert checks.architecture_faults(found, ["80", "90"]) != []


def test_a_build_that_fails_or_takes_too_long_ends_the_proof(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = tmp_path / "pip"
    for script, seconds in (("echo no luck; exit 3", 60), ("echo no luck; exec sleep 60", 1)):
        pip.write_text(f"#!/bin/sh\n{script}\n")
        pip.chmod(0o755)
        with pytest.raises(SystemExit, match="the build failed"):
            building.wheel(pip, ROOT, tmp_path, {"PATH": "/bin:/usr/bin"}, seconds)
        assert "no luck" in capsys.readouterr().err


def test_the_files_of_a_wheel_are_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("unitok/__init__.py", "")
        archive.writestr("unitok/ids/", "")
    assert building.contents(tmp_path / "a.whl") == ["unitok/__init__.py"]


def test_a_script_that_fails_in_what_was_built_ends_the_proof(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(building, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"without_kernels.py failed"):
        building.run_inside(
            Path(sys.executable), "without_kernels.py", str(tmp_path), variables={"PYTHONPATH": str(ROOT)}
        )
    assert "unitok_kernels is not that of" in capfd.readouterr().err
    with pytest.raises(SystemExit, match=r"with_kernels.py failed"):  # torch is here
        building.run_inside(Path(sys.executable), "with_kernels.py", "cpu", variables={"PYTHONPATH": str(ROOT)})


def test_faults_give_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert building.conclude("wheel", [], "fine") == 0
    assert building.conclude("wheel", ["one", "two"], "fine") == 1
    assert capsys.readouterr() == ("wheel: fine\n", "wheel: one.\nwheel: two.\n")


def test_the_source_archive_has_every_source(tmp_path: Path) -> None:
    """One that is left out would be missed only where somebody compiles."""
    with tarfile.open(building.source_archive(tmp_path)) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.*") if path.suffix != ".md"}
    assert {*checks.expected(ROOT), *sources} <= packed


def test_make_has_short_targets_and_proves_all_of_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"^([a-z-]+):(.*(?:\n\t.*)*)", makefile, re.MULTILINE))
    proofs = targets["prove"].partition("##")[0].split()
    assert {*proofs} == {name for name in targets if name.startswith("prove-")}
    assert all(targets[name].count("\n\t") in range(1, 7) for name in proofs)
    told = re.search(r"^OLDEST_TRITON := ([\d.]+)", makefile, re.MULTILINE)
    assert told
    assert f'"triton>={told[1].removesuffix(".0")};' in (ROOT / "pyproject.toml").read_text()
