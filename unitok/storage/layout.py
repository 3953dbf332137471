"""What a saved tokenizer consists of: settings of known types, and the weights that they describe, held together.

Nothing is built from either before both fit: a size in the settings costs no memory unless the weights have it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from unitok.config import PRESETS, UniTokConfig

_OF_EXPERTS = ("quantizer.codebooks", "mean_shared")  # the weights with one row per expert
_REMEMBERED = (".keys", ".vectors")  # of views: which vectors are kept, on which no ID's meaning hangs
_TYPES = {"config": dict, "input_dim": int, "router_experts": int, "domains": list, "history": list}
_TYPES |= {"familiar": dict, "views": list}
_NEWER = ("familiar", "views")  # which older tokenizers don't have


class Fingerprint(TypedDict):
    """What identifies a tokenizer; `Tokenizer.fingerprint` gives it.

    Attributes:
        base: a digest of the weights that adding a domain never changes.
        experts: a digest of each expert's weights.
        num_levels: L, codes per ID.
        codebook_size: K.
    """

    base: str
    experts: list[str]
    num_levels: int
    codebook_size: int


def fingerprint_of(config: UniTokConfig, weights: Mapping[str, NDArray[Any]]) -> Fingerprint:
    """Identify a tokenizer by digests of its weights, so that stored IDs can be checked to be its own.

    Args:
        config: the settings of its fit.
        weights: arrays by name.

    Returns:
        Fingerprint: see there.
    """
    base, experts = sha256(), [sha256() for _ in weights["quantizer.codebooks"]]
    for name, value in sorted(weights.items()):
        if name.startswith("views.") and name.endswith(_REMEMBERED):
            continue
        if name in _OF_EXPERTS:
            for digest, own in zip(experts, value, strict=True):
                digest.update(own.tobytes())
        else:
            base.update(value.tobytes())
    return {
        "base": base.hexdigest()[:16],
        "experts": [digest.hexdigest()[:16] for digest in experts],
        "num_levels": config.num_levels,
        "codebook_size": config.codebook_size,
    }


def checked_config(settings: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> UniTokConfig:
    """Check the settings of a saved tokenizer, and that its weights are those that they describe.

    Args:
        settings: as `Tokenizer.save_pretrained` wrote them.
        weights: arrays by name.

    Returns:
        UniTokConfig: the settings of its fit.

    Raises:
        ValueError: a setting is missing, or of another type or value; weights are missing, or of other shapes.
    """
    for name, kind in _TYPES.items():
        if name not in settings and name in _NEWER:
            continue
        if type(settings.get(name)) is not kind:
            raise ValueError(f"{name} must be a {kind.__name__}, got {_shown(settings.get(name))}")
    config = UniTokConfig.from_dict(settings["config"])
    routed = settings["router_experts"]
    allowed = routed if config.num_experts is None else config.num_experts
    if routed != allowed or not 0 <= config.top_k <= max(routed, 1):
        raise ValueError(f"router_experts must be {allowed} and at least top_k = {config.top_k}, got {_shown(routed)}")
    codebooks = weights.get("quantizer.codebooks")
    experts = len(codebooks) if codebooks is not None and codebooks.ndim else 0
    views = settings.get("views", [])
    _check_views(views)
    shapes = _shapes(config, settings["input_dim"], routed, experts)
    _check_weights(shapes | _view_shapes(config, views, weights), weights)
    _check_view_values(len(views), weights)
    if experts < max(routed, 1):
        raise ValueError(f"quantizer.codebooks must be of at least {max(routed, 1)} experts, got {experts}")
    _check_domains(settings["domains"], routed, experts)
    own = {domain["name"] for domain in settings["domains"] if domain["expert"] is not None}
    if strange := [each["domain"] for each in views if each["domain"] not in own]:
        raise ValueError(f"views must be of domains that have an expert of their own, got {_shown(strange[0])}")
    _check_embedding(settings.get("embedding"))
    for name, figures in settings.get("familiar", {}).items():
        if not isinstance(figures, dict) or not all(_is_figure(value) for value in figures.values()):
            raise ValueError(f"familiar must hold numbers for {name!r}, got {_shown(figures)}")
    return config


def _shapes(config: UniTokConfig, input_dim: int, routed: int, experts: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    width = config.codebook_dim
    chain = (config.num_levels, config.codebook_size, width)
    widths = (input_dim, *config.encoder_widths, width)
    shapes: dict[str, tuple[int, ...]] = {"mean_weights": (config.top_k,), "mean_shared": (experts, width)}
    for part, sizes in (("encoder", widths), ("decoder", widths[::-1])):
        for depth, (wide, narrow) in enumerate(pairwise(sizes)):
            shapes |= {f"{part}.{2 * depth}.weight": (narrow, wide), f"{part}.{2 * depth}.bias": (narrow,)}
    shapes["quantizer.codebooks"] = (experts, *chain)
    if routed:
        shapes |= {"router.weight": (routed, width), "router.bias": (routed,)}
        if PRESETS[config.preset].shared != "none":
            shapes["quantizer.shared_codebooks"] = chain
    return shapes


def _view_shapes(
    config: UniTokConfig, views: list[Any], weights: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[int, ...]]:
    """The shape of each array of the views; how many items are remembered, the arrays alone say."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, each in enumerate(views):
        width, keys = sum(view["width"] for view in each["views"]), weights.get(f"views.{place}.keys")
        remembered = len(keys) if keys is not None and keys.ndim else 0
        for name, shape in (
            ("codebooks", (config.num_levels, config.codebook_size, width)),
            ("means", (width,)),
            ("scales", (width,)),
            ("keys", (remembered,)),
            ("vectors", (remembered, width)),
        ):
            shapes[f"views.{place}.{name}"] = shape
    return shapes


