"""`unitok tokenize`: the items of a catalogue to semantic IDs in a parquet file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.commands.files import replacing
from unitok.commands.inputs import check_fits, counted, say_routed
from unitok.commands.options import Force, Items, Json, TokenizerFolder, choice
from unitok.commands.terminal import Refusal, StepBar, console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok import SemanticIds, Tokenizer
    from unitok.commands.id_table import IdTable
    from unitok.data import Domain

_ROWS_AT_ONCE = 4096


def tokenize(
    tokenizer: TokenizerFolder,
    data: Items,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The parquet file to write.", show_default=False)
    ],
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="One domain of the catalogue; for a domain's folder, what to tokenize it as."
        ),
    ] = None,
    resolver: Annotated[
        str,
        choice(
            "How items that share an ID are told apart: by one number more, by another last code (by the number where "
            "all are taken), or not at all.",
            *("suffix", "reassign", "none"),
        ),
    ] = "suffix",
    existing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An earlier output: its items keep their IDs and stay in the file, new ones are added."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give every item its semantic ID.

    The file has a row an item: domain, item_id, semantic_id (text, as `<a_12><b_7><c_3><d_9><e_2><f_0>`), the codes c0,
    c1, ..., expert and suffix (0 where an item needs none, empty with --resolver none). An item's codes depend on
    nothing but its own embedding and domain; a domain that the tokenizer doesn't know goes to the experts that its
    router chooses.

    For example:

        unitok tokenize runs/first catalogue --out ids.parquet
        unitok tokenize runs/first catalogue --domain beauty --out beauty.parquet
        unitok tokenize runs/first newer --existing ids.parquet --out newer.parquet
    """
    from unitok import Tokenizer
    from unitok.commands.id_table import IdTable
    from unitok.data import find_domains, read_catalogue
    from unitok.metrics import collision_rate

    began = time.perf_counter()
    with replacing(out, force=force) as partial:
        known = Tokenizer.from_pretrained(tokenizer)
        alone = list(find_domains(data).values()) == [data]
        parts = read_catalogue(data, None if domain is None or alone else [domain])
        if alone and domain is not None:
            if domain not in known.domains:
                step = f"It knows {', '.join(known.domains)}; leave --domain out to let the router decide."
                raise Refusal(f"--domain: the tokenizer must know it, got {domain!r}. {step}")
            parts = dict(zip([domain], parts.values(), strict=True))
        check_fits(known, data, parts)
        earlier = None if existing is None else IdTable.read(existing, known, resolver)
        routed = say_routed(known, parts)
        ids = tokenize_parts(known, parts)
        before = collision_rate(ids.tokens())
        found = resolve(parts, ids, resolver, earlier)
        found.write(partial, known, resolver)
    kept = 0 if earlier is None else len(earlier.ids)
    after = collision_rate(found.ids.tokens())
    summary = {
        "out": str(out),
        "items": len(ids),
        "domains": {name: len(part.keys) for name, part in parts.items()},
        "routed_domains": routed,
        "resolver": resolver,
        "kept": kept,
        "added": len(found.ids) - kept,
        "collision_rate": before,
        "resolved_collision_rate": after,
        "seconds": round(time.perf_counter() - began, 3),
    }
    if as_json:
        print_json(summary)
        return
    resolved = "" if resolver == "none" else f", {after:.2%} after the resolver {resolver!r}"
    lines = [f"{counted(len(ids), 'item')} of {counted(len(parts), 'domain')}: {before:.2%} collide{resolved}"]
    if earlier is not None:
        lines.append(f"{counted(kept, 'item')} kept their IDs; {summary['added']:,} new")
    for line in [*lines, f"written to {out}"]:
        console().print(line, markup=False, soft_wrap=True)


def tokenize_parts(tokenizer: Tokenizer, parts: Mapping[str, Domain]) -> SemanticIds:
    """Tokenize domains one after another, a block of rows at a time, with a bar on the terminal."""
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
    """Tell the items of all domains apart; rows of an earlier table come first, as they are.

    Args:
        parts: the domains.
        ids: the IDs of their items, in that order.
        resolver: see `SemanticIds.assign`.
        earlier: a table whose items keep their IDs.

    Returns:
        IdTable: earlier rows unchanged, then the items that are new, in the order of `parts`.
    """
    import numpy as np
    import pyarrow as pa

    from unitok.collisions import AssignedIds
    from unitok.commands.id_table import IdTable, item_keys

    domains = [name for name, part in parts.items() for _ in range(len(part.keys))]
    items = np.concatenate([part.keys for part in parts.values()])
    keys = item_keys(domains, items.tolist())
    existing = None if earlier is None else AssignedIds(earlier.keys, earlier.ids)
    found = IdTable.build(domains, items, ids.assign(keys, resolver, existing))
    if earlier is None:
        return found
    kept = set(earlier.keys)
    new = found.table.filter(pa.array([key not in kept for key in keys], pa.bool_()))
    # The earlier rows as they were read, to the letter, be their items in this catalogue or not: no ID is given twice.
    joined = pa.concat_tables([earlier.table.cast(found.table.schema), new])
    return IdTable(joined, found.codebook_size, found.num_experts)
