"""A tokenizer's two files: weights in safetensors, everything else in JSON; at any moment one whole pair is there.

Weights are numpy arrays here, so that serving reads them without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from unitok.storage.saved import TOKENIZER, WEIGHTS, check_holds, missing
from unitok.storage.whole import current, whole_files, whole_read

SETTINGS = TOKENIZER.settings
FORMAT = 1
_UNFINISHED = f"{SETTINGS}.partial"  # of releases before `whole_files`, which a crash may have left


def write_pair(folder: Path, state: Mapping[str, NDArray[Any]], settings: dict[str, Any]) -> None:
    """Write weights and settings, which name the weights by their digest; a pair that is there is replaced.

    Args:
        folder: is made where it is missing.
        state: the weights, of any layout.
        settings: plain data for JSON.

    Raises:
        OSError: the folder can't be written to.
    """
    left = (_UNFINISHED, f"{WEIGHTS}.partial") if (current(folder) / SETTINGS).exists() else ()  # by an older release
    with whole_files(folder, drop=left) as staging:
        # safetensors takes an array's memory as it lies, strides or not.
        packed = {name: value if value.flags.c_contiguous else value.copy("C") for name, value in state.items()}
        save_file(packed, staging / WEIGHTS)
        digest = _digest((staging / WEIGHTS).read_bytes())
        described = json.dumps({"format": FORMAT, "weights": digest, **settings}, indent=1)
        (staging / SETTINGS).write_text(described, encoding="utf-8")


def read_pair(what: str, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read settings and weights that belong together.

    Args:
        what: the operation that a message names.
        folder: the folder.

    Returns:
        tuple: settings and weights.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: they are broken, don't belong together, are of a later release, or something else is there.
        OSError: they were replaced as often as they were read.
    """

    def read(base: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        check_holds(what, TOKENIZER, folder, base)
        if not (base / WEIGHTS).is_file():
            raise missing(what, TOKENIZER, WEIGHTS, folder)
        weights = (base / WEIGHTS).read_bytes()  # read once: what the digest is of is what is loaded
        digest = _digest(weights)
        settings: dict[str, Any] = json.loads((base / SETTINGS).read_text(encoding="utf-8"))
        if settings["weights"] != digest and (base / _UNFINISHED).exists():
            settings = json.loads((base / _UNFINISHED).read_text(encoding="utf-8"))
        if settings["format"] > FORMAT:
            raise ValueError(f"format {settings['format']} of a later release")
        if settings["weights"] != digest:
            raise ValueError(f"{WEIGHTS} isn't the one that {SETTINGS} was written with")
        return settings, load(weights)

    return whole_read(folder, (SETTINGS, WEIGHTS), read)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
