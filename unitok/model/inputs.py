"""Checks of the items that `Tokenizer` is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.config import PRESETS, UniTokConfig
from unitok.data.catalogue import Domain, EmbeddingInfo
from unitok.ids.semantic_ids import AssignedIds, SemanticIds
from unitok.model.network import UniTokModel
from unitok.model.views import Beside, DomainViews
from unitok.numerics import embeddings, vectors
from unitok_kernels import checks

Rows = Tensor | np.ndarray[Any, Any] | Domain | Sequence[Sequence[float]]  # or a table of pandas or polars
Vectors = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]  # of a view; or a table, too


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


def checked_views(
    views: Mapping[str, Mapping[str, Vectors]] | None, domains: Mapping[str, Tensor], config: UniTokConfig
) -> dict[str, dict[str, Tensor]]:
    """Check the views that `fit` was given.

    Args:
        views: name of the view -> name of the domain -> (N_k, B) float vectors; rows of NaN where an item has none.
        domains: name -> (N_k, D_in), the items.
        config: the settings of the fit.

    Returns:
        dict: name of the domain -> name of the view -> (N_k, B) float32, without what has no vector at all.

    Raises:
        ValueError: an unknown domain, other sizes, no vector at all, infinity, or NaN in a part of a row; or a preset
            that has no separate chain for each expert.
        TypeError: no mapping of mappings, or an entry that is neither a tensor nor an array of floats.
    """
    found: dict[str, dict[str, Tensor]] = {name: {} for name in domains}
    step = "Pass {'behaviour': {name of the domain: (N, B) array}}."
    for view, given in _mapping("fit", "views", {} if views is None else views, step).items():
        if not isinstance(view, str):
            checks.fail("fit", "views", "named by texts", repr(view), "Use str(name).", TypeError)
        if PRESETS[config.preset].dense or config.num_experts == 0:
            got = f"{view!r} with the preset {config.preset!r} and num_experts {config.num_experts}"
            checks.fail("fit", "views", "left out where no expert has a chain of its own", got, "Change the settings.")
        for name, values in _mapping("fit", f"views[{view!r}]", given, step).items():
            if name not in domains:
                checks.fail("fit", f"views[{view!r}]", f"of {', '.join(domains)}", repr(name), "Name its domain.")
            rows = _vectors("fit", f"views[{view!r}][{name!r}]", values, len(domains[name]), None)
            if not rows.isnan().all():
                found[name][view] = rows
        if not any(view in each for each in found.values()):
            checks.fail("fit", f"views[{view!r}]", "of at least one item", "none", "Leave the view out.")
    return {name: each for name, each in found.items() if each}


def checked_vectors(
    what: str, views: DomainViews | None, given: Mapping[str, Vectors] | None, count: int, domain: str | None
) -> Tensor | None:
    """Check the vectors of one domain's items.

    Args:
        what: the operation that a message names.
        views: the domain's views, if it has some.
        given: name of the view -> (N, B) float vectors; rows of NaN where an item has none. None where there are none.
        count: N.
        domain: the domain's name.

    Returns:
        Tensor: (N, W) as `DomainViews.joined` gives them; None if the domain has no views.

    Raises:
        ValueError: a view that the domain was not fitted with, other sizes, or values as above.
        TypeError: no mapping, or an entry that is neither a tensor nor an array of floats.
    """
    widths = {} if views is None else views.widths
    found = {}
    for name, values in _mapping(what, "views", {} if given is None else given, "Pass {name: (N, B) array}.").items():
        if name not in widths:
            rule = f"of those that the domain was fitted with ({', '.join(widths) or 'none'})"
            checks.fail(what, "views", rule, f"{name!r} of {domain!r}", "Name the domain, or leave the view out.")
        found[name] = _vectors(what, f"views[{name!r}]", values, count, widths[name])
    return None if views is None else views.joined(found, count)


def beside(
    what: str, model: UniTokModel, views: Mapping[str, Vectors] | None, count: int, domain: str | None
) -> Beside | None:
    """Take the vectors of one domain's items, as `checked_vectors` does; None if the domain has no views."""
    own = None if domain is None else model.viewed.get(domain)
    vectors = checked_vectors(what, own, views, count, domain)
    return None if own is None or vectors is None else own.beside(vectors)


