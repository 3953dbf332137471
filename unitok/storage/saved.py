"""What `save_pretrained` and `from_pretrained` of tokenizers and recommenders promise: one contract for both.

A folder holds one of them or none. What another program, or the user, put there is refused by name and never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unitok.storage.lock import only_writer
from unitok.storage.whole import current

NOT_WHOLE = (ValueError, KeyError, TypeError, RuntimeError, SafetensorError)  # what reading broken files raises
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SHARDS = "model-*-of-*.safetensors"  # as transformers names the parts of large weights
_SAVES = 10.0  # seconds that a save waits for another


@dataclass(frozen=True)
class Kind:
    """A kind of thing that is saved as a folder.

    Attributes:
        name: what messages call it.
        settings: the file that says that a folder holds one.
        marks: keys of that file by which it is told from another program's of that name.
        files: other files that a save may write.
        made_by: what makes one.
        loaded_by: what loads one.
        formerly: what that file was called by older releases.
    """

    name: str
    settings: str
    marks: tuple[str, ...]
    files: tuple[str, ...]
    made_by: str
    loaded_by: str
    formerly: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the settings may be called, the present name first."""
        return (self.settings,) if self.formerly is None else (self.settings, self.formerly)


TOKENIZER = Kind(
    "tokenizer",
    "unitok.json",
    ("format", "weights"),
    (WEIGHTS,),
    "`unitok fit`",
    "Tokenizer.from_pretrained",
    formerly="tokenizer.json",  # which is what transformers calls the tokenizer of a language model
)
RECOMMENDER = Kind(
    "recommender",
    "recommender.json",
    ("format", "kind"),
    (CONFIG, WEIGHTS, f"{WEIGHTS}.index.json", "generation_config.json", "items.safetensors", "head.safetensors"),
    "`unitok recommend train`",
    "SequenceRecommender.from_pretrained",
)
KINDS = (TOKENIZER, RECOMMENDER)


class WrongFolderError(ValueError):
    """Why a folder can't be loaded, and what to do; `not_whole` makes a message of it.

    Args:
        why: what is wrong.
        step: the next step, without a full stop.
    """

    def __init__(self, why: str, step: str) -> None:
        super().__init__(why)
        self.step = step


