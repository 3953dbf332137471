"""The folder format: a catalogue is a folder with one folder a domain.

A domain's folder holds

    embeddings.npy         (N, D) float16 or float32; row i is item i
    embeddings.json        {"model": ..., "template": ...}: what made the embeddings, of which text; optional
    items.parquet          item_id (0 to N - 1), title, text, and any other column; optional
    interactions.parquet   user_id, item_id, position (order in time), timestamp (optional); optional

`unitok import` writes one without embeddings, which reads as incomplete until `unitok embed` has made them.
numpy and pyarrow are all it takes to read one, and no file can run code: pickled arrays are refused.
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

EMBEDDINGS, EMBEDDING_INFO, ITEMS = "embeddings.npy", "embeddings.json", "items.parquet"
INTERACTIONS, SOURCE = "interactions.parquet", "SOURCE.md"
TEXT_TEMPLATE = b"unitok.text_template"  # in the metadata of items.parquet: what its column `text` was made by


def find_domains(path: str | Path) -> dict[str, Path]:
    """List the domain folders of a catalogue.

    Args:
        path: a catalogue, or one domain's folder.

    Returns:
        Each domain's folder by name, sorted by name.

    Raises:
        CatalogueError: `path` is no folder.
    """
    path = Path(path)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise fault(path, "catalogue must be a folder", got, "Check the path")
    folders = [path] if _is_domain(path) else [child for child in path.iterdir() if _is_domain(child)]
    return {_name(folder): folder for folder in sorted(folders)}


def read_catalogue(path: str | Path, names: Iterable[str] | None = None) -> dict[str, Domain]:
    """Read the domains of a catalogue.

    Args:
        path: a catalogue, or one domain's folder.
        names: the domains to read; all of them by default.

    Returns:
        The domains by name, sorted by name.

    Raises:
        CatalogueError: no domain, an unknown name, a malformed file, or domains whose embeddings differ in
            width or in what made them.
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
    embeddings = open_embeddings(path / EMBEDDINGS)
    check_finite(path / EMBEDDINGS, embeddings)
    items, info = path / ITEMS, path / EMBEDDING_INFO
    return Domain(
        name=_name(path),
        embeddings=embeddings,
        keys=np.arange(len(embeddings), dtype=np.int64),
        titles=read_titles(items, len(embeddings)) if items.exists() else None,
        embedding=read_embedding_info(info) if info.exists() else None,
    )


def read_interactions(path: str | Path) -> Interactions:
    """Read the interactions of one domain's folder.

    Args:
        path: the domain's folder.

    Returns:
        The events, sorted by user and then by position.

    Raises:
        CatalogueError: the file is missing or malformed, or names an item that the domain doesn't have.
    """
    file = Path(path) / INTERACTIONS
    num_items = len(open_embeddings(Path(path) / EMBEDDINGS))
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
        path: the domain's folder; made where it is missing.
        embeddings: (N, D) float16 or float32, or None where items are to be embedded later.
        items: columns of N strings each, such as title and text; item_id is added.
        interactions: the events.
        embedding: what made the embeddings.
        text_template: how the items' text was put together.
        source: Markdown that says where the data come from.
        force: replace a domain that is there. Files that are not of this format are left alone.

    Raises:
        CatalogueError: the folder holds a domain already and `force` is off, or it holds folders of domains.
    """
    path = Path(path)
    check_free(path, force=force)
    path.mkdir(parents=True, exist_ok=True)
    # Unlinked rather than truncated: a reader may still have the old embeddings mapped.
    for name in (EMBEDDINGS, EMBEDDING_INFO, ITEMS, INTERACTIONS, SOURCE):
        (path / name).unlink(missing_ok=True)
    if interactions is not None:
        columns: dict[str, NDArray[Any]] = {
            "user_id": interactions.user_ids.astype(np.int32),
            "item_id": interactions.item_ids.astype(np.int32),
            "position": interactions.positions.astype(np.int32),
        }
        if interactions.timestamps is not None:
            columns["timestamp"] = interactions.timestamps
        pq.write_table(pa.table(columns), path / INTERACTIONS)
    if embedding is not None:
        write_embedding_info(path / EMBEDDING_INFO, embedding)
    if source is not None:
        (path / SOURCE).write_text(source, encoding="utf-8")
    if items is not None:
        ids = np.arange(len(next(iter(items.values()))), dtype=np.int32)
        note = None if text_template is None else {TEXT_TEMPLATE: text_template}
        pq.write_table(pa.table({"item_id": ids, **items}, metadata=note), path / ITEMS)
    if embeddings is not None:
        np.save(path / EMBEDDINGS, embeddings)  # last: a folder without it reads as incomplete


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
    return any((path / name).exists() for name in (EMBEDDINGS, ITEMS, INTERACTIONS))


def _name(path: Path) -> str:
    return os.path.basename(os.path.abspath(path))  # "." has no name of its own; a link keeps the link's


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