def beside_each(
    what: str, model: UniTokModel, views: Mapping[str, Any] | None, parts: Mapping[str, Tensor], named: bool
) -> dict[str, Beside | None]:
    """Take the vectors of several domains' items: views hold them by the domains' names if these are `named`."""
    step = "Pass {'behaviour': {name of the domain: (N, B) array}}." if named else "Pass {name: (N, B) array}."
    given = _mapping(what, "views", {} if views is None else views, step)
    for view, each in given.items() if named else ():
        if unknown := [name for name in _mapping(what, f"views[{view!r}]", each, step) if name not in parts]:
            checks.fail(what, f"views[{view!r}]", f"of {', '.join(parts)}", repr(unknown[0]), "Name its domain.")
    of_each = {
        name: {view: each[name] for view, each in given.items() if name in each} if named else given for name in parts
    }
    return {name: beside(what, model, of_each[name], len(x), name) for name, x in parts.items()}


def item_keys(items: Domain, domain: str) -> Tensor:
    """Give items keys by which they are known again: (N,) int64.

    A key is of the domain and the item's name in its source. Without one of its own, its number and its embedding stand
    for that: the number alone may be another item's by now.
    """
    sources = items.source_ids or [""] * len(items.keys)
    count = Counter(sources)
    sources = [source if count[source] == 1 else "" for source in sources]
    digests = []
    for key, source, row in zip(items.keys.tolist(), sources, items.embeddings, strict=True):
        text = f"{domain}\0{source or key}\0".encode("utf-8", "surrogatepass")
        digests.append(blake2b(text if source else text + row.astype("<f4").tobytes(), digest_size=8).digest())
    return torch.from_numpy(np.frombuffer(b"".join(digests), "<i8").astype(np.int64))


def _mapping(what: str, name: str, given: object, step: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        checks.fail(what, name, "a mapping of names", type(given).__name__, step, TypeError)
    return given


def _vectors(what: str, name: str, given: Vectors, count: int, width: int | None) -> Tensor:
    if isinstance(given, Tensor):
        checks.floating(what, name, given, "(N, B)")
        given = given.detach().float().cpu().numpy()
    return torch.from_numpy(vectors(what, name, given, count, width))


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


def rows_of_width(what: str, x: Rows, width: int) -> Tensor:
    """Check item embeddings as `checked_rows` does, and that they are of the width of a tokenizer's."""
    rows = checked_rows(what, "x", x)
    checks.same(what, "x", rows.shape[1], "the tokenizer", width, "width")
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
        ValueError: a text is not one of this tokenizer's IDs; they have another number of levels, codewords, experts
            or slots.
    """
    if isinstance(ids, AssignedIds):
        ids = ids.ids
    if isinstance(ids, SemanticIds):
        wanted = (config.num_levels, config.codebook_size, config.top_k)
        slots = config.top_k if ids.slot_codes is None else ids.experts.shape[1]
        if (ids.num_levels, ids.codebook_size, slots) != wanted or ids.num_experts > num_experts:
            rule = f"of {wanted[0]} levels of {wanted[1]} codewords, at most {num_experts} experts, {wanted[2]} slots"
            got = f"{ids.num_levels} levels of {ids.codebook_size} codewords, {ids.num_experts} experts, {slots} slots"
            checks.fail(what, "ids", rule, got, "Use the tokenizer that made them.")
        return ids
    if not isinstance(ids, list | tuple) or not all(isinstance(text, str) for text in ids):
        step = "Pass what tokenize() gave, or a list of texts."
        checks.fail(what, "ids", "SemanticIds, or a list of their texts", type(ids).__name__, step, TypeError)
    levels, size = config.num_levels, config.codebook_size
    found = SemanticIds.from_text(ids, num_levels=levels, codebook_size=size, num_experts=num_experts)
    return replace(found, suffix=None)
