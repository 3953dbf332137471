"""`unitok ids align`: number a retrained tokenizer's codes so that items keep the prefixes that they had."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unitok.cli.files import check_takes_tokenizer
from unitok.cli.inputs import check_fits, check_scipy, counted, say_routed, sources_of
from unitok.cli.options import Items, Json, TokenizerFolder, output
from unitok.cli.terminal import Refusal, console, print_json
from unitok.cli.tokenizer.tokenize import tokenize_parts


def align(
    tokenizer: TokenizerFolder,
    ids: Annotated[Path, typer.Argument(metavar="IDS", help="IDs as they were.", show_default=False)],
    data: Items,
    out: Annotated[Path, output("DIR", "Folder for the aligned tokenizer.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the tokenizer in --out, even if it is TOKENIZER itself.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Number a retrained tokenizer's experts and codes so that most items keep the prefixes that they had.

    Numbers mean nothing: a retrained tokenizer may have the clusters of the one before it under others. Here they get
    those by which most items of DATA that IDS knows keep their expert, then their first code, their second, and so on.
    What the IDs mean, and how well they do it, stays as it is. Items are known again by source_id, else by number.

    For example:

        unitok ids align runs/newer ids.parquet catalogue --out runs/aligned
        unitok tokenize runs/aligned catalogue --out newer.parquet
        unitok ids diff ids.parquet newer.parquet
    """
    check_scipy("ids align")
    from unitok import Tokenizer
    from unitok.data import read_catalogue
    from unitok.ids.table import IdTable, item_keys
    from unitok.storage.lock import only_writer

    check_takes_tokenizer("ids align", out, force=force)
    with only_writer("ids align", out):
        known, parts = Tokenizer.from_pretrained(tokenizer), read_catalogue(data)
        check_fits(known, data, parts)
        table = IdTable.read(ids).renumbered(sources_of(parts))
        size = max(table.codebook_size, known.config.codebook_size)  # the table doesn't tell codes that no item has
        table = IdTable(table.table, size, table.num_experts)
        say_routed(known, parts)
        row_of = {key: row for row, key in enumerate(table.keys)}
        keys = [key for name, part in parts.items() for key in item_keys([name] * len(part.keys), part.keys.tolist())]
        both = [row for row, key in enumerate(keys) if key in row_of]
        if not both:
            raise Refusal(f"{ids}: must hold items of {data}, got none of them. Name the catalogue that it is of.")
        now, earlier = tokenize_parts(known, parts)[both], table.ids[[row_of[keys[row]] for row in both]]
        found = known.align(now, earlier)
        known.save_pretrained(out, force=force)
    shares: dict[str, Any] = {"before": found.before, "after": found.after}
    if as_json:
        print_json({"out": str(out), "items": len(both), **shares})
        return
    console().print(_table(len(both), shares))
    console().print(f"The aligned tokenizer is in {out}.", markup=False, soft_wrap=True)


def _table(items: int, shares: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"What {counted(items, 'item')} keep")
    levels = [f"first {level}" for level in range(1, len(shares["before"]))]
    for head in ("numbers", "same expert", *levels):
        table.add_column(head, justify="left" if head == "numbers" else "right")
    for name, each in (("as they were", shares["before"]), ("aligned", shares["after"])):
        table.add_row(name, *(f"{share:.2%}" for share in each))
    return table
