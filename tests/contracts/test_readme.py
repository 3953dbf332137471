"""The README's snippets run as they stand, and what it says of commands and files is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unitok.cli.app import app
from unitok_kernels import backends

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


LINES = {"kernels": 5, "layers": 4, "tokenizer": 10, "table": 4, "recommender": 12, "serving": 6}
NAMED = dict(zip(LINES, SNIPPETS, strict=True))


@pytest.mark.parametrize("name", LINES)
def test_a_snippet_is_short(name: str) -> None:
    assert sum(bool(line) for line in NAMED[name].splitlines()) <= LINES[name]


def test_the_snippets_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where one finds what another has written
    namespace: dict[str, object] = {}
    for name, snippet in NAMED.items():
        if name != "table":  # which continues the tokenizer's snippet
            namespace = {}
        if name != "serving" or backends.available()["cpu"]:
            exec(compile(snippet, f"README.md, {name}", "exec"), namespace)


def test_every_command_is_in_the_table() -> None:
    told = re.findall(r"^\| `unitok ([\w-]+)", README, re.MULTILINE)
    assert sorted(told) == sorted(each.name for each in (*app.registered_commands, *app.registered_groups))


def test_make_has_the_targets_that_are_named() -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "lint", "bench-gpu"} <= named <= set(targets)
