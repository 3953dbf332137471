"""Catalogues: reading, importing, embedding and writing them, and a generator of them."""

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
    "embed_domain",
    "find_domains",
    "generate_catalogue",
    "import_domain",
    "read_catalogue",
    "read_domain",
    "read_interactions",
    "write_domain",
]


def __dir__() -> list[str]:
    return sorted(__all__)
