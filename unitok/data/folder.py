"""The folder format: a catalogue is a folder with one folder per domain.

A domain's folder holds

    embeddings.npy         (N, D) float16 or float32; row i is item i
    embeddings.json        {"model": ..., "template": ...}: what made the embeddings, and from which text; optional
    items.parquet          item_id (0 to N - 1), title, text, and any other column; optional
    interactions.parquet   user_id, item_id, position (order in time), timestamp (optional); optional

`unitok import` writes a folder without embeddings; it counts as incomplete until `unitok embed` has made them. Reading
needs only numpy and pyarrow, and no file can run code: pickled arrays are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unitok.data.catalogue import Domain, EmbeddingInfo, Interactions
from unitok.data.files import (
    check_finite,
    fault,
    integers,
    open_embeddings,
    read_embedding_info,
    read_table,
    read_titles,
    write_embedding_info,
)
from unitok.storage.whole import current, is_hidden, whole_files, whole_read

EMBEDDINGS, EMBEDDING_INFO, ITEMS = "embeddings.npy", "embeddings.json", "items.parquet"
INTERACTIONS, SOURCE = "interactions.parquet", "SOURCE.md"
FILES = (EMBEDDINGS, EMBEDDING_INFO, ITEMS, INTERACTIONS, SOURCE)
TEXT_TEMPLATE = b"unitok.text_template"  # in the metadata of items.parquet: the template that made its column `text`


def find_domains(path: str | Path) -> dict[str, Path]:
    """List the domain folders of a catalogue.

    Args:
        path: a catalogue, or one domain's folder.

    Returns:
        Each domain's folder by name, sorted by name.

    Raises:
        CatalogueError: `path` is not a folder.
    """
    path = Path(path)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise fault(path, "catalogue must be a folder", got, "Check the path")
    children = [path] if _is_domain(path) else [child for child in path.iterdir() if not is_hidden(child)]
    folders = [child for child in children if _is_domain(child)]
    return {_name(folder): folder for folder in sorted(folders)}


def read_catalogue(path: str | Path, names: Iterable[str] | None = None) -> dict[str, Domain]:
    """Read the domains of a catalogue.

    Args:
        path: a catalogue, or one domain's folder.
        names: the domains to read; all of them by default.

    Returns:
        The domains by name, sorted by name.

    Raises:
        CatalogueError: no domain, an unknown name, a malformed file, or domains whose embeddings differ in width or
            origin.
    """
    path = Path(path)
    folders = find_domains(path)
    wanted = sorted(folders if names is None else set(names))
    if not wanted:
        rule = f"catalogue must hold a folder with {EMBEDDINGS} for each domain"
        raise fault(path, rule, "no domain to read", "Check the path")
    if unknown := [name for name in wanted if name not in folders]:
        choices = ", ".join(folders) or "none"
        rule = "names must be domains of the catalogue"
        raise fault(path, rule, ", ".join(unknown), f"There: {choices}")
    domains = {name: read_domain(folders[name]) for name in wanted}
    _check_alike(folders, domains)
    return domains


def read_domain(path: str | Path) -> Domain:
    """Read one domain's folder.

    Args:
        path: the domain's folder.

    Returns:
        The domain, its embeddings memory-mapped.

    Raises:
        CatalogueError: a file is missing or malformed.
    """
    path = Path(path)

    def read(base: Path) -> Domain:
        embeddings = open_embeddings(base / EMBEDDINGS)
        check_finite(base / EMBEDDINGS, embeddings)
        items, info = base / ITEMS, base / EMBEDDING_INFO
        return Domain(
            name=_name(path),
            embeddings=embeddings,
            keys=np.arange(len(embeddings), dtype=np.int64),
            titles=read_titles(items, len(embeddings)) if items.exists() else None,
            embedding=read_embedding_info(info) if info.exists() else None,
        )

    return whole_read(path, FILES, read)


def read_interactions(path: str | Path) -> Interactions:
    """Read the interactions of one domain's folder.

    Args:
        path: the domain's folder.

    Returns:
        The events, sorted by user and then by position.

    Raises:
        CatalogueError: the file is missing or malformed, or names an item that the domain doesn't have.
    """
    return whole_read(path, FILES, _read_interactions)


def _read_interactions(base: Path) -> Interactions:
    file = base / INTERACTIONS
    num_items = len(open_embeddings(base / EMBEDDINGS))
    columns = ("user_id", "item_id", "position")
    table = read_table(file, columns)
    users, items, positions = (integers(file, table, column) for column in columns)
    if (strangers := np.flatnonzero((items < 0) | (items >= num_items))).size:
        got = f"{items[strangers[0]]} in row {strangers[0]}"
        step = f"Drop the events of items that {EMBEDDINGS} doesn't hold"
        raise fault(file, f"item_id must be between 0 and {num_items - 1}", got, step)
    order = np.lexsort((positions, users))
    timestamps = integers(file, table, "timestamp")[order] if "timestamp" in table.column_names else None
    return Interactions(users[order], items[order], positions[order], timestamps)


def write_domain(
    path: str | Path,
    embeddings: NDArray[Any] | None,
    *,
    items: Mapping[str, Sequence[str]] | None = None,
    interactions: Interactions | None = None,
    embedding: EmbeddingInfo | None = None,
    text_template: str | None = None,
    source: str | None = None,
    force: bool = False,
) -> None:
    """Write one domain's folder.

    Args:
        path: the domain's folder; created if it is missing.
        embeddings: (N, D) float16 or float32, or None if the items will be embedded later.
        items: columns of N strings each, such as title and text; item_id is added.
        interactions: the events.
        embedding: what made the embeddings.
        text_template: the template that made the items' text.
        source: Markdown that says where the data come from.
        force: replace an existing domain. Files that are not of this format are not changed.

    Raises:
        CatalogueError: the folder holds a domain already and `force` is off, or it holds folders of domains.
        OSError: the folder can't be written to; an old domain stays as it was.
    """
    path = Path(path)
    check_free(path, force=force)
    with whole_files(path, drop=FILES) as staging:
        if interactions is not None:
            pq.write_table(_columns(interactions), staging / INTERACTIONS)
        if embedding is not None:
            write_embedding_info(staging / EMBEDDING_INFO, embedding)
        if source is not None:
            (staging / SOURCE).write_text(source, encoding="utf-8")
        if items is not None:
            ids = np.arange(len(next(iter(items.values()))), dtype=np.int32)
            note = None if text_template is None else {TEXT_TEMPLATE: text_template}
            pq.write_table(pa.table({"item_id": ids, **items}, metadata=note), staging / ITEMS)
        if embeddings is not None:
            np.save(staging / EMBEDDINGS, embeddings)


def _columns(interactions: Interactions) -> pa.Table:
    columns: dict[str, NDArray[Any]] = {
        "user_id": interactions.user_ids.astype(np.int32),
        "item_id": interactions.item_ids.astype(np.int32),
        "position": interactions.positions.astype(np.int32),
    }
    if interactions.timestamps is not None:
        columns["timestamp"] = interactions.timestamps
    return pa.table(columns)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a path that no domain can be written to."""
    if path.exists() and not path.is_dir():
        raise fault(path, "path must be a folder", "a file", "Choose another")
    if _is_domain(path):
        if not force:
            raise fault(path, "path must be free", "a folder with a domain", "Choose another, or use force")
    elif path.exists() and (domains := find_domains(path)):
        got = f"those of {', '.join(domains)}"
        raise fault(path, "path must hold no folders of domains", got, f"Name a folder in it, such as {path / 'new'}")


def _is_domain(path: Path) -> bool:
    base = current(path)
    return any((base / name).exists() for name in (EMBEDDINGS, ITEMS, INTERACTIONS))


def _name(path: Path) -> str:
    return os.path.basename(os.path.abspath(path))  # abspath, since "." has no name; a link keeps its own name


def _check_alike(folders: Mapping[str, Path], domains: Mapping[str, Domain]) -> None:
    first = next(iter(domains.values()))
    width = first.embeddings.shape[1]
    stated = next((domain for domain in domains.values() if domain.embedding is not None), first)
    step = "Embed all domains with one model and template"
    for name, domain in domains.items():
        if (got := domain.embeddings.shape[1]) != width:
            rule = f"width must be {width}, as in {first.name}"
            raise fault(folders[name] / EMBEDDINGS, rule, got, step)
        if domain.embedding not in (None, stated.embedding):
            rule = f"embedding must be {stated.embedding}, as in {stated.name}"
            raise fault(folders[name] / EMBEDDING_INFO, rule, domain.embedding, step)
