"""Checks of the items that `Tokenizer` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.config import UniTokConfig
from unitok.data.catalogue import Domain, EmbeddingInfo
from unitok.ids.semantic_ids import AssignedIds, SemanticIds
from unitok.numerics import embeddings
from unitok_kernels import checks

Rows = Tensor | np.ndarray[Any, Any] | Domain | Sequence[Sequence[float]]  # or a table of pandas or polars


def checked_domains(domains: Mapping[str, Rows]) -> dict[str, Tensor]:
    """Check the domains that `fit` was given: at least one row each, all of one width.

    Args:
        domains: name -> (N_k, D_in) float embeddings.

    Returns:
        dict: name -> (N_k, D_in) float32 on the CPU.

    Raises:
        ValueError: no domain, an empty one, different widths, NaN or infinity.
        TypeError: no mapping, or an entry that is neither a tensor nor an array of floats.
    """
    if not isinstance(domains, Mapping):
        step = "Name each domain: Tokenizer.fit({'items': x})."
        checks.fail("fit", "domains", "a mapping of names to embeddings", type(domains).__name__, step, TypeError)
    if odd := [name for name in domains if not isinstance(name, str)]:
        checks.fail("fit", "domains", "named by texts", repr(odd[0]), "Use str(name).", TypeError)
    if not domains:
        checks.fail("fit", "domains", "at least one domain", 0, "Pass a dict of name -> embeddings.")
    parts = {name: checked_rows("fit", f"domains[{name!r}]", x) for name, x in domains.items()}
    first, width = next((name, x.shape[1]) for name, x in parts.items())
    for name, x in parts.items():
        checks.at_least("fit", f"domains[{name!r}]'s rows", len(x), 1, "Leave empty domains out.")
        checks.same("fit", f"domains[{name!r}]", x.shape[1], f"domains[{first!r}]", width, "width")
    return parts


def check_settings(what: str, config: UniTokConfig, embedding: EmbeddingInfo | None) -> None:
    """Refuse settings that are no `UniTokConfig`, and what made the embeddings if it is no `EmbeddingInfo`."""
    if not isinstance(config, UniTokConfig):
        step = "Make one with UniTokConfig.from_dict."
        checks.fail(what, "config", "a UniTokConfig", type(config).__name__, step, TypeError)
    if embedding is not None and not isinstance(embedding, EmbeddingInfo):
        step = "Make one with EmbeddingInfo(model, template)."
        checks.fail(what, "embedding", "an EmbeddingInfo", type(embedding).__name__, step, TypeError)


def stated(x: object, embedding: EmbeddingInfo | None) -> EmbeddingInfo | None:
    """Tell what made embeddings: as was said, or as the domain says that they are of."""
    return x.embedding if embedding is None and isinstance(x, Domain) else embedding


def stated_by_all(domains: Mapping[str, Rows], embedding: EmbeddingInfo | None) -> EmbeddingInfo | None:
    """Tell what made the embeddings of all domains; refuse a domain that says it was something else."""
    embedding = embedding or next((found for x in domains.values() if (found := stated(x, None)) is not None), None)
    for name, x in domains.items():
        if stated(x, None) not in (None, embedding):
            step = "Embed all domains with one model and template."
            checks.fail("fit", f"domains[{name!r}]", f"embedded by {embedding}", stated(x, None), step)
    return embedding


def check_experts(config: UniTokConfig, num_experts: int, num_items: int) -> None:
    """Refuse to fit more experts than items, or more experts per item than there are."""
    step = "Use fewer experts, or give more items."
    checks.at_least("fit", "the number of items", num_items, num_experts, step)
    if config.top_k > max(num_experts, 1):
        rule = f"at most the number of experts, {num_experts}"
        checks.fail("fit", "config.top_k", rule, config.top_k, "Lower it.")


def checked_rows(what: str, name: str, x: Rows) -> Tensor:
    """Check item embeddings, and return them as a tensor.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        x: (N, D_in) float embeddings: a tensor, an array, a list of rows, a table of pandas or polars, or a domain.

    Returns:
        Tensor: (N, D_in) float32 on the CPU.

    Raises:
        ValueError: not a matrix; NaN or infinity (with the row).
        TypeError: neither a tensor nor an array of floats.
    """
    if isinstance(x, Domain):
        x = x.embeddings
    if not isinstance(x, Tensor):
        array = embeddings(what, name, x)
        return torch.from_numpy(array if array.flags.writeable else array.copy())  # a file's memory map is not
    checks.floating(what, name, x, "(N, D_in)")
    rows = x.detach().float().cpu()
    checks.finite(what, name, rows, "Remove or repair that row.")
    return rows


def checked_ids(
    what: str, ids: SemanticIds | AssignedIds | Sequence[str], config: UniTokConfig, num_experts: int
) -> SemanticIds:
    """Take semantic IDs in any of their forms.

    Args:
        what: the operation that a message names.
        ids: IDs, assigned IDs, or their texts.
        config: the tokenizer's settings.
        num_experts: E of the tokenizer.

    Returns:
        SemanticIds: the IDs.

    Raises:
        TypeError: they are none of these.
        ValueError: a text is not one of this tokenizer's IDs.
    """
    if isinstance(ids, AssignedIds):
        ids = ids.ids
    if isinstance(ids, SemanticIds):
        return ids
    if not isinstance(ids, list | tuple) or not all(isinstance(text, str) for text in ids):
        step = "Pass what tokenize() gave, or a list of texts."
        checks.fail(what, "ids", "SemanticIds, or a list of their texts", type(ids).__name__, step, TypeError)
    levels, size = config.num_levels, config.codebook_size
    found = SemanticIds.from_text(ids, num_levels=levels, codebook_size=size, num_experts=num_experts)
    return replace(found, suffix=None)
