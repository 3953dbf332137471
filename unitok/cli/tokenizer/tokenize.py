"""`unitok tokenize`: write the semantic IDs of a catalogue's items to a parquet file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.files import replacing
from unitok.cli.inputs import check_fits, counted, say_routed
from unitok.cli.options import Force, Items, Json, TokenizerFolder, choice, output
from unitok.cli.terminal import Refusal, StepBar, console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok import SemanticIds, Tokenizer
    from unitok.data import Domain
    from unitok.ids.table import IdTable

_ROWS_AT_ONCE = 4096


def tokenize(
    tokenizer: TokenizerFolder,
    data: Items,
    out: Annotated[Path, output("FILE", "The parquet file to write.")],
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="One domain of the catalogue. If DATA is one domain's folder: the name to tokenize it as.",
        ),
    ] = None,
    resolver: Annotated[
        str,
        choice(
            "How items that share an ID are told apart. suffix: an extra number. reassign: another last code, or the "
            "extra number if all are taken. none: not at all.",
            *("suffix", "reassign", "none"),
        ),
    ] = "suffix",
    existing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An earlier output: its items keep their IDs and their rows; new items are added."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give every item its semantic ID.

    The file has one row per item: domain, item_id, semantic_id (text, such as `<a_12><b_7><c_3><d_9><e_2><f_0>`), the
    codes c0, c1, ..., expert and suffix (0 if an item needs none, empty with --resolver none). An item's codes depend
    only on its own embedding and domain. Items of a domain that the tokenizer doesn't know go to the experts that its
    router chooses.

    For example:

        unitok tokenize runs/first catalogue --out ids.parquet
        unitok tokenize runs/first catalogue --domain beauty --out beauty.parquet
        unitok tokenize runs/first newer --existing ids.parquet --out newer.parquet
    """
    from unitok import Tokenizer
    from unitok.ids.table import IdTable

    began = time.perf_counter()
    with replacing(out, force=force) as partial:
        known = Tokenizer.from_pretrained(tokenizer)
        parts = _read_parts(known, data, domain)
        earlier = None if existing is None else IdTable.read(existing, known.fingerprint(), resolver)
        routed = say_routed(known, parts)
        ids = tokenize_parts(known, parts)
        found = resolve(parts, ids, resolver, earlier)
        found.write(partial, known.fingerprint(), resolver)
    summary = {
        "out": str(out),
        "items": len(ids),
        "domains": {name: len(part.keys) for name, part in parts.items()},
        "routed_domains": routed,
        "resolver": resolver,
        **_counts(ids, found, earlier),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary, appended=earlier is not None)


def _read_parts(tokenizer: Tokenizer, data: Path, domain: str | None) -> dict[str, Domain]:
    """Read the domains to tokenize, named as the tokenizer should know them, and check that they fit it."""
    from unitok.data import find_domains, read_catalogue

    one_folder = list(find_domains(data).values()) == [data]
    parts = read_catalogue(data, None if domain is None or one_folder else [domain])
    if one_folder and domain is not None:
        if domain not in tokenizer.domains:
            step = f"It knows {', '.join(tokenizer.domains)}; leave --domain out to let the router decide."
            raise Refusal(f"--domain: the tokenizer must know it, got {domain!r}. {step}")
        parts = dict(zip([domain], parts.values(), strict=True))
    check_fits(tokenizer, data, parts)
    return parts


def _counts(ids: SemanticIds, found: IdTable, earlier: IdTable | None) -> dict[str, Any]:
    from unitok.metrics import collision_rate

    kept = 0 if earlier is None else len(earlier.ids)
    return {
        "kept": kept,
        "added": len(found.ids) - kept,
        "collision_rate": collision_rate(ids.tokens()),
        "resolved_collision_rate": collision_rate(found.ids.tokens()),
    }


def _print_summary(summary: dict[str, Any], *, appended: bool) -> None:
    items, domains = counted(summary["items"], "item"), counted(len(summary["domains"]), "domain")
    after = f", {summary['resolved_collision_rate']:.2%} after the resolver {summary['resolver']!r}"
    if summary["resolver"] == "none":
        after = ""
    lines = [f"{items} of {domains}: {summary['collision_rate']:.2%} collide{after}"]
    if appended:
        lines.append(f"{counted(summary['kept'], 'item')} kept their IDs; {summary['added']:,} new")
    for line in [*lines, f"written to {summary['out']}"]:
        console().print(line, markup=False, soft_wrap=True)


def tokenize_parts(tokenizer: Tokenizer, parts: Mapping[str, Domain]) -> SemanticIds:
    """Tokenize domains one after another, in blocks of rows, with a progress bar."""
    from unitok import SemanticIds

    total = sum(len(part.keys) for part in parts.values())
    found, done = [], 0
    with StepBar("tokenizing", "items") as bar:
        for name, part in parts.items():
            known = name if name in tokenizer.domains else None
            for start in range(0, len(part.keys), _ROWS_AT_ONCE):
                rows = part.embeddings[start : start + _ROWS_AT_ONCE]
                found.append(tokenizer.tokenize(rows, known, embedding=part.embedding))
                done += len(rows)
                bar(done, total)
    return SemanticIds.concatenate(found)


def resolve(parts: Mapping[str, Domain], ids: SemanticIds, resolver: str, earlier: IdTable | None = None) -> IdTable:
    """Make the IDs of all domains' items distinct; the rows of an earlier table come first, unchanged.

    Args:
        parts: the domains.
        ids: the IDs of their items, in the order of the domains.
        resolver: see `SemanticIds.assign`.
        earlier: a table whose items keep their IDs.

    Returns:
        IdTable: earlier rows unchanged, then the items that are new, in the order of `parts`.
    """
    import numpy as np

    from unitok.ids.semantic_ids import AssignedIds
    from unitok.ids.table import IdTable, item_keys

    domains = [name for name, part in parts.items() for _ in range(len(part.keys))]
    items = np.concatenate([part.keys for part in parts.values()])
    keys = item_keys(domains, items.tolist())
    existing = None if earlier is None else AssignedIds(earlier.keys, earlier.ids)
    found = IdTable.of(domains, items, ids.assign(keys, resolver, existing))
    # Copied unchanged, even if an item is not in this catalogue: so no ID is given twice.
    return found if earlier is None else earlier.append(found)
