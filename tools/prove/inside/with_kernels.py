"""A wheel with a compiler: it imports without torch. With the argument "cuda", its CUDA module is looked at, too."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


def main() -> None:
    """Import what was installed and say what is in it."""
    cpu: Any = importlib.import_module("unitok_kernels._cpu")
    for name in ("unitok", "unitok_kernels"):
        importlib.import_module(name)
    print("cpu", *cpu.instruction_sets())
    if "cuda" in sys.argv:
        cuda: Any = importlib.import_module("unitok_kernels._cuda")
        print("cuda", *cuda.architectures)
    if "torch" in sys.modules or importlib.util.find_spec("torch") is not None:
        raise SystemExit("torch is here, so that nothing is shown of an import without it")


if __name__ == "__main__":
    main()
