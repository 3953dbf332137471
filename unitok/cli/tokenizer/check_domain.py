"""`unitok check-domain`: can a tokenizer be used for a domain that it was not fitted on?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unitok.cli.inputs import check_fits
from unitok.cli.options import Json, TokenizerFolder
from unitok.cli.terminal import console, print_json


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
    from rich.table import Table

    from unitok import Tokenizer
    from unitok.data import read_domain

    known = Tokenizer.from_pretrained(tokenizer)
    part = read_domain(folder)
    check_fits(known, folder, {part.name: part})
    found = known.check_domain(part.embeddings, embedding=part.embedding)
    if as_json:
        print_json({"domain": part.name} | found.to_dict())
        return
    table = Table("", part.name, "worst training domain", "ratio", title=f"{part.name} against the training domains")
    for name, ratio in found.parts.items():
        values = (getattr(figures, name) for figures in (found.figures, found.reference))
        table.add_row(name.replace("_", " "), *(f"{value:.4f}" for value in values), f"{ratio:.2f}")
    console().print(table)
    verdict = "go" if found.passes else "no go"
    console().print(
        f"{verdict}: score {found.score:.2f}, threshold {found.threshold}. {found.advice}", markup=False, soft_wrap=True
    )
