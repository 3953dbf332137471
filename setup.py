"""The native module; everything else is in pyproject.toml. Nothing here, and nothing in csrc, knows of torch."""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

FLAGS = [
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # a sum that is fused on one machine and not on another gives other bits
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # GCC's own intrinsics headers
    "-Wno-uninitialized",
    "-Wno-psabi",
]

cpu = Pybind11Extension(
    "unitok_kernels._cpu",
    ["csrc/bindings_cpu.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
    include_dirs=["csrc/cpu"],
    depends=sorted(map(str, Path("csrc/cpu").glob("*.h"))),
    cxx_std=17,
    extra_compile_args=[*FLAGS, *os.environ.get("UNITOK_CXXFLAGS", "").split()],
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler the install goes on with a warning, and the reference backend stands in
)
ParallelCompile("MAX_JOBS").install()
setup(ext_modules=[cpu])
