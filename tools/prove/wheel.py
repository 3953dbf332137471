"""Build a wheel out of the source archive, in isolation and without torch, and look at what it holds.

With nvcc the CUDA module is part of it; without one it is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tools.prove import building, checks
from unitok_kernels import nvcc

SECONDS = 240  # what a build may take


def main() -> int:
    """Build and look; give the exit status."""
    folder = building.emptied("wheel")
    programs = building.environment(folder)
    compiler = nvcc.find()
    variables = {**os.environ, "UNITOK_CUDA": str(int(compiler is not None))}
    archive = building.source_archive(folder)
    path, log = building.wheel(programs / "pip", archive, folder, variables, SECONDS)
    names = building.contents(path)
    native = ["cpu", "cuda"] if compiler else ["cpu"]
    faults = [*checks.isolation_faults(log), *checks.content_faults(names, building.ROOT, native)]
    if path.stat().st_size >= checks.MOST_BYTES:
        faults.append(f"the wheel has {path.stat().st_size} bytes; {checks.MOST_BYTES:.0f} are too many")
    subprocess.run([programs / "pip", "install", "-q", "--no-deps", path], check=True)
    lines = building.run_inside(programs / "python", "with_kernels.py", *native)
    said = {line.split()[0]: line.split()[1:] for line in lines}
    if compiler:
        faults += checks.architecture_faults(said["cuda"], nvcc.architectures(compiler))
    kernels = "; ".join(f"{name} kernels for {' '.join(built)}" for name, built in said.items())
    size = f"{len(names)} files, {path.stat().st_size / 1e6:.1f} MB"
    return building.conclude("wheel", faults, f"built and imported without torch, {size}; {kernels}")


if __name__ == "__main__":
    sys.exit(main())
