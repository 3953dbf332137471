"""A generator of catalogues from a seed: items with texts and embeddings, and users with histories."""

from unitok.data.generated.catalogue import generate_catalogue

__all__ = ["generate_catalogue"]
