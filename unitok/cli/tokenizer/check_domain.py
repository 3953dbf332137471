"""`unitok check-domain`: can a tokenizer be used for a domain that it was not fitted on?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.inputs import check_fits, one_domain
from unitok.cli.options import Json, TokenizerFolder
from unitok.cli.terminal import console, print_json

if TYPE_CHECKING:
    from unitok.evaluation.domain_check import DomainCheck


def check_domain(
    tokenizer: TokenizerFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The unseen domain's folder.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Score a domain that the tokenizer wasn't fitted on: go or no-go, before its items are tokenized.

    Four figures are compared with those of the worst training domain: the router's confidence, the error of the
    latents and of the embeddings when decoded from the ID alone, and collisions. The score is the smallest ratio; 1
    means that the new domain is worse in no figure. It is a go from .5 on; below, the last line says what to do. The
    exit code is 0 in both cases.

    For example:

        unitok check-domain runs/first catalogue/garden
        unitok check-domain runs/first catalogue/garden --json
    """
    from rich.table import Column, Table
    from rich.text import Text

    from unitok import Tokenizer

    known = Tokenizer.from_pretrained(tokenizer)
    part = one_domain(folder)
    check_fits(known, folder, {part.name: part})
    found = known.check_domain(part.embeddings, embedding=part.embedding)
    if as_json:
        print_json({"domain": part.name} | found.to_dict())
        return
    title = Text(f"{part.name} against the training domains", style="table.title")
    table = Table("", Column(Text(part.name)), "worst training domain", "ratio", title=title)
    for name, ratio in found.parts.items():
        values = (getattr(figures, name) for figures in (found.figures, found.reference))
        table.add_row(name.replace("_", " "), *(f"{value:.4f}" for value in values), f"{ratio:.2f}")
    console().print(table)
    console().print(verdict(found), markup=False, soft_wrap=True)


def verdict(found: DomainCheck) -> str:
    """Say what a check has found, in one line."""
    go = "go" if found.passes else "no go"
    return f"{go}: score {found.score:.2f}, threshold {found.threshold}. {found.advice}"
