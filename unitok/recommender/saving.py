"""The folder of a saved recommender: transformers' own files, the items' tokens, and settings that name them all."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from unitok.recommender.token_table import TokenTable
from unitok.storage.saved import RECOMMENDER, SHARDS, WEIGHTS, check_holds, missing
from unitok.storage.tensors import contiguous, write_tensors
from unitok.storage.whole import current, whole_files

SETTINGS, ITEMS, HEAD = RECOMMENDER.settings, "items.safetensors", "head.safetensors"
FORMAT = 1
_OF_TABLE = ("vocab_size", "start", "pad")


class Read(NamedTuple):
    """What a folder holds beside the model.

    Attributes:
        settings: what `write` was given.
        table: the items.
        rows: (M,) int64, the items that are ranked; None where all are.
    """

    settings: dict[str, Any]
    table: TokenTable
    rows: Tensor | None


def write(folder: Path, model: Any, table: TokenTable, rows: Tensor | None, settings: dict[str, Any]) -> None:
    """Write a model as transformers does, its items and settings; a recommender that is there is replaced.

    The settings have a digest of every other file, so that files of two saves are never taken for one.

    Args:
        folder: created if it is missing.
        model: of transformers, or one that saves itself as those do.
        table: the items.
        rows: (M,) int64, the items that are ranked; None where all are.
        settings: plain data for JSON.

    Raises:
        OSError: the folder can't be written to; what was there stays.
    """
    with whole_files(folder, drop=_before(current(folder))) as staging:
        model.save_pretrained(staging, state_dict=contiguous(model.state_dict()))  # transformers takes no others
        items = {"tokens": table.tokens, "groups": table.groups, "rows": rows}
        write_tensors(staging / ITEMS, {name: value for name, value in items.items() if value is not None})
        files = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
        written = {"format": FORMAT, **settings, **{name: getattr(table, name) for name in _OF_TABLE}}
        written["files"] = {name: _digest(path) for name, path in files.items()}
        (staging / SETTINGS).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def read(what: str, directory: Path, base: Path) -> Read:
    """Read items and settings, and see that all files are those that were saved with them.

    Args:
        what: the operation that a message names.
        directory: the folder, for messages.
        base: where its files are read.

    Returns:
        Read: what is there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, of another save or of a later release, or something else is there.
    """
    check_holds(what, RECOMMENDER, directory, base)
    settings = json.loads((base / SETTINGS).read_text(encoding="utf-8"))
    if settings["format"] > FORMAT:
        raise ValueError(f"format {settings['format']} of a later release")
    digests = settings.get("files", {})  # older releases wrote none
    for name in digests or _always(base):
        if not (base / name).is_file():
            raise missing(what, RECOMMENDER, name, directory)
    for name, digest in digests.items():
        if _digest(base / name) != digest:
            raise ValueError(f"{name} isn't the one that {SETTINGS} was written with")
    items = load_file(base / ITEMS)
    numbers = {name: settings[name] for name in _OF_TABLE}
    table = TokenTable(items["tokens"], **numbers, groups=items.get("groups"))
    return Read(settings, table, items.get("rows"))


def _always(base: Path) -> list[str]:
    """The files that every recommender has."""
    return ["config.json", ITEMS, *([] if any(base.glob(SHARDS)) else [WEIGHTS])]


def _before(base: Path) -> set[str]:
    """What an earlier save left, which a model of another kind or size may not write anew."""
    if not (base / SETTINGS).exists():
        return set()  # nothing here was written by a save
    names = {*RECOMMENDER.files, *(path.name for path in base.glob(SHARDS))}
    with suppress(OSError, ValueError, KeyError, TypeError):  # written by an older release
        names |= set(json.loads((base / SETTINGS).read_text(encoding="utf-8"))["files"])
    return names


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
