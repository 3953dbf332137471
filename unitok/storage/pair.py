"""A tokenizer's two files: weights in safetensors, everything else in JSON; at any moment one whole pair is there.

Weights are numpy arrays here, so that serving reads them without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from unitok.storage.digest import check_seal, digest, sealed
from unitok.storage.saved import TOKENIZER, WEIGHTS, check_holds, missing, settings_file
from unitok.storage.whole import current, whole_files, whole_read

SETTINGS = TOKENIZER.settings
FORMAT = 2  # 1 had settings without a digest, under the name that transformers uses
_UNFINISHED = f"{TOKENIZER.formerly}.partial"  # of releases before `whole_files`, which a crash may have left


def write_pair(folder: Path, state: Mapping[str, NDArray[Any]], settings: dict[str, Any]) -> None:
    """Write weights and settings, which name the weights by their digest; a pair that is there is replaced.

    Args:
        folder: is made where it is missing.
        state: the weights, of any layout.
        settings: plain data for JSON.

    Raises:
        OSError: the folder can't be written to.
    """
    before = settings_file(current(folder), TOKENIZER)
    formerly = before is not None and before.name == TOKENIZER.formerly
    left = (before.name, _UNFINISHED, f"{WEIGHTS}.partial") if before is not None and formerly else ()
    with whole_files(folder, drop=left) as staging:
        # safetensors takes an array's memory as it lies, strides or not.
        packed = {name: value if value.flags.c_contiguous else value.copy("C") for name, value in state.items()}
        weights = save(packed)
        (staging / WEIGHTS).write_bytes(weights)
        described = sealed({"format": FORMAT, "weights": digest(weights), **settings})
        (staging / SETTINGS).write_text(json.dumps(described, indent=1), encoding="utf-8")


def read_pair(what: str, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read settings and weights that belong together and are as they were written.

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
        file = settings_file(base, TOKENIZER) or base / SETTINGS
        if not (base / WEIGHTS).is_file():
            raise missing(what, TOKENIZER, WEIGHTS, folder)
        weights = (base / WEIGHTS).read_bytes()  # read once: what the digest is of is what is loaded
        found = digest(weights)
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if settings["weights"] != found and (base / _UNFINISHED).exists():
            settings = json.loads((base / _UNFINISHED).read_text(encoding="utf-8"))
        if settings["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"format {settings['format']} of a later release")
        check_seal(file.name, settings, needed=settings["format"] > 1)
        if settings["weights"] != found:
            raise ValueError(f"{WEIGHTS} isn't the one that {file.name} was written with")
        return settings, load(weights)

    return whole_read(folder, (*TOKENIZER.names, WEIGHTS), read)
