"""Checkpoints of a training run: one safetensors file, replaced in one step: a kill leaves the old or the new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitok.storage.tensors import read_notes, read_tensors, write_tensors
from unitok.storage.whole import whole_file

_STATE = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write weights, optimizer state and progress.

    Args:
        path: the file; an older one is replaced.
        model: its parameters and buffers are kept.
        optimizer: an AdamW over the model's parameters.
        progress: plain data for JSON: configuration, data fingerprint, next step.

    Raises:
        OSError: the file can't be written; an older one is then untouched.
    """
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in _STATE:
            if key in (state := optimizer.state.get(parameter, {})):
                tensors[f"optimizer.{key}.{name}"] = state[key]
    with whole_file(path) as partial:
        write_tensors(partial, tensors, {"progress": json.dumps(progress)})


def read_progress(path: Path) -> dict[str, Any]:
    """Read a checkpoint's progress alone.

    Args:
        path: the file.

    Returns:
        dict: what `save_checkpoint` was given.

    Raises:
        ValueError: the file isn't a checkpoint of this library.
    """
    try:
        progress = json.loads(read_notes(path)["progress"])
    except (KeyError, ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    if not isinstance(progress, dict):
        raise _broken(path, "its progress is no JSON object")
    return progress


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer state back.

    Args:
        path: the file.
        model: receives the weights, strictly.
        optimizer: receives its state.

    Raises:
        ValueError: the file is damaged, or its tensors aren't those of the model.
    """
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        raise _broken(path, error) from error
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"fit: {path} must hold this model's weights, got others. Delete it to start over.") from error
    for name, parameter in model.named_parameters():
        kept = {key: tensors[f"optimizer.{key}.{name}"] for key in _STATE if f"optimizer.{key}.{name}" in tensors}
        if kept:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in kept.items()}


def _broken(path: Path, why: object) -> ValueError:
    rule = f"fit: {path} must be a whole checkpoint of a UniTok fit"
    return ValueError(f"{rule}, got a damaged or foreign file ({why}). Delete it to start over.")
