"""The one writer of all that replaces a file or a folder: written beside it, synced, renamed.

What is written goes into a hidden folder beside its target. Once it is whole it is synced, gets the permissions that
the umask grants, and takes its target's place in one rename. A set of files becomes the folder `.unitok-new` by that
rename, which is the only instant that counts: from then on readers read there, and each file is linked to its place.
A kill at any instant leaves all of the old or all of the new; whoever comes next finishes what was begun.

Writers of one folder wait for each other. Where the file system knows no locks, as some networks' don't, two of them
at once may leave a set that its digests refuse.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TypeVar

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # not on Windows, whose files can't be locked this way
    fcntl = None  # type: ignore[assignment]

_HIDDEN = ".unitok-"
_STAGING, _NEW = f"{_HIDDEN}partial-", f"{_HIDDEN}new"
_LINK, _DROPPED = f"{_HIDDEN}link", f"{_HIDDEN}dropped.json"  # in `.unitok-new`; no part of the set
_TRIES = 20  # of a reader, each after a save that came between

Found = TypeVar("Found")


class BusyError(OSError):
    """Files were replaced as often as they were read."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a file to write that takes the place of another once the block has ended well.

    Args:
        path: the file; its folder must be there. A link is followed.

    Yields:
        Path: a file of the same name in a hidden folder beside it, not made yet.

    Raises:
        OSError: the file can't be written; what was there stays to the byte.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: the output must be a file, got a folder or a device. Name another.")
    with _named(path), _staging(path.parent) as staging:
        partial = staging / path.name
        yield partial
        _seal(staging)
        os.replace(partial, path)
        _sync_folder(path.parent)


@contextmanager
def whole_files(folder: str | Path, drop: Iterable[str] = ()) -> Iterator[Path]:
    """Give an empty folder to write in whose files take their places in another at one stroke.

    Files of the folder that the new set doesn't name stay as they are.

    Args:
        folder: is made where it is missing.
        drop: files of the folder that go where the new set has none of that name.

    Yields:
        Path: the folder to write in; it may get folders of its own.

    Raises:
        OSError: the folder can't be written to. Readers find all of the old files, or all of the new.
    """
    folder = Path(folder)
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
        with _staging(folder) as staging:
            yield staging
            if taken := next((file for file in _files(staging) if (folder / file).is_dir()), None):
                raise IsADirectoryError(f"{folder / taken}: the output must be a file, got a folder. Remove it.")
            (staging / _DROPPED).write_text(json.dumps(sorted(drop)))
            _seal(staging)
            with _locked(folder):
                _settle(folder)  # what another began comes first
                os.rename(staging, folder / _NEW)  # from here on the new files are those of the folder
                _sync_folder(folder)
                _settle(folder)


def current(folder: str | Path) -> Path:
    """Tell where a folder's files are to be read.

    Args:
        folder: that `whole_files` writes to.

    Returns:
        Path: the folder, or the one in it with new files that haven't all come to their places.
    """
    new = Path(folder) / _NEW
    return new if new.is_dir() else Path(folder)


def whole_read(folder: str | Path, names: Iterable[str], read: Callable[[Path], Found]) -> Found:
    """Read files that belong together, again where a writer replaced them meanwhile.

    Args:
        folder: that `whole_files` writes to.
        names: files of which every new set has another.
        read: is given the folder to read in.

    Returns:
        What `read` gave, or raised, while no file was replaced.

    Raises:
        BusyError: the files were replaced each time.
    """
    folder, names = Path(folder), tuple(names)
    if (folder / _NEW).is_dir():
        with contextlib.suppress(OSError), _locked(folder, wait=False) as alone:  # or read where they are
            if alone:
                _settle(folder)
    for tried in range(_TRIES):
        time.sleep(0.01 * tried)
        before = _state(folder, names)
        try:
            found = read(before[0])
        except Exception:
            if _state(folder, names) == before:
                raise
        else:
            if _state(folder, names) == before:
                return found
    raise BusyError(f"{folder}: files must stay while they are read, got {_TRIES} saves in a row. Read them later.")


