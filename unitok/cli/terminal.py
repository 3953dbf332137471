"""What all commands share at the terminal: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_WIDTH = 160  # of output to a file or a pipe, so that tables are not cut to 80 columns


class Refusal(Exception):  # noqa: N818  (not an error of the program)
    """A request that can't be carried out; the message is the line that the user sees."""


def console(stderr: bool = False) -> Console:
    """Return a console on stdout, or on stderr."""
    terminal = Console(stderr=stderr, highlight=False)
    if terminal.is_terminal or "COLUMNS" in os.environ:
        return terminal
    return Console(stderr=stderr, highlight=False, width=_WIDTH)


def say(line: str) -> None:
    """Print a line that isn't a result, on stderr."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print the result as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class StepBar:
    """A progress bar with the time left, on stderr if that is a terminal; use it in a `with` statement.

    Args:
        what: what is being done.
        unit: what is counted.
        kept: the checkpoint that may be resumed; it is named if the work doesn't begin at its first step.

    Attributes:
        done: the latest count.
    """

    def __init__(self, what: str, unit: str, kept: Path | None = None) -> None:
        self.done, self._kept = 0, kept
        screen = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("{task.fields[note]}", markup=False),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(what, total=None, note="")
        self._began = False

    def __enter__(self) -> StepBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`."""
        if not self._began:  # the steps before a resumed run say nothing about its speed
            self._progress.reset(self._task, total=total, completed=done)
            self._began = True
            if self._kept is not None and done > 1:
                self.say(f"resuming from step {done - 1} of {total}, checkpoint {self._kept}")
        self.done = done
        self._progress.update(self._task, total=total, completed=done, note=note)

    def say(self, line: str, style: str = "") -> None:
        """Print a line on stderr, above the bar."""
        self._progress.console.print(line, style=style, markup=False, soft_wrap=True)
