"""The folder format: a catalogue is a folder with one folder per domain.

A domain's folder holds

    embeddings.npy         (N, D) float16 or float32; row i is item i
    embeddings.json        {"model": ..., "template": ...}: what made the embeddings, and from which text; optional
    items.parquet          item_id (0 to N - 1), title, text, source_id, and any other column; optional
    interactions.parquet   user_id, item_id, position and timestamp; optional, as are the last two

source_id is an item's name in its source: by it items are known again after an import anew, which may number them
otherwise. A column of text may be of any of Arrow's types for it. In interactions.parquet user_id is whole numbers or
names, and item_id and position are whole numbers, which may be floats. position is the order of a user's events;
without it, that of timestamp counts, or else that of the rows. timestamp is in seconds since 1970 in UTC, whole or with
a fraction; dates with or without a zone are read, too.

`unitok import` writes a folder without embeddings; it counts as incomplete until `unitok embed` has made them. Reading
needs only numpy and pyarrow, and no file can run code: pickled arrays are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unitok.data.catalogue import Domain, EmbeddingInfo, Interactions
from unitok.data.events import read_events
from unitok.data.files import (
    check_finite,
    fault,
    open_embeddings,
    read_embedding_info,
    read_names,
    write_embedding_info,
)
from unitok.storage.lock import only_writer
from unitok.storage.parquet import write_parquet
from unitok.storage.whole import current, whole_files, whole_read

EMBEDDINGS, EMBEDDING_INFO, ITEMS = "embeddings.npy", "embeddings.json", "items.parquet"
INTERACTIONS, SOURCE = "interactions.parquet", "SOURCE.md"
FILES = (EMBEDDINGS, EMBEDDING_INFO, ITEMS, INTERACTIONS, SOURCE)
_WRITES = 10.0  # seconds that writing a domain waits for another
TEXT_TEMPLATE = b"unitok.text_template"  # in the metadata of items.parquet: the template that made its column `text`


def find_domains(path: str | Path) -> dict[str, Path]:
    """List the domain folders of a catalogue.

    Args:
        path: a catalogue, or one domain's folder.

    Returns:
        Each domain's folder by name, sorted by name; hidden ones, whose names begin with a dot, are left out.

    Raises:
        CatalogueError: `path` is not a folder.
    """
    path = Path(path)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise fault(path, "catalogue must be a folder", got, "Check the path")
    children = [path] if _is_domain(path) else [child for child in path.iterdir() if not child.name.startswith(".")]
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
        titles, sources = read_names(items, len(embeddings)) if items.exists() else (None, None)
        return Domain(
            name=_name(path),
            embeddings=embeddings,
            keys=np.arange(len(embeddings), dtype=np.int64),
            titles=titles,
            embedding=read_embedding_info(info, embeddings) if info.exists() else None,
            source_ids=sources,
        )

    return whole_read(path, FILES, read)


def read_interactions(path: str | Path) -> Interactions:
    """Read the interactions of one domain's folder.

    Args:
        path: the domain's folder.

    Returns:
        The events, sorted by user and then by position. Users with names are numbered from 0 on in the order of their
        names, which are kept as `user_names`; where there is no position, it is counted from 0 on, in the order of time
        and, at equal times, of the rows. Times whose size shows that they are in milliseconds, microseconds or
        nanoseconds become seconds.

    Raises:
        CatalogueError: the file is missing or malformed, or names an item that the domain doesn't have.
    """
    return whole_read(path, FILES, _read_interactions)


def _read_interactions(base: Path) -> Interactions:
    return read_events(base / INTERACTIONS, len(open_embeddings(base / EMBEDDINGS)))


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
        OSError: the folder can't be written to, or another process works there; an old domain stays as it was.
    """
    path, embeddings = Path(path), None if embeddings is None else np.asarray(embeddings)
    check_free(path, force=force)
    with only_writer("write_domain", path, wait=_WRITES), whole_files(path, drop=FILES) as staging:
        check_free(path, force=force)  # another may have written meanwhile
        if interactions is not None:
            with _named(path / INTERACTIONS):
                write_parquet(_columns(interactions), staging / INTERACTIONS)
        if embedding is not None:
            with _named(path / EMBEDDING_INFO):
                write_embedding_info(staging / EMBEDDING_INFO, embedding, embeddings)
        if source is not None:
            with _named(path / SOURCE):
                (staging / SOURCE).write_text(source, encoding="utf-8")
        if items is not None:
            ids = np.arange(len(next(iter(items.values()))), dtype=np.int32)
            note = None if text_template is None else {TEXT_TEMPLATE: text_template}
            with _named(path / ITEMS):
                write_parquet(pa.table({"item_id": ids, **items}, metadata=note), staging / ITEMS)
        if embeddings is not None:
            with _named(path / EMBEDDINGS):
                np.save(staging / EMBEDDINGS, embeddings)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Have an error of writing name the file: those of a full disk name none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        step = "Free space there, or mend its rights"
        raise OSError(f"{file}: the output must be writable, got {str(error).rstrip('.')}. {step}.") from error


def _columns(interactions: Interactions) -> pa.Table:
    columns = {
        "user_id": _users(interactions),
        "item_id": _narrow(interactions.item_ids),
        "position": _narrow(interactions.positions),
    }
    if interactions.timestamps is not None:
        columns["timestamp"] = interactions.timestamps
    return pa.table(columns)


def _users(interactions: Interactions) -> Any:
    """Return each event's user, by name where there are names."""
    if interactions.user_names is None:
        return _narrow(interactions.user_ids)
    return pa.array(interactions.user_names, pa.large_string()).take(pa.array(interactions.user_ids))


def _narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as int32 where all fit: such as users' own ids may not."""
    narrow = numbers.astype(np.int32)
    return narrow if (narrow == numbers).all() else numbers


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