def stamps(folder: str | Path, names: Iterable[str]) -> tuple[object, ...]:
    """Tell which files are there: equal as long as none was replaced, for what is read in several steps.

    Args:
        folder: that `whole_files` writes to.
        names: the files; they need not be there.

    Returns:
        One mark per file.
    """
    return _state(Path(folder), tuple(names))[1]


def link_or_copy(file: Path, name: Path) -> None:
    """Give a file a second name, or a copy where the file system has no such thing.

    Args:
        file: the file.
        name: the other name; what it named before is left.

    Raises:
        OSError: there is no room for a copy.
    """
    name.unlink(missing_ok=True)
    try:
        os.link(file, name)
    except OSError:
        name.unlink(missing_ok=True)
        shutil.copyfile(file, name)
        shutil.copymode(file, name)
        _sync(name)


def is_hidden(path: Path) -> bool:
    """Tell whether a file or folder is a writer's own, which is no part of what a folder holds."""
    return path.name.startswith(_HIDDEN)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Have every error of the block name what was to be written."""
    try:
        yield
    except SafetensorError as error:
        step = "Free space there, or mend its rights."
        raise OSError(f"{target}: the output must be writable, got {error}. {step}") from error
    except OSError as error:
        if error.filename is not None and _HIDDEN in os.fsdecode(error.filename):
            error.filename = str(target)
        raise


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a hidden folder, locked as long as it is in use; those of writers that were killed are removed."""
    for left in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError), _locked(left, wait=False) as dead:
            if dead:
                _remove(left)
    while True:
        staging = folder / f"{_STAGING}{secrets.token_hex(6)}"
        os.mkdir(staging)
        with _locked(staging, shared=True):
            if not staging.is_dir():  # another found it before it was locked
                continue
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            return


@contextmanager
def _locked(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, and say so; False where there is none to be had."""
    try:
        descriptor = -1 if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError:
        descriptor = -1
    if descriptor < 0:
        yield False
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _settle(folder: Path) -> None:
    """Bring the files of a new set to their places; it stays whole until all are there, and may be begun again."""
    new = folder / _NEW
    if not new.is_dir():
        return
    files = _files(new)
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(new / file, new / _LINK)
        os.replace(new / _LINK, target)
        (new / _LINK).unlink(missing_ok=True)  # left where both were one file already
    for name in json.loads((new / _DROPPED).read_text()):
        path = PurePath(name)
        if path not in files and not path.is_absolute() and ".." not in path.parts and (folder / path).is_file():
            os.unlink(folder / path)
    for place in {(folder / file).parent for file in files} | {folder}:
        _sync_folder(place)
    _remove(new)
    _sync_folder(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of a writer's own: gone at one stroke, whatever becomes of what was in it."""
    gone = folder.with_name(f"{_STAGING}{secrets.token_hex(6)}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _files(folder: Path) -> list[PurePath]:
    """List the files of a set, folders within it included."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path))
    return [path.relative_to(folder) for path in found]


def _seal(staging: Path) -> None:
    """Give all files the permissions of new ones, whatever wrote them, and sync them and their folders.

    The folder's own permissions tell the umask, which can't be asked for without changing it for all threads.
    """
    mode = stat.S_IMODE(os.stat(staging).st_mode) & 0o666
    for folder, _, names in os.walk(staging):
        for file in (Path(folder, name) for name in names):
            if stat.S_IMODE(os.stat(file).st_mode) != mode:
                os.chmod(file, mode)
            _sync(file)
        _sync_folder(Path(folder))


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_Stamp = tuple[int, int, int, int] | None


def _state(folder: Path, names: tuple[str, ...]) -> tuple[Path, tuple[_Stamp, ...]]:
    """Tell where files are read, and which they are; a file that is replaced is another."""
    while True:
        base = current(folder)
        stamps = tuple(_stamp(base / name) for name in names)
        if current(folder) == base:
            return base, stamps


def _stamp(file: Path) -> _Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
