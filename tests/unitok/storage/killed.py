"""Writes that are killed at every step: each is done by a process that ends itself there. Run as a program.

It prints a line a step: the call, and what a reader finds after it, old or new. A mix fails, and so does a later write.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unitok.storage.whole import whole_file, whole_files, whole_read

STEPS = ("chmod", "fsync", "link", "mkdir", "open", "rename", "replace", "rmdir", "unlink")
OLD = {"a.bin": "old a", "b.bin": "old b", "gone.bin": "old", "sub/c.bin": "old c"}
NEW = {"a.bin": "new a", "b.bin": "new b", "more.bin": "new", "sub/c.bin": "new c"}
OURS = sorted({*OLD, *NEW})


def write_files(folder: Path, files: dict[str, str]) -> None:
    with whole_files(folder, drop=OURS) as staging:
        (staging / "sub").mkdir()
        for name, content in files.items():
            (staging / name).write_text(content)
            os.chmod(staging / name, 0o600)


def read_files(folder: Path) -> dict[str, str]:
    def read(base: Path) -> dict[str, str]:
        return {name: (base / name).read_text() for name in OURS if (base / name).exists()}

    return whole_read(folder, ("a.bin",), read)


def write_file(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    with whole_file(folder / "a.bin") as partial:
        partial.write_text(files["a.bin"])
        os.chmod(partial, 0o600)


def read_file(folder: Path) -> dict[str, str]:
    return {"a.bin": (folder / "a.bin").read_text()}


def interrupted(work: Callable[[], None], step: int, act: Callable[[str], None]) -> bool:
    """Do work whose call number `step` of the system is not done, `act` being called instead; False past the last."""
    calls, kept = 0, {name: getattr(os, name) for name in STEPS}

    def counted(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                act(name)
            return kept[name](*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, counted(name))
    try:
        work()
    finally:
        for name, function in kept.items():
            setattr(os, name, function)
    return calls > step


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def main(folder: Path, kind: str) -> None:
    write, read = (write_file, read_file) if kind == "file" else (write_files, read_files)
    old, new = ({k: v for k, v in files.items() if kind == "files" or k == "a.bin"} for files in (OLD, NEW))
    for step in range(1000):
        place = folder / str(step)
        write(place, OLD)
        (place / "user.txt").write_text("mine")
        told, tell = os.pipe()

        def end(name: str, tell: int = tell) -> None:
            os.write(tell, name.encode())
            os._exit(9)

        child = os.fork()
        if child == 0:
            interrupted(lambda place=place: write(place, NEW), step, end)  # type: ignore[misc]
            os._exit(0)
        os.close(tell)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        where = os.read(told, 99).decode()
        os.close(told)
        unread = folder / f"{step} unread"
        shutil.copytree(place, unread)
        found = read(place)
        assert found in (old, new), (step, where, found)
        print(step, where or "done", "new" if found == new else "old")
        if status == 0:
            assert found == new
            return
        for left in (place, unread):
            write(left, {**NEW, "a.bin": "later"})
            assert names(left) == sorted({*new, "user.txt"}), (step, where, names(left))
            assert read(left) == {**new, "a.bin": "later"}, (step, where)
    raise AssertionError("no end")


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a killed process wrote the system has
    main(Path(sys.argv[1]), sys.argv[2])
