"""The native module; everything else is in pyproject.toml. Nothing here, and nothing in csrc, knows of torch."""

import os
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # a sum that is fused on one machine and not on another gives other bits
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # GCC's own intrinsics headers
    "-Wno-psabi",
]


class BuildWhatCompiles(build_ext):
    """Without a compiler the install goes on, in plain Python, and says so once."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("UNITOK_NATIVE") == "1":
                raise
            print(f"unitok: {ext.name} was not built ({error}); the reference backend stands in.", file=sys.stderr)

    def get_outputs(self):
        return [path for path in super().get_outputs() if Path(path).exists()]


cpu = Pybind11Extension(
    "unitok_kernels._cpu",
    ["csrc/bindings_cpu.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
    include_dirs=["csrc/cpu"],
    depends=sorted(map(str, Path("csrc/cpu").glob("*.h"))),
    cxx_std=17,
    extra_compile_args=[*FLAGS, *os.environ.get("UNITOK_CXXFLAGS", "").split()],
    extra_link_args=["-pthread"],
    optional=True,
)
ParallelCompile("MAX_JOBS").install()
setup(ext_modules=[cpu], cmdclass={"build_ext": BuildWhatCompiles})
