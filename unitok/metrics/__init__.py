"""Metrics of a tokenizer's IDs: collisions, use of the codebooks, errors, entropies and information.

Every function is pure. Codes of -1 (rows that could not be encoded) are skipped; if nothing is left to measure, a
share, an entropy or an error is nan. Entropies and information are in bits, in float64 from int64 counts. No table has
more cells than the data or 2^22, whichever is larger, whatever the codebook size.
"""

from unitok.metrics.information import (
    adjusted_mutual_information,
    code_entropy,
    level_adjusted_mutual_information,
    level_entropy_given_expert,
    mutual_information,
    redundant_levels,
    token_entropy,
)
from unitok.metrics.usage import (
    collision_rate,
    dead_codes,
    indistinguishable_rate,
    perplexity,
    relative_error,
    utilisation,
)

__all__ = [
    "adjusted_mutual_information",
    "code_entropy",
    "collision_rate",
    "dead_codes",
    "indistinguishable_rate",
    "level_adjusted_mutual_information",
    "level_entropy_given_expert",
    "mutual_information",
    "perplexity",
    "redundant_levels",
    "relative_error",
    "token_entropy",
    "utilisation",
]


def __dir__() -> list[str]:
    return sorted(__all__)
