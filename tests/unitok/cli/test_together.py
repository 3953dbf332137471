"""Commands that read what they replace hold its folder from the start; what a killed run left is gone on from."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tests.unitok.cli.runs import DOMAINS, TINY, refused, unitok
from unitok import Tokenizer
from unitok.storage.lock import LOCK, only_writer
from unitok.training.trainer import CHECKPOINT, HISTORY


def test_a_domain_is_added_to_what_is_there_and_nobody_adds_meanwhile(
    tmp_path: Path, catalogue: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shared"
    shutil.copytree(fitted, out)
    held: list[bool] = []
    load = Tokenizer.from_pretrained

    def watched(directory: Path) -> Tokenizer:
        held.append((out / LOCK).exists())
        return load(directory)

    monkeypatch.setattr(Tokenizer, "from_pretrained", watched)
    for name in ("garden", "tools"):
        unitok("add-domain", out, catalogue / DOMAINS[0], "--name", name, "--out", out, "--force")
    assert held == [True, True]
    assert list(load(out).domains)[-2:] == ["garden", "tools"]

    entered, left = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer("fit", out):
            entered.set()
            left.wait()

    other = threading.Thread(target=hold)
    other.start()
    entered.wait()
    line = refused("add-domain", out, catalogue / DOMAINS[0], "--name", "more", "--out", out, "--force")
    left.set()
    other.join()
    assert "must be free to write to, got process" in line
    assert "more" not in load(out).domains


def test_a_fit_goes_on_without_its_history(tmp_path: Path, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("fit", catalogue, "--out", tmp_path / "out", "--epochs", 2, *TINY)
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "save_pretrained", lambda *_, **__: exec("raise KeyboardInterrupt"))
        unitok(*command, code=130)
    assert (tmp_path / "out" / CHECKPOINT).exists()
    (tmp_path / "out" / HISTORY).unlink()
    assert "Fitted" in unitok(*command).stdout
    assert Tokenizer.from_pretrained(tmp_path / "out").history == []
