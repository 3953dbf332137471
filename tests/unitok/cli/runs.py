"""Commands as the tests of the command line run them."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from unitok.cli.app import app

DOMAINS = ("beauty", "kitchen")
TINY = ("--levels", 3, "--codebook-size", 16, "--codebook-dim", 8, "--batch-size", 32)


def unitok(*args: object, code: int = 0, env: dict[str, str] | None = None) -> Any:
    """Run a command; a traceback fails the test, whatever the exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*args: object) -> str:
    """Run a command that must end with one line of error, and give the line."""
    result = unitok(*args, code=1)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("not among")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not result.stdout
    return str(lines[0])
