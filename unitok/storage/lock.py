"""One writer of a folder at a time, for work that takes long: the second is refused and told who holds it."""

from __future__ import annotations

import contextlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unitok.storage.whole import BusyError

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".unitok-lock"
_SETTLES = 0.2  # seconds in which a lock that is being released is gone


@contextmanager
def only_writer(what: str, folder: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for one piece of work, in this process and among all others.

    The lock ends with its process, however that ends. A thread may take a lock again that it holds already. Where the
    file system knows no locks, as some networks' don't, nothing is held.

    Args:
        what: the operation that a message names.
        folder: is made where it is missing, and removed again if it stays empty.
        wait: seconds that another may still need, for work that is short itself.

    Yields:
        None: while the folder is held.

    Raises:
        BusyError: another process or thread holds it; the message names it.
        OSError: the folder can't be made or written to.
    """
    folder = Path(folder)
    made = not folder.exists()
    file = Path(os.path.realpath(folder)) / LOCK
    try:
        lock = _acquired(file, max(wait, _SETTLES))
    except TimeoutError as error:
        step = "Wait until it is done, or choose another folder."
        raise BusyError(f"{what}: {folder} must be free to write to, got {_holder(file)}. {step}") from error
    except NotImplementedError:  # the file system knows no locks
        yield
        return
    try:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # on Windows nobody may write a locked file
                file.write_text(_self(), encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # nor remove it
                file.unlink()  # still held: whoever has it open sees that it is gone, and makes another
            if made:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        lock.release()


def _acquired(file: Path, wait: float) -> FileLock:
    """Take a lock in a folder, which is made where it is missing."""
    from filelock import FileLock  # here, since who only reads takes none

    # Without locks of the file system, filelock may keep a file of its own instead, which a kill would leave for ever.
    known = inspect.signature(FileLock.__init__).parameters
    native: dict[str, Any] = {"fallback_to_soft": False} if "fallback_to_soft" in known else {}
    end = time.monotonic() + wait
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, is_singleton=True, **native)
        try:
            lock.acquire(timeout=max(0.0, end - time.monotonic()), poll_interval=_SETTLES / 4)
        except FileNotFoundError:  # its holder has just removed the folder, which stayed empty
            if time.monotonic() > end:
                raise
        else:
            return lock


def _self() -> str:
    """Describe this process, for whoever finds the folder held."""
    command = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])
    return f"process {os.getpid()} on {platform.node()}, {command[:200]!r}, there since {time.strftime('%H:%M:%S')}"


def _holder(file: Path) -> str:
    try:
        said = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    return said if said.startswith("process ") else "another process there"
