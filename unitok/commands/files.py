"""How commands write files: never over something without being told to, and never by halves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unitok.commands.terminal import Refusal


def check_free(path: Path, *, force: bool) -> None:
    """Refuse to go on where a file is there already."""
    if not force and path.exists():
        raise Refusal(f"{path}: the file is there already. Choose another name, or pass --force to replace it.")


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a file beside `path` that takes its place once the block has ended well."""
    if path.is_dir():
        raise Refusal(f"{path}: the output must be a file, got a folder. Name a file in it.")
    check_free(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        partial.touch()  # before the work, so that a folder that can't be written to is found out at once
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from error
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
