"""`unitok ids`: what becomes of IDs over time."""

from __future__ import annotations

import typer

from unitok.cli.ids.diff import diff

ids = typer.Typer(no_args_is_help=True)
ids.command("diff")(diff)


@ids.callback()
def _ids() -> None:
    """Look at what became of IDs over time.

    For example:

        unitok ids diff monday.parquet tuesday.parquet
    """
