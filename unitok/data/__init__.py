"""Catalogues: what they are, how they are read and written, and a generator of them."""

from unitok.data.catalogue import CatalogueError, Domain, EmbeddingInfo, Interactions
from unitok.data.folder import find_domains, read_catalogue, read_domain, read_interactions, write_domain
from unitok.data.generated import generate_catalogue

__all__ = [
    "CatalogueError",
    "Domain",
    "EmbeddingInfo",
    "Interactions",
    "find_domains",
    "generate_catalogue",
    "read_catalogue",
    "read_domain",
    "read_interactions",
    "write_domain",
]
