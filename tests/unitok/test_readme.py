"""The README's snippets run as they stand, and what it says of commands and files is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unitok.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("snippet", "lines"), list(zip(SNIPPETS, (5, 10), strict=True)), ids=["kernels", "tokenizer"])
def test_snippet(snippet: str, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(bool(line) for line in snippet.splitlines()) <= lines
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})


def test_every_command_is_in_the_table() -> None:
    told = re.findall(r"^\| `unitok ([\w-]+)", README, re.MULTILINE)
    assert told == [command.name for command in app.registered_commands]


def test_make_has_the_targets_that_are_named() -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "lint"} <= named <= set(targets)
