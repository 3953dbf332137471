"""`unitok import`: turn a published data set into a domain's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.options import Json, one_of, output
from unitok.cli.terminal import StepBar, console, print_json

if TYPE_CHECKING:
    from unitok.data import ImportedDomain

FORMATS = ("amazon-2014", "amazon-2018", "amazon-2023", "yelp", "recbole")
_SOURCE = """# {name}

Imported by `unitok import {format} {items} {interactions} --k-core {k_core}`.

- Every interaction counts, whatever its rating; if a user has several with one item, the earliest is kept.
- Users and items with fewer than {k_core} interactions are dropped, repeatedly, until no such user or item remains.
- Items without title or text, or missing from the file of items, are dropped; then the filter is applied again.
- A history is in the order of time and, at equal times, of the file. Times: {times}.
- Texts are without HTML, by the template `{template}`. Items are in the order of source_id.

## Counts

{counts}
"""


def import_(
    format_: Annotated[
        str,
        typer.Argument(metavar="FORMAT", callback=one_of(*FORMATS), help=f"{', '.join(FORMATS)}.", show_default=False),
    ],
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="Metadata, business.json or .item.", show_default=False)
    ],
    interactions: Annotated[
        Path, typer.Argument(metavar="INTERACTIONS", help="Reviews, review.json or .inter.", show_default=False)
    ],
    out: Annotated[Path, output("FOLDER", "The domain's folder.")],
    k_core: Annotated[
        int, typer.Option(min=1, metavar="K", help="Fewest interactions per user and per item; 1 keeps all.")
    ] = 5,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="An item's text, made from {title}, {categories}, {brand} and {description}.",
            show_default="{title} . Category: {categories} . Brand: {brand} . {description}",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing domain, including its embeddings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a published data set into a domain's folder: Amazon Reviews, Yelp, or RecBole's atomic files.

    Files may be gzipped or not, and of any size. The folder gets items.parquet, interactions.parquet and SOURCE.md,
    which states the rules, the unit of the times and the counts; `unitok embed` then makes the embeddings. A part of
    the template between two ` . ` is left out if an item has nothing to fill it with.

    For example:

        unitok import amazon-2023 meta_All_Beauty.jsonl.gz All_Beauty.jsonl.gz --out catalogue/beauty
        unitok import amazon-2014 meta_Toys_and_Games.json.gz reviews_Toys_and_Games.json.gz --out catalogue/toys
        unitok import yelp yelp_academic_dataset_business.json yelp_academic_dataset_review.json --out catalogue/yelp
        unitok import recbole ml-100k.item ml-100k.inter --out catalogue/films --template "{title} . {categories}"
    """
    from unitok.data import import_domain
    from unitok.data.folder import check_free
    from unitok.data.template import TEMPLATE
    from unitok.storage.lock import only_writer

    check_free(out, force=force)
    with only_writer("import", out):
        with StepBar("reading", "MiB") as bar:
            found = import_domain(
                format_,
                items,
                interactions,
                k_core=k_core,
                template=TEMPLATE if template is None else template,
                progress=lambda done, total: bar(done >> 20, total >> 20),
            )
        source = _SOURCE.format(
            name=out.resolve().name,
            format=format_,
            items=items.name,
            interactions=interactions.name,
            k_core=k_core,
            template=found.template,
            times=found.times,
            counts="\n".join(f"- {line}" for line in _count_lines(found)),
        )
        _write(out, found, source, force)
    if as_json:
        counts = {name.replace(" ", "_").replace("-", "_"): count for name, count in found.counts.items()}
        about = {"out": str(out), "format": format_, "k_core": k_core, "template": found.template}
        print_json({**about, "times": found.times, **counts})
    else:
        _print_outcome(out, found)


def _write(out: Path, found: ImportedDomain, source: str, force: bool) -> None:
    from unitok.data import write_domain

    contents: dict[str, Any] = {"items": found.items, "interactions": found.interactions}
    write_domain(out, None, **contents, text_template=found.template, source=source, force=force)


def _count_lines(found: ImportedDomain) -> list[str]:
    return [f"{name}: {count:,}" for name, count in found.counts.items()]


def _print_outcome(out: Path, found: ImportedDomain) -> None:
    for line in [
        *_count_lines(found),
        f"times: {found.times}",
        f"\nThe first item: {next(iter(found.items['text']))}",
        f"\nWritten to {out}. Next: unitok embed {out} --model sentence-transformers/all-MiniLM-L6-v2",
    ]:
        console().print(line, markup=False, soft_wrap=True)
