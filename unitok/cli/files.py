"""How commands write files: never over an existing one without --force, and never half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from unitok.cli.terminal import Refusal


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a path where a file is already."""
    if not force and path.exists():
        raise Refusal(f"{path}: the file is there already. Choose another name, or pass --force to replace it.")


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output that can't be written, before the work for it; its folder is made where it is missing."""
    with suppress(_TriedError), replacing(path, force=force):
        raise _TriedError


class _TriedError(Exception):
    """The output can be written, and isn't yet."""


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if the block ends without an error."""
    from unitok.storage.whole import whole_file

    if path.is_dir():
        raise Refusal(f"{path}: the output must be a file, got a folder. Name a file in it.")
    check_free(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:  # before the work, so that an unwritable folder is found at once
            partial = stack.enter_context(whole_file(path))
        except OSError as error:
            raise Refusal(f"{path}: {error.strerror}" if error.strerror else str(error)) from error
        yield partial


def check_takes_tokenizer(what: str, folder: Path, *, force: bool) -> None:
    """Refuse a folder where a tokenizer would replace something, before any work is done."""
    from unitok.storage.saved import TOKENIZER, check_free

    try:
        check_free(what, TOKENIZER, folder, force=force)
    except FileExistsError as error:
        if not folder.is_dir():
            raise
        step = "Choose another folder, or pass --force to replace it."
        raise Refusal(f"{folder}: a tokenizer is there already. {step}") from error