def check_free(what: str, kind: Kind, directory: str | Path, *, force: bool) -> None:
    """Refuse a folder that something can't be saved in.

    Args:
        what: the operation that a message names.
        kind: what is to be saved.
        directory: the folder; it may be missing.
        force: whether one of the same kind may be replaced.

    Raises:
        FileExistsError: one of the same kind is there and `force` is off, or the path is a file.
        ValueError: the folder holds something else that saving would destroy.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{what}: directory must be a folder, got the file {folder}. Choose another.")
    base = current(folder)
    found = next((f"a {other.name}" for other in KINDS if other is not kind and _holds(base, other)), None)
    if found is None and _holds(base, kind):
        if not force:
            step = "Choose another, or pass force=True."
            raise FileExistsError(f"{what}: directory must hold no {kind.name} yet, got {folder}. {step}")
        return
    found = found or _foreign(base, kind)
    if found is not None:
        raise _not_free(what, kind, folder, found)


def check_own(what: str, kind: Kind, directory: Path, new: Path, written: Iterable[str]) -> None:
    """Refuse new files that would take the places of others than an earlier save wrote.

    Args:
        what: the operation that a message names.
        kind: what is to be saved.
        directory: the folder; it may be missing.
        new: a folder with the new files; what has the same content may be there.
        written: names of the files that the earlier save wrote, if there was one.

    Raises:
        ValueError: the folder holds such a file.
    """
    base, own = current(directory), set(written)
    for file in sorted(path for path in new.rglob("*") if path.is_file()):
        name = file.relative_to(new).as_posix()
        if name not in own and (base / name).is_file() and not cmp(file, base / name, shallow=False):
            raise _not_free(what, kind, directory, _foreign_file(name, kind))


@contextmanager
def free_to_save(what: str, kind: Kind, directory: str | Path, *, force: bool) -> Iterator[None]:
    """Hold a folder that something may be saved in.

    Args:
        what: the operation that a message names.
        kind: what is to be saved.
        directory: the folder; made where it is missing.
        force: whether one of the same kind may be replaced.

    Yields:
        None: while no other process saves there.

    Raises:
        FileExistsError, ValueError: as `check_free` does.
        BusyError: another process or thread works there.
    """
    check_free(what, kind, directory, force=force)
    with only_writer(what, directory, wait=_SAVES):
        check_free(what, kind, directory, force=force)  # another may have saved meanwhile
        yield


def check_holds(what: str, kind: Kind, directory: Path, base: Path) -> None:
    """Refuse a folder that holds nothing of a kind.

    Args:
        what: the operation that a message names.
        kind: what is to be loaded.
        directory: the folder, for the message.
        base: where its files are read.

    Raises:
        FileNotFoundError: nothing is there.
        WrongFolderError: something else is there.
    """
    if _holds(base, kind):
        return
    for other in KINDS:
        if _holds(base, other):
            raise WrongFolderError(f"it holds a {other.name}", f"Load it with {other.loaded_by}")
    if (base / kind.settings).exists():
        raise WrongFolderError(
            f"its {kind.settings} isn't one of UniTok's, or broken", "Check the path, or copy it again"
        )
    if _is_of_transformers(base):
        raise WrongFolderError(f"it holds a model of transformers and no {kind.settings}", "Load it with transformers")
    raise missing(what, kind, kind.settings, directory)


def missing(what: str, kind: Kind, name: str, directory: Path) -> FileNotFoundError:
    """Give the error for a file that isn't there."""
    step = f"Run {kind.made_by}, or check the path."
    return FileNotFoundError(f"{what}: directory must hold {name}, got {directory}. {step}")


def not_whole(what: str, kind: Kind, directory: Path, error: Exception) -> ValueError:
    """Give the error for a folder whose files are broken or don't fit each other; `NOT_WHOLE` are its causes."""
    why = " ".join(str(error).split()).rstrip(".")
    step = error.step if isinstance(error, WrongFolderError) else f"Make it with {kind.made_by}, or copy it again"
    return ValueError(f"{what}: directory must hold a whole {kind.name}, got {directory}: {why}. {step}.")


def settings_file(base: Path, kind: Kind) -> Path | None:
    """Find the settings of what a folder holds of a kind; None where it holds none."""
    for name in kind.names:
        found = _read(base / name)
        if isinstance(found, dict) and all(mark in found for mark in kind.marks):
            return base / name
    return None


def _not_free(what: str, kind: Kind, folder: Path, found: str) -> ValueError:
    rule = f"directory must be free for a {kind.name}"
    return ValueError(f"{what}: {rule}, got {folder} with {found}. Choose another, or move that away.")


def _foreign_file(name: str, kind: Kind) -> str:
    return f"the file {name}, which isn't a {kind.name}'s or is broken"


def _holds(base: Path, kind: Kind) -> bool:
    return settings_file(base, kind) is not None


def _foreign(base: Path, kind: Kind) -> str | None:
    """Name what isn't ours in a folder that holds nothing of a kind and would be lost by saving one."""
    ours = (name for name in (*kind.names, *kind.files) if (base / name).exists())
    parts = (path.name for path in base.glob(SHARDS) if WEIGHTS in kind.files)
    if (name := next(ours, next(parts, None))) is not None:
        return _foreign_file(name, kind)
    return "a model of transformers" if _is_of_transformers(base) else None


def _is_of_transformers(base: Path) -> bool:
    found = _read(base / CONFIG)
    return isinstance(found, dict) and ("model_type" in found or "architectures" in found)


def _read(file: Path) -> Any:
    """Read JSON; None where there is none, or what is there is no file: a pipe would be waited for without end."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
