"""`unitok ids diff`: compare two tables of IDs, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unitok.cli.files import check_writable, replacing
from unitok.cli.inputs import counted
from unitok.cli.options import Force, Json
from unitok.cli.terminal import console, print_json, say


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="IDs as they were.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="IDs as they are now.", show_default=False)],
    items: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the items that changed, came or vanished: .parquet, .csv or .jsonl."),
    ] = None,
    most_churn: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Exit with 1 if more of the items in both have other IDs."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare two tables of IDs: which items kept theirs, by domain and by level.

    Items are known again by their names in the source, `source_id`, in the domains where both tables have them;
    elsewhere by their numbers. same ID: codes, expert and suffix. first n: the same expert and first n codes, which is
    what a recommender's prefix search depends on.

    For example:

        unitok ids diff monday.parquet tuesday.parquet
        unitok ids diff monday.parquet tuesday.parquet --items changed.csv
        unitok ids diff monday.parquet tuesday.parquet --most-churn 0.01 --json
    """
    from unitok.ids.table import IdTable
    from unitok.ids.table_files import check_format, write_rows
    from unitok.ids.versions.difference import compare

    if items is not None:
        check_format("--items", items)
        check_writable(items, force=force)
    found = compare(IdTable.read(before), IdTable.read(after))
    if items is not None:
        with replacing(items, force=force) as partial:
            write_rows(found.items, partial, items.suffix)
        say(f"{counted(len(found.items), 'item')} written to {items}")
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(found.to_table())
    churn = found.overall.churn
    if most_churn is not None and churn != churn:  # nothing speaks for them
        say("no item is in both tables")
        raise typer.Exit(1)
    if most_churn is not None and churn > most_churn:
        say(f"{churn:.2%} of the items in both have other IDs, more than {most_churn:.2%}")
        raise typer.Exit(1)
