"""Tensors in safetensors files, whatever their layout: what is strided is packed, what is shared is written apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file, save_model
from torch import Tensor


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


def write_tensors(partial: Path, tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write tensors into a file that `whole_file` or `whole_files` gave.

    Args:
        partial: the file.
        tensors: of any device and layout.
        notes: texts for the file's header.
    """
    save_file(saveable(tensors), partial, notes)


def write_model(partial: Path, model: torch.nn.Module) -> None:
    """Write a model's weights for safetensors' `load_model` into a file that `whole_file` gave; tied ones once.

    Args:
        partial: the file.
        model: of any device and layout.
    """
    save_model(model, str(partial))
