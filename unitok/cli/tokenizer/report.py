"""`unitok report`: measure a tokenizer on the items of a catalogue."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from unitok.cli.files import check_free, replacing
from unitok.cli.inputs import check_fits, say_routed, split_names
from unitok.cli.options import Force, Items, Json, TokenizerFolder, domain_names
from unitok.cli.terminal import Refusal, console, print_json, say
from unitok.cli.tokenizer.fit_session import recalled, show_report


def report(
    tokenizer: TokenizerFolder,
    data: Items,
    domains: Annotated[str | None, domain_names("Measure these domains only.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a figure to this file (.png, .svg, .pdf).")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a tokenizer on items: collisions, entropies, errors, the use of experts and codebooks.

    collisions: 1 - distinct IDs / items; resolved: the same after a suffix is added. equal inputs: the part that no
    tokenizer could avoid, since the embeddings are identical. z error: relative error of the latents. x error: squared
    error of the embeddings. Both use all active chains; "by ID" uses only what the ID contains. HSIC: how strongly the
    latents depend on the embeddings. own expert: share of the items in the domain's most frequent expert.

    For example:

        unitok report runs/first catalogue
        unitok report runs/first catalogue --plot report.png
        unitok report runs/first catalogue --domains beauty --json
    """
    from unitok import Tokenizer
    from unitok.data import read_catalogue

    if plot is not None:
        _check_plot(plot, force)
    known = Tokenizer.from_pretrained(tokenizer)
    parts = read_catalogue(data, split_names(domains))
    check_fits(known, data, parts)
    say_routed(known, parts)
    with console(stderr=True).status("measuring"):
        rows = {name: part.embeddings for name, part in parts.items()}
        measured = known.report(rows, views=recalled(known, parts))
    if plot is not None:
        from unitok.evaluation.figure import draw_report

        with replacing(plot, force=force) as partial:
            draw_report(measured, partial, plot.suffix[1:])
    if as_json:
        print_json(measured.to_dict())
    else:
        show_report(measured)
    if plot is not None:
        say(f"figure written to {plot}")


def _check_plot(file: Path, force: bool) -> None:
    """Refuse a plot that can't be drawn or would replace a file, before any work is done."""
    from unitok.evaluation.figure import FORMATS

    if importlib.util.find_spec("matplotlib") is None:
        raise Refusal("--plot needs matplotlib, which isn't installed: pip install 'unitok-kernels[report]'")
    if file.suffix[1:] not in FORMATS:
        raise Refusal(f"{file}: the plot's name must end in .{', .'.join(FORMATS)}, got {file.suffix or 'no ending'}.")
    check_free(file, force=force)
