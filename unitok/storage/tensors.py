"""Tensors in safetensors files, whatever their layout: what is strided is packed, what is shared is written apart.

The notes in a file's header hold a digest of the tensors and one of themselves, which reading compares. Older releases
wrote none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor

from unitok.storage.digest import check_seal, sealed

_NOTES, _OF_TENSORS = "unitok", "tensors"  # the header's entry with all notes, and the note with the tensors' digest


def saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors what a file can hold: on the CPU, contiguous, none sharing memory with another.

    Args:
        tensors: of any device and layout. What needs no copy is not copied.

    Returns:
        dict: equal tensors, detached.
    """
    found, seen = {}, set[int]()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        found[name] = value
    return found


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors contiguous; one under two names stays one, by which transformers tells that weights are tied.

    Args:
        tensors: such as a model's `state_dict()`.

    Returns:
        dict: equal tensors.
    """
    made: dict[tuple[object, ...], Tensor] = {}

    def packed(tensor: Tensor) -> Tensor:
        if tensor.is_contiguous():
            return tensor
        return made.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), tensor.contiguous())

    return {name: packed(tensor) for name, tensor in tensors.items()}


def write_tensors(partial: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors into a file that `whole_file` or `whole_files` gave.

    Args:
        partial: the file.
        tensors: of any device and layout.
        notes: texts for the file's header.
    """
    packed = saveable(tensors)
    noted = sealed({**(notes or {}), _OF_TENSORS: _digest(packed)})
    save_file(packed, partial, {_NOTES: json.dumps(noted)})  # one entry: safetensors writes several in chance order


def read_notes(file: Path) -> dict[str, str]:
    """Read the notes in a file's header.

    Args:
        file: that `write_tensors` wrote.

    Returns:
        dict: the notes, with those about digests.

    Raises:
        ValueError: the file is broken, the notes aren't those that were written, or what is there is no file.
    """
    with _opened(file) as opened:
        found: dict[str, str] = opened.metadata() or {}
    if _NOTES not in found:
        return found  # an older release's
    try:
        notes = json.loads(found[_NOTES])
    except (ValueError, RecursionError):
        notes = None
    if not isinstance(notes, dict):
        raise ValueError(f"the header of {file.name} isn't as it was written: the file is damaged")
    check_seal(f"the header of {file.name}", notes)
    return notes


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, and see that they are those that were written.

    Args:
        file: that `write_tensors` wrote.

    Returns:
        dict: the tensors, on the CPU.

    Raises:
        ValueError: the file is broken, or the tensors or the notes aren't those that were written.
    """
    notes = read_notes(file)
    with _opened(file) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    if _OF_TENSORS in notes and notes[_OF_TENSORS] != _digest(tensors):
        raise ValueError(f"the tensors of {file.name} aren't those that were written: the file is damaged")
    return tensors


def write_model(partial: Path, model: torch.nn.Module) -> None:
    """Write a model's weights into a file that `whole_file` gave.

    Args:
        partial: the file.
        model: of any device and layout.
    """
    write_tensors(partial, model.state_dict())


def read_model(file: Path, model: torch.nn.Module) -> None:
    """Read weights that `write_model` wrote.

    Args:
        file: the file.
        model: receives the weights, strictly.

    Raises:
        ValueError: the file is broken, or the weights aren't those that were written.
        RuntimeError: they are another model's.
    """
    if _OF_TENSORS in read_notes(file):
        model.load_state_dict(read_tensors(file))
    else:  # an older release wrote tied weights once
        load_model(model, file)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a safetensors file, and say in one way that it is none."""
    if not file.is_file():  # a pipe would be waited for without end
        raise ValueError(f"{file.name} isn't a file")
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(f"{file.name} isn't a whole safetensors file ({error})") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the names, types, shapes and values of contiguous tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
