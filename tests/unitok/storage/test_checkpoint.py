"""Checkpoint files: everything comes back to the bit, a failed write leaves the old one, others are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unitok.storage.checkpoint import load_checkpoint, read_progress, save_checkpoint


def stepped(seed: int = 0, width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of two layers after two steps; the second layer has had no gradient yet."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, 4), nn.Linear(4, 2))
    model.register_buffer("mean", torch.randn(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model[0](torch.randn(5, width)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def same(a: tuple[nn.Module, torch.optim.Optimizer], b: tuple[nn.Module, torch.optim.Optimizer]) -> bool:
    weights = zip(a[0].state_dict().values(), b[0].state_dict().values(), strict=True)
    states = zip(a[1].state_dict()["state"].values(), b[1].state_dict()["state"].values(), strict=True)
    return all(torch.equal(x, y) for x, y in weights) and all(
        s.keys() == t.keys() and all(torch.equal(s[key], t[key]) for key in s) for s, t in states
    )


def test_weights_optimizer_and_progress_come_back(tmp_path: Path) -> None:
    path, progress = tmp_path / "c.safetensors", {"step": 2, "sums": {"loss": 0.1 + 0.2}, "names": ["ä"]}
    saved = stepped()
    save_checkpoint(path, *saved, progress)
    assert read_progress(path) == progress
    other = stepped(seed=1)
    assert not same(saved, other)
    load_checkpoint(path, *other)
    assert same(saved, other)
    for model, optimizer in (saved, other):  # and so does the next step
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert same(saved, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.safetensors"]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, *stepped(), {"step": 1})
    old = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, *stepped(seed=1), {"step": 2})
    assert path.read_bytes() == old
    monkeypatch.undo()
    save_checkpoint(path, *stepped(seed=1), {"step": 2})
    assert read_progress(path) == {"step": 2}


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "foreign", "not JSON"])
def test_what_is_no_checkpoint_is_refused(kind: str, tmp_path: Path, refuses) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, *stepped(), {"step": 1})
    tensors = {"a": torch.zeros(2)}
    if kind == "foreign":
        save_file(tensors, path)
    elif kind == "not JSON":
        save_file(tensors, path, {"progress": "{"})
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "garbage": b"\x80\x04K\x01." * 40, "truncated": whole[:-9]}[kind])
    with refuses("fit", str(path)):
        read_progress(path)


def test_another_models_weights_are_refused(tmp_path: Path, refuses) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, *stepped(), {"step": 1})
    with refuses("fit", str(path)):
        load_checkpoint(path, *stepped(width=5))
    model, optimizer = stepped()
    model.register_buffer("further", torch.zeros(1))
    with refuses("fit", str(path)):  # strictly: a missing tensor is no default
        load_checkpoint(path, model, optimizer)
