"""Tables are as wide as what shows them, and no test's width hangs on what started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unitok.cli.terminal import console

WIDTH = "from unitok.cli.terminal import console; print(console().width)"


def test_what_goes_into_a_pipe_is_wider_than_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert console().width == console(stderr=True).width == 160  # both go into capsys, whatever pytest shows
    told = subprocess.run([sys.executable, "-c", WIDTH], capture_output=True, text=True, check=True)
    assert told.stdout == "160\n"


def test_the_width_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert console().width == 100
