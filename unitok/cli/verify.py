"""`unitok verify`: read everything that UniTok wrote, and name what is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from unitok.cli.inputs import counted
from unitok.cli.options import Json
from unitok.cli.terminal import Refusal, console, print_json, say

_ANY = 1 << 62  # as many items as interactions may name, where nothing says how many there are


class _Part(NamedTuple):
    """Something that was found, and how it is checked: `check` gives a few words about it, or raises."""

    kind: str
    path: Path
    check: Callable[[Path], str]


def verify(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders or files that UniTok wrote.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Read everything that UniTok wrote in some folders, and name what is damaged.

    Finds tokenizers, recommenders, checkpoints, catalogues and tables of IDs, in folders of folders too. What a loader
    reads is compared with the digest that was written with it; history.jsonl and report.json are for people, and left
    out. Nothing is changed. The exit code is 1 if something is damaged.

    For example:

        unitok verify runs/first
        unitok verify catalogue ids.parquet --json
    """
    results = []
    for path in paths:
        if not path.exists():
            raise Refusal(f"{path}: must be a folder or a file, got nothing there. Check the path.")
        parts = list(_parts(path))
        if not parts:
            raise Refusal(f"{path}: must hold something that UniTok wrote, got nothing of it. Check the path.")
        results += [_result(part, as_json) for part in parts]
    broken = sum(not result["whole"] for result in results)
    if as_json:
        print_json({"whole": not broken, "found": results})
    else:
        console().print(f"{counted(len(results) - broken, 'part')} whole, {broken} damaged")
    if broken:
        raise typer.Exit(1)


def _result(part: _Part, as_json: bool) -> dict[str, Any]:
    """Check a part, and print the outcome."""
    try:
        said, whole = part.check(part.path), True
    except (ValueError, OSError) as error:
        said, whole = " ".join(str(error).split()), False
    if not as_json and whole:
        console().print(f"whole    {part.kind:<11} {part.path}  {said}", markup=False, soft_wrap=True)
    elif not as_json:
        say(f"damaged  {part.kind:<11} {part.path}  {said}")
    return {"kind": part.kind, "path": str(part.path), "whole": whole, "said": said}


def _parts(path: Path) -> Iterator[_Part]:
    """Find what is in a folder or what a file is, hidden folders left out."""
    from unitok.storage.whole import current

    if path.is_file():
        yield from _of_folder(path.parent, [path.name])
        return
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from _of_folder(Path(folder), {*names, *(file.name for file in current(folder).iterdir())})


def _of_folder(folder: Path, names: Iterable[str]) -> Iterator[_Part]:
    """Find what some files of a folder belong to, and what they are by themselves."""
    from unitok.data.folder import EMBEDDING_INFO, EMBEDDINGS, INTERACTIONS, ITEMS
    from unitok.storage.saved import CONFIG, RECOMMENDER, TOKENIZER, WEIGHTS, settings_file
    from unitok.storage.whole import current

    base = current(folder)
    there, asked = {file.name for file in base.iterdir()}, set(names)
    older = TOKENIZER.formerly in there and WEIGHTS in there and CONFIG not in there  # a model of transformers has one
    holds = TOKENIZER.settings in there or older or settings_file(base, TOKENIZER) is not None
    if holds and asked & {*TOKENIZER.names, *TOKENIZER.files}:
        yield _Part(TOKENIZER.name, folder, _tokenizer)
    if RECOMMENDER.settings in there and asked & {RECOMMENDER.settings, *RECOMMENDER.files}:
        yield _Part(RECOMMENDER.name, folder, _recommender)
    of_domain = {EMBEDDINGS, EMBEDDING_INFO, ITEMS, INTERACTIONS}
    if asked & of_domain:
        yield _Part("domain", folder, _domain)
    for name in sorted(asked - of_domain):
        yield from _of_file(base / name)
        table = name.removesuffix(".unitok.json")
        if table != name and table not in there:
            yield _Part("table", base / table, _table)  # which its note is beside


def _of_file(file: Path) -> Iterator[_Part]:
    from unitok.ids.table_files import note_file
    from unitok.recommender.training import BEST
    from unitok.training.trainer import CHECKPOINT

    if file.name in (CHECKPOINT, BEST):
        yield _Part("checkpoint", file, _tensors)
    elif note_file(file).exists() or (file.suffix == ".parquet" and _may_be_table(file)):
        yield _Part("table", file, _table)


def _may_be_table(file: Path) -> bool:
    """Tell whether a parquet file is a table of IDs, or too damaged to tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():  # a pipe would block
        return False
    try:
        found = pq.read_schema(file)
        return "semantic_id" in found.names or b"unitok" in (found.metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return True


def _tokenizer(folder: Path) -> str:
    from unitok.storage.layout import checked_config
    from unitok.storage.pair import read_pair
    from unitok.storage.saved import NOT_WHOLE, TOKENIZER, not_whole

    try:
        settings, weights = read_pair("verify", folder)
        checked_config(settings, weights)
    except NOT_WHOLE as error:
        raise not_whole("verify", TOKENIZER, folder, error) from error
    return counted(len(settings["domains"]), "domain")


def _recommender(folder: Path) -> str:
    from unitok.recommender.saving import read

    saved = read("verify", folder, lambda saved: saved)
    return f"{saved.settings['kind']} of {counted(len(saved.table.tokens), 'item')}"


def _domain(folder: Path) -> str:
    from unitok.data.events import read_events
    from unitok.data.files import read_items
    from unitok.data.folder import EMBEDDING_INFO, EMBEDDINGS, INTERACTIONS, ITEMS, read_domain
    from unitok.storage.whole import current

    base, said = current(folder), []
    rows = None
    if (base / EMBEDDINGS).exists():
        rows = len(read_domain(folder).embeddings)
        said.append(counted(rows, "embedding"))
    elif (base / EMBEDDING_INFO).exists():
        raise ValueError(f"{base / EMBEDDING_INFO}: must be beside {EMBEDDINGS}, got nothing there. Embed again.")
    if (base / ITEMS).exists():
        rows = read_items(base / ITEMS, rows).num_rows
        said.append(counted(rows, "item"))
    if (base / INTERACTIONS).exists():
        said.append(
            counted(len(read_events(base / INTERACTIONS, _ANY if rows is None else rows).user_ids), "interaction")
        )
    return ", ".join(said)


def _tensors(file: Path) -> str:
    from unitok.storage.tensors import read_tensors

    return counted(len(read_tensors(file)), "tensor")


def _table(file: Path) -> str:
    from unitok.ids.table import IdTable

    return counted(len(IdTable.read(file).table), "ID")
