"""`unitok report`: what a tokenizer does to the items of a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unitok.commands.files import replacing
from unitok.commands.fitting import show_report
from unitok.commands.inputs import check_fits, say_routed, split_names
from unitok.commands.options import Force, Items, Json, TokenizerFolder
from unitok.commands.terminal import console, print_json, say


def report(
    tokenizer: TokenizerFolder,
    data: Items,
    domains: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Measure these alone.", show_default="all")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the figures into this file (.png, .svg, .pdf).")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a tokenizer on items: collisions, entropies, errors, the use of experts and codebooks.

    collisions: share of items that distinct IDs fall short of, before and after resolution; equal inputs: what no
    tokenizer could split. z error and x error: relative error of the latents, and squared error of the embeddings, with
    all active chains and by what the ID alone tells. HSIC: how much the latents say of the embeddings. own expert:
    share of the items in the domain's most frequent expert.

    For example:

        unitok report runs/first catalogue
        unitok report runs/first catalogue --plot report.png
        unitok report runs/first catalogue --domains beauty --json
    """
    from unitok import Tokenizer
    from unitok.data import read_catalogue

    if plot is not None:
        from unitok.commands.figure import check_plot

        check_plot(plot, force)
    known = Tokenizer.from_pretrained(tokenizer)
    parts = read_catalogue(data, split_names(domains))
    check_fits(known, data, parts)
    say_routed(known, parts)
    with console(stderr=True).status("measuring"):
        measured = known.report({name: part.embeddings for name, part in parts.items()})
    if plot is not None:
        from unitok.commands.figure import draw_report

        with replacing(plot, force=force) as partial:
            draw_report(measured, partial, plot.suffix[1:])
    if as_json:
        print_json(measured.to_dict())
    else:
        show_report(measured)
    if plot is not None:
        say(f"drawn into {plot}")
