"""What setup.py builds of csrc/cuda, with a compiler that writes down what it was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from unitok_kernels import nvcc

ROOT = Path(__file__).resolve().parents[3]
COMPILER = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case "$*" in
  *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_100\\n' ;;
  *broken*) echo 'broken.cu: error' >&2; exit 2 ;;
  *) while [ "$1" != -o ]; do shift; done; touch "$2" ;;
esac
"""


def install(folder):
    folder.mkdir(parents=True)
    compiler = folder / "nvcc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    return str(compiler)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without nvcc, whose packages are in tmp_path / "packages"."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(tmp_path / "packages"))


@pytest.mark.usefixtures("nowhere")
def test_nvcc_is_looked_for_in_three_places(monkeypatch, tmp_path):
    assert nvcc.find() is None
    older = install(tmp_path / "packages" / "nvidia" / "cu12" / "bin")
    assert nvcc.find() == older
    from_pip = install(tmp_path / "packages" / "nvidia" / "cu13" / "bin")
    assert nvcc.find() == from_pip
    in_path = install(tmp_path / "bin")
    assert nvcc.find() == in_path
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert nvcc.find() == in_path
    named = install(tmp_path / "home" / "bin")
    assert nvcc.find() == named


def test_architectures_are_those_that_nvcc_knows_or_those_that_are_named(monkeypatch, tmp_path):
    compiler = install(tmp_path / "bin")
    monkeypatch.delenv("UNITOK_CUDA_ARCHS", raising=False)
    assert nvcc.architectures(compiler) == ["80", "90", "100"]
    assert nvcc.code_flags(["80", "90"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
        "-DUNITOK_SM90A",
    ]
    assert nvcc.code_flags(["80"])[1:] == ["-gencode=arch=compute_80,code=compute_80"]
    monkeypatch.setenv("UNITOK_CUDA_ARCHS", "86;90")
    assert nvcc.architectures(compiler) == ["86", "90"]


def test_a_source_for_sm_90a_is_compiled_for_that_alone():
    assert nvcc.narrowed(["80", "90"], "cuda/one.cu") == ["80", "90"]
    assert nvcc.narrowed(["80", "90"], "cuda/one_sm90a.cu") == ["90a"]
    assert nvcc.narrowed(["80"], "cuda/one_sm90a.cu") == []
    assert nvcc.code_flags(["90a"]) == ["-gencode=arch=compute_90a,code=sm_90a"]


@pytest.fixture
def checkout(tmp_path):
    """`checkout(**environment)`: builds what setup.py builds, but for the CPU's sources; gives the finished process."""
    tree = tmp_path / "tree"
    (tree / "csrc" / "cuda").mkdir(parents=True)
    (tree / "unitok_kernels").mkdir()
    for name in ("setup.py", "unitok_kernels/__init__.py", "unitok_kernels/nvcc.py"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("bindings_cpu.cpp", "bindings_cuda.cpp", "cuda/one.cu", "cuda/two_sm90a.cu"):
        (tree / "csrc" / name).touch()

    def build(**environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNITOK", "CUDA"))}
        kept |= {"PATH": os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"]), "CC": "false", "CXX": "false"}
        return subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=tree, env=kept | environment, capture_output=True, text=True,
        )  # fmt: skip

    build.modules = lambda: [path.name.split(".")[0] for path in (tree / "unitok_kernels").glob("*.so")]
    build.tree = tree
    return build


without_nvcc = pytest.mark.skipif(
    any(Path(folder, "nvcc").exists() for folder in ("/usr/bin", "/bin"))
    or bool(list(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))),
    reason="an nvcc is where it can't be hidden",
)


@without_nvcc
def test_without_nvcc_the_install_goes_on_and_says_so_in_a_line(checkout):
    done = checkout()
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "CUDA" in line] == [
        "warning: Build: going on without CUDA kernels: there is no nvcc in CUDA_HOME, in PATH or from pip. "
        "`pip install 'cuda-toolkit[nvcc,cccl]'` brings one."
    ]
    assert checkout.modules() == []


@without_nvcc
def test_a_demand_without_nvcc_fails_with_the_remedy(checkout):
    done = checkout(UNITOK_CUDA="1")
    assert done.returncode != 0
    assert "UNITOK_CUDA=1 demands CUDA kernels, but there is no nvcc" in done.stderr
    assert "`pip install 'cuda-toolkit[nvcc,cccl]'` brings one." in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_asked_for_is_built_and_the_rest_left_out(checkout, tmp_path):
    install(tmp_path / "bin")
    asked = tmp_path / "bin" / "asked"
    done = checkout(UNITOK_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert "CUDA" not in done.stderr
    assert (asked.exists(), checkout.modules()) == (False, [])

    done = checkout(MAX_JOBS="2")
    assert done.returncode == 0, done.stderr
    assert checkout.modules() == ["_cuda"]
    _, *compiled, linked = asked.read_text().splitlines()
    assert sorted(line.split(" -c ")[1].split()[0] for line in compiled) == [
        "csrc/bindings_cuda.cpp",
        "csrc/cuda/one.cu",
        "csrc/cuda/two_sm90a.cu",
    ]
    [alone] = [line for line in compiled if "two_sm90a" in line]
    assert ("code=sm_90a" in alone, alone.count("-gencode")) == (True, 1)
    compiled.remove(alone)
    assert all("sm_80" in line and "sm_100" in line and "code=compute_100" in line for line in compiled)
    assert all("sm_90a" not in line and "-DUNITOK_SM90A" in line for line in compiled)
    assert not any("torch" in line for line in compiled)
    assert "-cudart static" in linked

    asked.unlink()
    assert checkout(UNITOK_CUDA_ARCHS="90", UNITOK_CUDA="1").returncode == 0
    assert all("code=sm_90" in line and "sm_80" not in line for line in asked.read_text().splitlines()[:-1])

    asked.unlink()
    assert checkout(UNITOK_CUDA_ARCHS="80", UNITOK_CUDA="1").returncode == 0
    assert not any(word in asked.read_text() for word in ("sm_90", "two_sm90a", "SM90A"))


def test_a_source_that_does_not_compile_is_left_out_unless_demanded(checkout, tmp_path):
    install(tmp_path / "bin")
    assert checkout().returncode == 0
    (checkout.tree / "csrc" / "cuda" / "broken.cu").touch()
    for module in (checkout.tree / "unitok_kernels").glob("*.so"):
        module.unlink()
    done = checkout()
    assert done.returncode == 0, done.stderr
    assert "broken.cu: error" in done.stderr
    assert "going on without CUDA kernels: nvcc failed, as said above." in done.stderr
    assert checkout.modules() == []  # nor the one of before
    done = checkout(UNITOK_CUDA="1")
    assert done.returncode != 0
    assert "UNITOK_CUDA=1 demands CUDA kernels, but nvcc failed, as said above." in done.stderr
