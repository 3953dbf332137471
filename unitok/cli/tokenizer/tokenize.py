"""`unitok tokenize`: write the semantic IDs of a catalogue's items to a file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.files import check_writable
from unitok.cli.inputs import check_fits, check_scipy, counted, read_table, say_routed, sources_of
from unitok.cli.options import Force, Items, Json, TokenizerFolder, choice, output
from unitok.cli.terminal import Refusal, StepBar, console, print_json, say
from unitok.cli.tokenizer.fit_session import recalled, say_views
from unitok.cli.tokenizer.shards import is_shards, tokenize_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from unitok import SemanticIds, Tokenizer
    from unitok.data import Domain
    from unitok.ids.table import IdTable

_ROWS_AT_ONCE = 4096
_MOST_MOVED = 5  # items that are named
# More items than these with other codes aren't kept by their numbers alone: likely they are other items.
_MOST_KEPT, _MOST_KEPT_SHARE = 10, 0.2


def tokenize(
    tokenizer: TokenizerFolder,
    data: Items,
    out: Annotated[Path, output("FILE", "The file to write: .parquet, .csv or .jsonl. For shards: a folder.")],
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
            "How items that share an ID are told apart. suffix: an extra number. reassign: the nearest last code that "
            "is free, item by item, or the extra number if all are taken. least_cost: so for all at once, at the least "
            "sum of squared distances; needs scipy. none: not at all.",
            *("suffix", "reassign", "least_cost", "none"),
        ),
    ] = "suffix",
    existing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An earlier output: its items, known by source_id if they have one, else by number, keep their IDs "
            "and the order of their rows; new items are added.",
        ),
    ] = None,
    changed: Annotated[
        str,
        choice(
            "What becomes of items of --existing whose codes differ now, as after a change of their text. fail: the "
            "command. keep: they keep their old IDs. renew: they get new ones.",
            *("fail", "keep", "renew"),
        ),
    ] = "fail",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give every item its semantic ID.

    The file is parquet, CSV or JSON lines, as its name says. Which tokenizer made the IDs, and digests, are kept in a
    parquet file, and beside another: for ids.csv in ids.csv.unitok.json. There is one row per item: domain, item_id,
    semantic_id (text, as `<a_12><b_7><c_3><d_9><e_2><f_0>`), the codes c0, c1, ..., expert and suffix (0 if an item
    needs none, empty with --resolver none), and source_id if items.parquet has it. An item's codes depend only on its
    own embedding and domain. Items of a domain that the tokenizer doesn't know go to the experts that its router
    chooses. With --existing, items that the catalogue has no more keep their rows, so that their IDs stay taken, with a
    negative item_id if the number is another's now.

    Catalogues that are larger than memory are folders of shards: Parquet files with the columns source_id and
    embedding, lists of floats of 16, 32 or 64 bits. One table per shard is written into the folder --out, with suffixes
    that tell apart the items of all shards; items are numbered through all of them, in the order of the files' names.
    The same command resumes an interrupted run at the first shard that is missing, and --force begins anew.

    A tokenizer that was fitted with --behaviour uses the vectors that it keeps, and says of how many items. Others,
    such as new items, get IDs of their embeddings alone.

    For example:

        unitok tokenize runs/first catalogue --out ids.parquet
        unitok tokenize runs/first catalogue --domain beauty --out beauty.parquet
        unitok tokenize runs/first newer --existing ids.parquet --out newer.parquet
        unitok tokenize runs/first shards --domain beauty --out ids
    """
    from unitok import Tokenizer
    from unitok.ids.table_files import check_format

    began = time.perf_counter()
    if is_shards(data):
        others = {"resolver": (resolver, "suffix"), "existing": (existing, None), "changed": (changed, "fail")}
        tokenize_folder(tokenizer, data, out, domain, force=force, as_json=as_json, **others)
        return
    if resolver == "least_cost":
        check_scipy("--resolver least_cost")
    if not out.is_dir():
        check_format("--out", out)
    check_writable(out, force=force)
    known = Tokenizer.from_pretrained(tokenizer)
    parts = _read_parts(known, data, domain)
    earlier = None if existing is None else read_table(existing, known, resolver).renumbered(sources_of(parts))
    routed = say_routed(known, parts)
    viewed = say_views(recalled(known, parts), parts)
    ids = tokenize_parts(known, parts)
    moved = [] if earlier is None else _moved(parts, ids, resolver, earlier)
    if earlier is not None and moved:
        _report_moved(moved, changed, sure=_are_the_same(parts, earlier, [each["item"] for each in moved]))
    found = resolve(parts, ids, resolver, earlier, changed)
    found.write(out, known.fingerprint(), resolver)
    summary = {
        "out": str(out),
        "items": len(ids),
        "domains": {name: len(part.keys) for name, part in parts.items()},
        "routed_domains": routed,
        "views": viewed,
        "resolver": resolver,
        **_counts(ids, found, earlier, len(moved) if changed == "renew" else 0),
        "changed": moved,
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


def _counts(ids: SemanticIds, found: IdTable, earlier: IdTable | None, renewed: int) -> dict[str, Any]:
    from unitok.metrics import collision_rate

    rows = 0 if earlier is None else len(earlier.ids)
    both = rows + len(ids) - len(found.ids)  # items of the earlier table that the catalogue has, too
    return {
        "kept": both - renewed,
        "added": len(found.ids) - rows,
        "absent": rows - both,
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
        gone = f"; {summary['absent']:,} of --existing aren't in the catalogue" if summary["absent"] else ""
        lines.append(f"{counted(summary['kept'], 'item')} kept their IDs; {summary['added']:,} new{gone}")
    for line in [*lines, f"written to {summary['out']}"]:
        console().print(line, markup=False, soft_wrap=True)


def tokenize_parts(tokenizer: Tokenizer, parts: Mapping[str, Domain]) -> SemanticIds:
    """Tokenize domains one after another, in blocks of rows, with the vectors that are kept and a progress bar."""
    from unitok import SemanticIds

    total = sum(len(part.keys) for part in parts.values())
    found, done = [], 0
    with StepBar("tokenizing", "items") as bar:
        for name, part in parts.items():
            known, views = name if name in tokenizer.domains else None, tokenizer.recall(part, name)
            for start in range(0, len(part.keys), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                seen = {view: vectors[rows] for view, vectors in views.items()}
                found.append(tokenizer.tokenize(part.embeddings[rows], known, views=seen, embedding=part.embedding))
                done += len(found[-1])
                bar(done, total)
    return SemanticIds.concatenate(found)


def resolve(
    parts: Mapping[str, Domain],
    ids: SemanticIds,
    resolver: str,
    earlier: IdTable | None = None,
    changed: str = "fail",
) -> IdTable:
    """Make the IDs of all domains' items distinct; the rows of an earlier table come first, unchanged.

    Args:
        parts: the domains.
        ids: the IDs of their items, in the order of the domains.
        resolver: see `SemanticIds.assign`.
        earlier: a table whose items keep their IDs.
        changed: see `SemanticIds.assign`.

    Returns:
        IdTable: earlier rows, their IDs unchanged but for items that were given new ones, then the items that are new,
        in the order of `parts`.
    """
    from unitok.ids.semantic_ids import AssignedIds
    from unitok.ids.table import IdTable

    domains, items, keys = _items(parts)
    existing = None if earlier is None else AssignedIds(earlier.keys, earlier.ids)
    sources = sources_of(parts)
    names = [name for domain, part in parts.items() for name in sources.get(domain, [""] * len(part.keys))]
    found = IdTable.of(domains, items, ids.assign(keys, resolver, existing, changed), names if sources else None)
    if earlier is None or existing is None:
        return found
    moved = {keys[row] for row in ids.changed_rows(keys, existing, resolver)[:, 0].tolist()}
    nameless = {key for key, name in zip(earlier.keys, earlier.source_ids, strict=True) if name is None}
    # Rows are copied, even if an item is not in this catalogue: so no ID is given twice. Items without a name, as older
    # releases wrote them, get theirs, with the IDs that they had.
    renewed = (moved if changed == "renew" else set()) | (nameless - moved)
    return earlier.append(found, renewed=[key for key in keys if key in renewed])


def _items(parts: Mapping[str, Domain]) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """The domain, the number and the key of each item."""
    import numpy as np

    from unitok.ids.table import item_keys

    domains = [name for name, part in parts.items() for _ in range(len(part.keys))]
    items = np.concatenate([part.keys for part in parts.values()])
    return domains, items, item_keys(domains, items.tolist())


def _moved(parts: Mapping[str, Domain], ids: SemanticIds, resolver: str, earlier: IdTable) -> list[dict[str, str]]:
    """The items of an earlier table whose codes differ now."""
    from unitok.ids.semantic_ids import AssignedIds

    keys = _items(parts)[2]
    own, known = ids.changed_rows(keys, AssignedIds(earlier.keys, earlier.ids), resolver).unbind(1)
    texts = zip(replace(earlier.ids[known], suffix=None).to_text(), ids[own].to_text(), strict=True)
    return [{"item": keys[row], "old": old, "new": new} for row, (old, new) in zip(own.tolist(), texts, strict=True)]


def _are_the_same(parts: Mapping[str, Domain], earlier: IdTable, moved: list[str]) -> bool:
    """Whether items whose codes differ are those of the earlier table for sure, or so few that they are likely so."""
    sources = sources_of(parts)
    rows = zip(earlier.keys, earlier.table["domain"].to_pylist(), earlier.source_ids, strict=True)
    named = {key for key, domain, name in rows if earlier.is_noted and name is not None and domain in sources}
    unsure, both = len(set(moved) - named), len(set(earlier.keys) & set(_items(parts)[2]))
    return unsure <= max(_MOST_KEPT, _MOST_KEPT_SHARE * both)


def _report_moved(moved: list[dict[str, str]], changed: str, *, sure: bool) -> None:
    """Say which items' codes differ from those of the earlier table; refuse them if nothing is to be done about it."""
    shown = [f"{each['item']} was {each['old']} and is {each['new']}" for each in moved[:_MOST_MOVED]]
    more = [f"and {len(moved) - _MOST_MOVED:,} more"] * (len(moved) > _MOST_MOVED)
    rule = f"--existing: items must have the codes of that table, got {len(moved):,} that differ"
    if changed != "renew" and not sure:
        why = "They may be numbered otherwise there, or its IDs may be another tokenizer's"
        step = f"{why}: take the table of this catalogue and tokenizer, or pass --changed renew for new IDs."
        raise Refusal(f"{rule}: {'; '.join([*shown, *more])}. {step}")
    if changed == "fail":
        step = "Pass --changed keep for their old IDs or --changed renew for new ones, or embed as you did then."
        raise Refusal(f"{rule}: {'; '.join([*shown, *more])}. {step}")
    done = "keep their old IDs" if changed == "keep" else "get new IDs"
    say(f"{counted(len(moved), 'item')} of --existing with other codes now {done}: {'; '.join([*shown, *more])}")
