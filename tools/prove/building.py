"""Wheels built in isolation, and an environment that holds nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runs" / "prove"
INSIDE = Path(__file__).parent / "inside"


def emptied(name: str) -> Path:
    """Make an empty folder for a proof, and take from build/ what an earlier build of the tree left to be found."""
    for pattern in ("lib*", "temp*", "bdist*"):
        for old in (ROOT / "build").glob(pattern):
            shutil.rmtree(old)
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    (FOLDER / name).mkdir(parents=True)
    return FOLDER / name


def environment(folder: Path) -> Path:
    """Make an environment with pip alone; give its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    return folder / "env" / "bin"


def source_archive(folder: Path) -> Path:
    """Pack what a build from source is given, as for an index."""
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return one(folder, "*.tar.gz")


def wheel(pip: Path, source: Path, folder: Path, variables: Mapping[str, str], seconds: float) -> tuple[Path, str]:
    """Build a wheel in isolation; give it and the log.

    Raises:
        SystemExit: it failed or took too long; the end of the log is printed.
    """
    command: list[str | Path] = [pip, "wheel", "-v", "--no-deps", "--no-cache-dir", "-w", folder, source]
    log = folder / "build.log"
    with log.open("w") as file:
        # In a session of its own, so that compilers don't outlive a pip that took too long.
        build = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: object = build.wait(seconds)
        except subprocess.TimeoutExpired:
            status = f"over {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGKILL)
            build.wait()
    if status != 0:
        print("\n".join(log.read_text().splitlines()[-30:]), file=sys.stderr)
        raise SystemExit(f"{folder.name}: the build failed: {status}.")
    return one(folder, "*.whl"), log.read_text()


def one(folder: Path, pattern: str) -> Path:
    """Find the one file that there must be."""
    [path] = folder.glob(pattern)
    return path


def contents(path: Path) -> list[str]:
    """List a wheel's files."""
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def run_inside(python: Path, script: str, *arguments: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """Run a script of `inside` away from the tree; give the lines that it prints."""
    done = subprocess.run(
        [python, INSIDE / script, *arguments],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": "", **(variables or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{script} failed in what was built, as said above")
    return done.stdout.splitlines()


def conclude(what: str, faults: Sequence[str], found: str) -> int:
    """Print what is wrong, or what was found; give the exit status."""
    for fault in faults:
        print(f"{what}: {fault}.", file=sys.stderr)
    if not faults:
        print(f"{what}: {found}")
    return 1 if faults else 0
