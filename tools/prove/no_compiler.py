"""Install where no compiler works and nvcc isn't to be found: it goes on with one warning, and the reference works."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

from tools.prove import building, checks

SECONDS = 60  # what a build may take


def main() -> int:
    """Build, install and encode; give the exit status."""
    folder = building.emptied("no_compiler")
    programs = building.environment(folder)
    kept = {name: value for name, value in os.environ.items() if name not in ("UNITOK_CUDA", "CUDA_HOME")}
    variables = {**kept, "PATH": str(programs), "CC": "/bin/false", "CXX": "/bin/false"}
    path, log = building.wheel(programs / "pip", building.ROOT, folder, variables, SECONDS)
    faults = [*checks.fallback_faults(log), *checks.content_faults(building.contents(path), building.ROOT, [])]
    lib = folder / "lib"
    subprocess.run([programs / "pip", "install", "-q", "--no-deps", "--target", lib, path], check=True)
    found = os.pathsep.join([str(lib), sysconfig.get_path("purelib")])  # with torch, which this environment lacks
    building.run_inside(programs / "python", "without_kernels.py", str(lib), variables={"PYTHONPATH": found})
    return building.conclude("no compiler", faults, "installed, and the reference works")


if __name__ == "__main__":
    sys.exit(main())