def _check_weights(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, NDArray[Any]]) -> None:
    if shapes.keys() != weights.keys():
        odd = ", ".join(sorted(shapes.keys() ^ weights.keys()))
        raise ValueError(f"the weights must be those that the settings describe, got more or fewer: {odd}")
    for name, shape in shapes.items():
        found, kind = weights[name], "int64" if name.endswith(".keys") else "float32"
        if found.dtype != np.dtype(kind) or found.shape != shape:
            raise ValueError(f"{name} must be {kind} of {_shown(shape)}, got {found.dtype} of {found.shape}")


def _check_views(views: list[Any]) -> None:
    """Check the views of each domain that has some: their names and widths."""
    for each in views:
        if not isinstance(each, dict) or each.keys() != {"domain", "views"} or not isinstance(each["views"], list):
            raise ValueError(f"views must have domain and views each, got {_shown(each)}")
        if not each["views"]:
            raise ValueError(f"views of a domain must be one or more, got {_shown(each)}")
        for view in each["views"]:
            if not isinstance(view, dict) or view.keys() != {"name", "width"} or not isinstance(view["name"], str):
                raise ValueError(f"views of a domain must have a name and a width each, got {_shown(view)}")
            if type(view["width"]) is not int or view["width"] < 1:
                raise ValueError(f"views of a domain must have a count as width, got {_shown(view)}")
        _check_distinct("views of a domain", [view["name"] for view in each["views"]])
    _check_distinct("views", [each["domain"] for each in views])


def _check_view_values(count: int, weights: Mapping[str, NDArray[Any]]) -> None:
    """Check that vectors are found by their keys, and that what they are compared with are numbers."""
    for place in range(count):
        held = {name: weights[f"views.{place}.{name}"] for name in ("codebooks", "means", "scales", "keys", "vectors")}
        if not all(np.isfinite(held[name]).all() for name in ("codebooks", "means", "scales")):
            raise ValueError(f"views.{place} must be of finite codebooks, means and scales")
        if np.isinf(held["vectors"]).any() or (held["keys"][1:] <= held["keys"][:-1]).any():
            raise ValueError(f"views.{place} must hold finite vectors by keys that rise")


def _check_distinct(what: str, names: list[Any]) -> None:
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{what} must have distinct names, got {_shown(names)}")


def _check_domains(domains: list[Any], routed: int, experts: int) -> None:
    """Check each domain: its name, its number of items, and its own expert if it was added with one."""
    for domain in domains:
        if not isinstance(domain, dict) or domain.keys() != {"name", "num_items", "expert"}:
            raise ValueError(f"domains must have name, num_items and expert each, got {_shown(domain)}")
        if not isinstance(domain["name"], str) or type(domain["num_items"]) is not int or domain["num_items"] < 0:
            raise ValueError(f"domains must have a text as name and a count as num_items, got {_shown(domain)}")
        own = domain["expert"]
        if own is not None and (type(own) is not int or not routed <= own < experts):
            rule = f"null, or the number of an added expert, from {routed} to {experts - 1}"
            raise ValueError(f"the expert of the domain {domain['name']!r} must be {rule}, got {_shown(own)}")
    _check_distinct("domains", [domain["name"] for domain in domains])


def _check_embedding(embedding: Any) -> None:
    if embedding is None:
        return
    fits = isinstance(embedding, dict) and embedding.keys() == {"model", "template"}
    if not fits or not all(isinstance(text, str) for text in embedding.values()):
        raise ValueError(f"embedding must be null, or texts model and template, got {_shown(embedding)}")


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """Write a value on one line of a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of too many digits to be written
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}..."
