"""The command line: an interrupted fit ends where it would have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.unitok.cli.runs import TINY, refused, unitok
from unitok.training.trainer import CHECKPOINT, HISTORY

EPOCHS = 100  # long enough that a signal finds the fit at work
LONG = ("--epochs", str(EPOCHS), *map(str, TINY))


@pytest.fixture(scope="module")
def uninterrupted(home: Path, catalogue: Path) -> bytes:
    unitok("fit", catalogue, "--out", home / "uninterrupted", *LONG)
    return (home / "uninterrupted" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fit_ends_where_it_would_have(
    sent: signal.Signals, tmp_path: Path, catalogue: Path, uninterrupted: bytes
) -> None:
    out = tmp_path / "fitted"
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "unitok", "fit", str(catalogue), "--out", str(out), *LONG, "--threads", threads]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    epochs = 2 if sent == signal.SIGINT else 5
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (out / HISTORY).exists() and len((out / HISTORY).read_text().splitlines()) > epochs:
            break
        time.sleep(0.002)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL), stderr
    assert not stdout
    if sent == signal.SIGINT:
        assert "resumes from there" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
    assert (out / CHECKPOINT).exists()
    assert not (out / "unitok.json").exists()

    assert "same settings" in refused("fit", catalogue, "--out", out, *LONG, "--seed", "1")
    result = unitok("fit", catalogue, "--out", out, *LONG)
    assert "resuming from step" in result.stderr.splitlines()[0]
    assert (out / "model.safetensors").read_bytes() == uninterrupted
    assert [json.loads(line)["epoch"] for line in (out / HISTORY).read_text().splitlines()] == list(range(EPOCHS))
    assert not (out / CHECKPOINT).exists()
