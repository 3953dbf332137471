"""Where nvcc is and how it is called: for setup.py, before anything is installed, and for `unitok doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

ARCHITECTURES = ("80", "90", "100", "120")
# Products and sums aren't fused, as in the CPU kernels: where a single rounding is meant, the sources say so.
FLAGS = ("-O3", "-std=c++17", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden")
INSTALL = "pip install 'cuda-toolkit[nvcc,cccl]'"
BUILD = "UNITOK_CUDA=1 pip install --force-reinstall --no-deps ."


def find() -> str | None:
    """Look for nvcc in CUDA_HOME, in PATH and among the packages from pip.

    Returns:
        str: the path of nvcc; None if it isn't found.
    """
    home = os.environ.get("CUDA_HOME")
    folders = [os.path.join(home, "bin")] if home else []
    folders += os.get_exec_path()
    for packages in dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")):
        folders += sorted(map(str, Path(packages).glob("nvidia/cu[0-9]*/bin")), reverse=True)
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def architectures(nvcc: str) -> list[str]:
    """List what to compile for: what UNITOK_CUDA_ARCHS names, such as "80;90", or all that this nvcc knows.

    Args:
        nvcc: path of the compiler.

    Returns:
        list[str]: numbers as in "sm_90", the newest last.

    Raises:
        subprocess.CalledProcessError: nvcc doesn't run.
    """
    if named := os.environ.get("UNITOK_CUDA_ARCHS"):
        return named.split(";")
    known = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout.split()
    return [number for number in ARCHITECTURES if f"compute_{number}" in known]


def narrowed(numbers: list[str], source: str) -> list[str]:
    """List which of these a source is compiled for: all of them, but 90a instead of 90 alone for *_sm90a.cu."""
    if not source.endswith("_sm90a.cu"):
        return numbers
    return ["90a"] if "90" in numbers else []


def code_flags(numbers: list[str]) -> list[str]:
    """Ask for machine code for each architecture, and for PTX of the last one for newer devices.

    PTX of 90a runs on nothing newer. A macro tells the other sources that there is a part for 90a.
    """
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    if numbers == ["90a"]:
        return codes
    told = ["-DUNITOK_SM90A"] if "90" in numbers else []
    return [*codes, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}", *told]
