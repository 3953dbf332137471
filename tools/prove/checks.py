"""What a built package must be, as functions from what was found to what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("unitok", "unitok_kernels")
GOING_ON = "going on without CUDA kernels"
MOST_BYTES = 20e6  # of a wheel with CUDA kernels
_MODULE = re.compile(r"unitok_kernels/_(cpu|cuda)\.[^/]+\.(so|pyd)")
_METADATA = re.compile(r"unitok_kernels-[^/]+\.dist-info/.+")
_STRANGERS = re.compile(r"(^|[/_.-])(aot|budgets?|tests?|tools?|benchmarks?|bench|conftest|csrc|prediction)([/_.-]|$)")


def expected(root: Path) -> set[str]:
    """Name the files of a tree that its wheel must hold: every module of both packages, and that they are typed."""
    modules = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {path.relative_to(root).as_posix() for path in modules} | {f"{package}/py.typed" for package in PACKAGES}


def content_faults(names: Sequence[str], root: Path, native: Sequence[str]) -> list[str]:
    """Hold a wheel's files to a tree's.

    Args:
        names: of its files.
        root: the tree that it was built from.
        native: the native modules that it must hold, such as "cpu".

    Returns:
        list[str]: what is wrong; empty where nothing is.
    """
    wanted = expected(root)
    modules = [found[1] for name in names if (found := _MODULE.fullmatch(name))]
    others = {name for name in names if not _MODULE.fullmatch(name) and not _METADATA.fullmatch(name)}
    said = [f"the wheel lacks {name}" for name in sorted(wanted - others)]
    said += [f"the wheel holds {name}, which is not of the packages" for name in sorted(others - wanted)]
    said += [f"the wheel holds {name}, which is for development" for name in names if _STRANGERS.search(name)]
    if sorted(modules) != sorted(native):
        said.append(f"the wheel has the native modules {sorted(modules)}, and should have {sorted(native)}")
    return said


def isolation_faults(log: str) -> list[str]:
    """Hold a verbose build's log to isolation: it lists what went into the environment, setuptools and no torch."""
    said = []
    if not re.search(r"[ /]setuptools-[0-9]", log):
        said.append("the build's log names no setuptools, so that it doesn't show what the build was given")
    if found := re.search(r"[ /]torch-[0-9].*", log):
        said.append(f"the build was given torch: {found[0].strip()}")
    return said


def fallback_faults(log: str) -> list[str]:
    """Hold the log of a build without compilers to one line that says so."""
    count = log.count(GOING_ON)
    return [] if count == 1 else [f'the log says "{GOING_ON}" {count} times, not once']


def architecture_faults(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Hold what a CUDA module says that it is built for, 900, to what nvcc was asked for, "90"."""
    asked = [f"{number}0" for number in wanted]
    return [] if [*found] == asked else [f"the CUDA kernels are for {[*found]}, and were asked for {asked}"]
