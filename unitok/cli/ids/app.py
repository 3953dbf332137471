"""`unitok ids`: what IDs tell, and what becomes of them over time."""

from __future__ import annotations

import typer

from unitok.cli.ids.align import align
from unitok.cli.ids.diff import diff
from unitok.cli.ids.inspect import inspect

ids = typer.Typer(no_args_is_help=True)
ids.command("inspect")(inspect)
ids.command("diff")(diff)
ids.command("align")(align)


@ids.callback()
def _ids() -> None:
    """Judge IDs, and see what became of them over time.

    For example:

        unitok ids inspect ids.parquet catalogue
        unitok ids diff monday.parquet tuesday.parquet
        unitok ids align runs/newer monday.parquet catalogue --out runs/aligned
    """
