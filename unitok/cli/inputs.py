"""Checks of what commands read: does a catalogue fit the tokenizer? If not, one line says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unitok.cli.terminal import Refusal, say

if TYPE_CHECKING:
    from unitok import Tokenizer
    from unitok.data import Domain, EmbeddingInfo
    from unitok.ids.table import IdTable


def counted(count: int, noun: str) -> str:
    """Write a number of things: `1 domain`, `2,000 items`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def split_names(names: str | None) -> list[str] | None:
    """Split an option such as `a,b,c` into names."""
    return None if names is None else [name.strip() for name in names.split(",")]


def stated_embedding(parts: Mapping[str, Domain]) -> EmbeddingInfo | None:
    """Return what made the embeddings, from the first domain that says."""
    return next((part.embedding for part in parts.values() if part.embedding is not None), None)


def check_embedding(data: Path, wanted: EmbeddingInfo | None, got: EmbeddingInfo | None) -> None:
    """Refuse embeddings that are known to come from another model or text template."""
    if wanted is not None and got is not None and wanted != got:
        rule = f"embeddings must come from {wanted.model!r} and the template {wanted.template!r}"
        raise Refusal(f"{data}: {rule}, got {got.model!r} and {got.template!r}. Embed all items alike.")


def check_fits(tokenizer: Tokenizer, data: Path, parts: Mapping[str, Domain]) -> None:
    """Refuse items whose embeddings have another width or origin than those that the tokenizer was fitted on."""
    width = next(iter(parts.values())).embeddings.shape[1]
    if width != tokenizer.model.input_dim:
        rule = f"embeddings must have the width of the tokenizer's, {tokenizer.model.input_dim}"
        raise Refusal(f"{data}: {rule}, got {width}. Embed the items as the tokenizer's were.")
    check_embedding(data, tokenizer.embedding, stated_embedding(parts))


def read_table(file: Path, tokenizer: Tokenizer, resolver: str | None = None) -> IdTable:
    """Read a table of the tokenizer's IDs, and say so if nothing tells whose they are."""
    from unitok.ids.table import IdTable

    found = IdTable.read(file, tokenizer.fingerprint(), resolver)
    if not found.is_noted:
        say(f"{file}: nothing there says which tokenizer made these IDs; they are taken for this one's")
    return found


def check_scipy(what: str) -> None:
    """Refuse what needs scipy where there is none, before any work is done."""
    if importlib.util.find_spec("scipy") is None:
        raise Refusal(f"{what} needs scipy, which isn't installed: pip install 'unitok-kernels[align]'")


def one_domain(folder: Path) -> Domain:
    """Read the folder of one domain; a catalogue of several is refused by name."""
    from unitok.data import find_domains, read_domain

    if folder.is_dir() and (domains := find_domains(folder)) and list(domains.values()) != [folder]:
        step = f"Name one of them, such as {next(iter(domains.values()))}."
        raise Refusal(f"{folder}: must be the folder of one domain, got a catalogue of {', '.join(domains)}. {step}")
    return read_domain(folder)


def say_routed(tokenizer: Tokenizer, names: Iterable[str]) -> list[str]:
    """Say which domains the tokenizer doesn't know, so that its router decides, and return their names."""
    routed = [name for name in names if name not in tokenizer.domains]
    if routed:
        say(f"not among the tokenizer's domains, so left to its router: {', '.join(routed)}")
    return routed


def sources_of(parts: Mapping[str, Domain]) -> dict[str, list[str]]:
    """The items' names in their source, of the domains where these tell the items apart."""
    found = {}
    for domain, part in parts.items():
        names = [name for name in part.source_ids or () if name]
        if part.source_ids and names and len(set(names)) == len(names):
            found[domain] = part.source_ids
    return found
