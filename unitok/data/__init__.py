"""Catalogues: reading, importing, embedding and writing them, a generator of them, and vectors of users' behaviour.

Importing this package imports no torch; `behaviour` is loaded when it is first used.
"""

from __future__ import annotations

from typing import Any

from unitok.data.catalogue import CatalogueError, Domain, EmbeddingInfo, Interactions
from unitok.data.embedding import embed_domain
from unitok.data.folder import find_domains, read_catalogue, read_domain, read_interactions, write_domain
from unitok.data.generated.catalogue import generate_catalogue
from unitok.data.published.importing import ImportedDomain, import_domain

__all__ = [
    "CatalogueError",
    "Domain",
    "EmbeddingInfo",
    "ImportedDomain",
    "Interactions",
    "behaviour",
    "embed_domain",
    "find_domains",
    "generate_catalogue",
    "import_domain",
    "read_catalogue",
    "read_domain",
    "read_interactions",
    "write_domain",
]


def __getattr__(name: str) -> Any:
    if name == "behaviour":
        from unitok.data.transitions import behaviour

        return behaviour
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
