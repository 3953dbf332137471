"""A tokenizer's two files: weights in safetensors, everything else in JSON; at any moment one whole pair is there.

Weights are numpy arrays here, so that serving reads them without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"
SETTINGS = "tokenizer.json"
FORMAT = 1
NOT_WHOLE = (ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def write_pair(folder: Path, state: Mapping[str, NDArray[Any]], settings: dict[str, Any]) -> None:
    """Write weights and settings; a pair that is there is replaced.

    The settings name the weights by their digest. Both are written in full beside the old pair before the first is
    renamed, so that `read_pair` finds a pair that belongs together wherever a crash may fall.

    Args:
        folder: is made where it is missing.
        state: the weights.
        settings: plain data for JSON.

    Raises:
        OSError: the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, described = folder / f"{WEIGHTS}.partial", folder / f"{SETTINGS}.partial"
    try:
        save_file(dict(state), weights)
    except SafetensorError as error:
        step = "Free space there, or mend its rights."
        raise OSError(f"save_pretrained: {folder} must be writable, got {error}. {step}") from error
    described.write_text(json.dumps({"format": FORMAT, "weights": _digest(weights), **settings}, indent=1))
    for partial in (weights, described):
        with partial.open("rb") as written:
            os.fsync(written.fileno())
    weights.replace(folder / WEIGHTS)
    described.replace(folder / SETTINGS)


def read_pair(what: str, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read settings and weights that belong together.

    Args:
        what: the operation that a message names.
        folder: the folder.

    Returns:
        tuple: settings and weights.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: they are broken, don't belong together, or are of a later release.
    """
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{what}: directory must hold {name}, got {folder}. Run `unitok fit`, or check the path."
            )
    digest = _digest(folder / WEIGHTS)
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    unfinished = folder / f"{SETTINGS}.partial"
    if settings["weights"] != digest and unfinished.exists():  # a crash between the two renames
        settings = json.loads(unfinished.read_text())
    if settings["format"] > FORMAT:
        raise ValueError(f"format {settings['format']} of a later release")
    if settings["weights"] != digest:
        raise ValueError(f"{WEIGHTS} isn't the one that {SETTINGS} was written with")
    return settings, load_file(folder / WEIGHTS)


def not_whole(what: str, folder: Path, error: Exception) -> ValueError:
    """Give the error for a folder whose files are broken or don't fit each other; `NOT_WHOLE` are its causes."""
    return ValueError(f"{what}: directory must hold a whole tokenizer, got {folder}: {error}. Fit or copy it again.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
