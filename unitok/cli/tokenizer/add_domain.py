"""`unitok add-domain`: add a new domain to a fitted tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.files import check_takes_tokenizer
from unitok.cli.inputs import check_fits, counted, one_domain
from unitok.cli.options import Json, TokenizerFolder, choice, output
from unitok.cli.terminal import console, print_json
from unitok.cli.tokenizer.check_domain import verdict

if TYPE_CHECKING:
    from unitok import Tokenizer
    from unitok.data import Domain
    from unitok.evaluation.domain_check import DomainCheck


def add_domain(
    tokenizer: TokenizerFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The new domain's folder.", show_default=False)],
    out: Annotated[Path, output("DIR", "Folder for the new tokenizer.")],
    mode: Annotated[
        str,
        choice("Give it codebooks of its own, or let the router choose existing experts.", "new_expert", "frozen"),
    ] = "new_expert",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The domain's name.", show_default="the folder's")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the tokenizer in --out, even if it is TOKENIZER itself.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a domain to a tokenizer; every ID that it has given stays exactly the same.

    new_expert clusters the domain's items into new codebooks, in seconds; frozen changes no weight. The tokenizer
    knows the items of the domain by its name: their folder's name, or --domain of `unitok tokenize`. What
    `unitok check-domain` says of the domain is printed, too; it stops nothing.

    For example:

        unitok add-domain runs/first catalogue/garden --out runs/with-garden
        unitok add-domain runs/first catalogue/garden --mode frozen --out runs/frozen
    """
    from unitok import Tokenizer
    from unitok.metrics import collision_rate
    from unitok.storage.lock import only_writer

    check_takes_tokenizer("add_domain", out, force=force)
    part = one_domain(folder)
    with only_writer("add-domain", out):  # before TOKENIZER is read, which may be replaced: another may add to it, too
        known = Tokenizer.from_pretrained(tokenizer)
        check_fits(known, folder, {part.name: part})
        name = part.name if name is None else name
        checked = _check(known, part)
        known.add_domain(name, part.embeddings, mode, embedding=part.embedding)
        rate = collision_rate(known.tokenize(part.embeddings, name).tokens())
        known.save_pretrained(out, force=force)
    expert = known.domains[name].expert
    if as_json:
        summary = {"out": str(out), "domain": name, "mode": mode, "items": len(part.keys), "expert": expert}
        check = None if checked is None else checked.to_dict()
        print_json({**summary, "domains": list(known.domains), "collision_rate": rate, "check": check})
        return
    if checked is not None:
        if expert is not None and "codebooks of its own" in checked.advice:
            checked = replace(checked, advice="It has codebooks of its own now.")
        console().print(f"{name} among the experts before: {verdict(checked)}", markup=False, soft_wrap=True)
    where = "the router's choice of experts" if expert is None else f"their own expert, {expert}"
    console().print(
        f"{name}: {counted(len(part.keys), 'item')} go to {where}; {rate:.2%} share an ID before resolution.\n"
        f"The new tokenizer is in {out}; the IDs of other domains are unchanged.",
        markup=False,
        soft_wrap=True,
    )


def _check(tokenizer: Tokenizer, part: Domain) -> DomainCheck | None:
    """What `unitok check-domain` says; None where it can't tell, as of a few items."""
    try:
        return tokenizer.check_domain(part.embeddings, embedding=part.embedding)
    except ValueError:  # what makes the domain unfit is told when it is added
        return None
