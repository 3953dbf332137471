"""The native modules; everything else is in pyproject.toml. Nothing here, and nothing in csrc, knows of torch."""

import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # which an isolated build leaves out
from unitok_kernels import nvcc

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


class Build(build_ext):
    """Builds the CUDA module where there is an nvcc; UNITOK_CUDA=1 demands it, UNITOK_CUDA=0 leaves it out."""

    def build_extension(self, extension: Extension) -> None:
        """Build one module."""
        if extension is not cuda:
            super().build_extension(extension)
            return
        Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)  # of an earlier build
        if (wish := os.environ.get("UNITOK_CUDA")) != "0":
            try:
                self.build_cuda()
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                missing = f"there is no nvcc in CUDA_HOME, in PATH or from pip. `{nvcc.INSTALL}` brings one"
                reason = missing if isinstance(error, FileNotFoundError) else "nvcc failed, as said above"
                if wish == "1":
                    raise SystemExit(f"UNITOK_CUDA=1 demands CUDA kernels, but {reason}.") from error
                self.warn(f"going on without CUDA kernels: {reason}.")

    def build_cuda(self) -> None:
        """Compile each source by nvcc, some at a time, and link them with the CUDA runtime inside."""
        if (compiler := nvcc.find()) is None:
            raise FileNotFoundError("nvcc")
        numbers = nvcc.architectures(compiler)
        flags = [*nvcc.FLAGS, "-Icsrc/cuda"]
        flags += [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]

        def compiled(source: str) -> str:
            codes = nvcc.code_flags(nvcc.narrowed(numbers, source))
            made = Path(self.build_temp, *numbers, source).with_suffix(".o")
            made.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([compiler, *flags, *codes, "-c", source, "-o", made], check=True)
            return str(made)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compiled, [source for source in cuda.sources if nvcc.narrowed(numbers, source)]))
        target = Path(self.get_ext_fullpath(cuda.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        libraries = [f"-L{path}" for path in Path(compiler).resolve().parent.parent.glob("lib*")]  # pip's is lib
        subprocess.run([compiler, "-shared", "-cudart", "static", *libraries, *objects, "-o", target], check=True)


cpu = Pybind11Extension(
    "unitok_kernels._cpu",
    ["csrc/bindings_cpu.cpp", *sorted(map(str, Path("csrc/cpu").rglob("*.cpp")))],
    include_dirs=["csrc/cpu"],
    depends=sorted(map(str, [*Path("csrc").glob("*.h"), *Path("csrc/cpu").rglob("*.h")])),
    cxx_std=17,
    extra_compile_args=[*FLAGS, *os.environ.get("UNITOK_CXXFLAGS", "").split()],
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler the install goes on with a warning, and the reference backend stands in
)
cuda = Extension(
    "unitok_kernels._cuda",
    ["csrc/bindings_cuda.cpp", *sorted(map(str, Path("csrc/cuda").rglob("*.cu")))],
    # which goes into the source archive by this
    depends=sorted(map(str, [*Path("csrc").glob("*.h"), *Path("csrc/cuda").rglob("*.*h")])),
    optional=True,  # as is the other
)
ParallelCompile("MAX_JOBS").install()
setup(ext_modules=[cpu, cuda], cmdclass={"build_ext": Build})
