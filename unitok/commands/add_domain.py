"""`unitok add-domain`: let a new domain into a fitted tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unitok.commands.inputs import check_fits, counted
from unitok.commands.options import Json, TokenizerFolder, choice
from unitok.commands.terminal import Refusal, console, print_json


def add_domain(
    tokenizer: TokenizerFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The new domain's folder.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the new tokenizer.", show_default=False)
    ],
    mode: Annotated[
        str,
        choice("Codebooks of its own, or the experts that are there as the router chooses.", "new_expert", "frozen"),
    ] = "new_expert",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The domain's name.", show_default="the folder's")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a tokenizer that is in --out, the old one itself included.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a domain to a tokenizer; every ID that it has given stays as it is, to the bit.

    new_expert clusters the domain's items into codebooks of its own, in seconds; frozen changes no weight. Name the
    domain when you tokenize its items: the folder's name, or --domain, does so.

    For example:

        unitok add-domain runs/first catalogue/garden --out runs/with-garden
        unitok add-domain runs/first catalogue/garden --mode frozen --out runs/frozen
    """
    from unitok import Tokenizer
    from unitok.data import read_domain
    from unitok.metrics import collision_rate
    from unitok.storage import SETTINGS

    if (out / SETTINGS).exists() and not force:
        raise Refusal(f"{out}: a tokenizer is there already. Choose another folder, or pass --force to replace it.")
    known = Tokenizer.from_pretrained(tokenizer)
    part = read_domain(folder)
    check_fits(known, folder, {part.name: part})
    name = part.name if name is None else name
    known.add_domain(name, part.embeddings, mode, embedding=part.embedding)
    rate = collision_rate(known.tokenize(part.embeddings, name).tokens())
    known.save_pretrained(out, force=force)
    expert = known.domains[name].expert
    if as_json:
        summary = {"out": str(out), "domain": name, "mode": mode, "items": len(part.keys), "expert": expert}
        print_json({**summary, "domains": list(known.domains), "collision_rate": rate})
        return
    where = "the router's choice of experts" if expert is None else f"expert {expert}, which is its own"
    console().print(
        f"{name}: {counted(len(part.keys), 'item')} go to {where}; {rate:.2%} share an ID before resolution.\n"
        f"The new tokenizer is in {out}; IDs of other domains are what they were.",
        markup=False,
        soft_wrap=True,
    )
