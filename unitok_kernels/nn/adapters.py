"""Fused quantizers for transformers' EncodecModel, MimiModel and DacModel: swapped in place, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unitok_kernels as uk
from unitok_kernels import checks
from unitok_kernels.ops.common import PRECISIONS, wide
from unitok_kernels.rules import names_unknown

_MATCHES = ("nearest", "original")
_SEARCHES = ("encode", "decode_latents")  # methods that find codes
_MARK = "_unitok_replaced"  # attribute of a swapped module: which methods are ours, and their settings


class Replacement(NamedTuple):
    """A module that was changed.

    Attributes:
        name: the module's name in its model.
        kind: its class.
        methods: the methods that are fused now; none where the module only searches, and keeps its own search.
        levels: how many codebooks it has.
    """

    name: str
    kind: str
    methods: tuple[str, ...]
    levels: int


@names_unknown("replace_quantizers")
def replace_quantizers(
    model: nn.Module,
    *,
    match: str = "nearest",
    precision: str = "exact",
    check_finite: bool | None = None,
    backend: str | None = None,
) -> list[Replacement]:
    """Make the residual quantizers of a model use fused searches, in place.

    Modules, parameters, buffers and the state dict stay as they are. Only methods are replaced, so `restore_quantizers`
    can undo it, and training can continue. EnCodec and Mimi search all levels in one call; DAC, which has learnt
    projections between its levels, searches level by level.

    Args:
        model: transformers' EncodecModel, MimiModel or DacModel, or a module that holds one.
        match: "nearest" takes the nearest codeword, whatever the model's dtype. "original" leaves the search to the
            model: codes equal its own to the last one, rounding included, and cost what they did; only decoding is
            fused, which DAC doesn't have.
        precision: "exact" | "fast"; see `unitok_kernels.residual_encode`.
        check_finite: as for `unitok_kernels.residual_encode`.
        backend: as for `unitok_kernels.residual_encode`.

    Returns:
        list: a Replacement for each module that was changed; modules swapped before are swapped again.

    Raises:
        ValueError: the model has no known quantizer, or a setting is unknown.
        TypeError: a setting has the wrong type.
    """
    checks.typed("replace_quantizers", "model", model, (nn.Module,), "a torch.nn.Module")
    checks.settings("replace_quantizers", check_finite=check_finite, backend=backend, precision=precision)
    checks.one_of("replace_quantizers", "precision", precision, PRECISIONS)
    checks.typed("replace_quantizers", "match", match, (str,), "a str")
    checks.one_of("replace_quantizers", "match", match, _MATCHES)
    settings = {"precision": precision, "check_finite": check_finite, "backend": backend}
    restore_quantizers(model)
    done = []
    for name, module in model.named_modules():
        if (known := _methods(module)) is None:
            continue
        methods = {key: known[key] for key in known if match == "nearest" or key not in _SEARCHES}
        for method, function in methods.items():
            setattr(module, method, partial(function, module))  # a bound method couldn't be pickled
        setattr(module, _MARK, {"methods": tuple(methods), "settings": settings})
        levels = len(module.layers) if hasattr(module, "layers") else 1
        done.append(Replacement(name, type(module).__name__, tuple(methods), levels))
    if not done:
        kinds = ", ".join(_KNOWN)
        step = f"Known quantizers are {kinds} of transformers."
        checks.fail("replace_quantizers", "model", "one with a known quantizer", type(model).__name__, step)
    return done


def restore_quantizers(model: nn.Module) -> list[str]:
    """Give the quantizers of a model their original methods back.

    Args:
        model: the one that `replace_quantizers` was given.

    Returns:
        list: the names of the modules that were restored; empty if nothing was replaced.

    Raises:
        TypeError: `model` isn't a module.
    """
    checks.typed("restore_quantizers", "model", model, (nn.Module,), "a torch.nn.Module")
    names = []
    for name, module in model.named_modules():
        if (mark := module.__dict__.pop(_MARK, None)) is not None:
            for method in mark["methods"]:
                delattr(module, method)
            names.append(name)
    return names


def _encode_levels(module: Any, embeddings: Tensor, levels: int) -> Tensor:
    """Encode embeddings (B, D, T) to codes (L, B, T)."""
    batch, width, time = embeddings.shape
    tables = torch.stack([layer.codebook.embed for layer in module.layers[:levels]])
    rows = embeddings.transpose(1, 2).reshape(-1, width)
    codes = uk.residual_encode(rows.detach(), tables, **_settings(module)).codes
    return codes.t().reshape(levels, batch, time)


def _decode_levels(module: Any, codes: Tensor) -> Tensor:
    """Decode codes (L, B, T) to embeddings (B, D, T)."""
    levels, batch, time = codes.shape
    tables = torch.stack([layer.codebook.embed for layer in module.layers[:levels]])
    settings = {name: value for name, value in _settings(module).items() if name != "precision"}
    rows = uk.residual_decode(codes.reshape(levels, -1).t(), tables, **settings)
    return rows.view(batch, time, -1).transpose(1, 2)


def _settings(module: Any) -> dict[str, Any]:
    return getattr(module, _MARK)["settings"]


def _encodec_encode(self: Any, embeddings: Tensor, bandwidth: float | None = None) -> Tensor:
    return _encode_levels(self, embeddings, min(self.get_num_quantizers_for_bandwidth(bandwidth), len(self.layers)))


def _encodec_decode(self: Any, codes: Tensor) -> Tensor:
    return _decode_levels(self, codes)


def _mimi_encode(self: Any, embeddings: Tensor, num_quantizers: int | None = None) -> Tensor:
    embeddings = embeddings if self.input_proj is None else self.input_proj(embeddings)
    levels = self.num_quantizers if num_quantizers is None else num_quantizers
    return _encode_levels(self, embeddings, min(levels, len(self.layers)))


def _mimi_decode(self: Any, codes: Tensor) -> Tensor:
    quantized = _decode_levels(self, codes.transpose(0, 1))
    return quantized if self.output_proj is None else self.output_proj(quantized)


def _dac_decode_latents(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    batch, width, time = hidden_states.shape
    rows = F.normalize(wide(hidden_states).transpose(1, 2).reshape(-1, width))  # not rounded to 16 bits again
    codebook = F.normalize(wide(self.codebook.weight))
    codes = uk.nearest_codeword(rows.detach(), codebook.detach(), **_settings(self)).codes.view(batch, time)
    return self.codebook(codes).transpose(1, 2), codes


_KNOWN: dict[str, dict[str, Callable[..., Any]]] = {
    "EncodecResidualVectorQuantizer": {"encode": _encodec_encode, "decode": _encodec_decode},
    "MimiResidualVectorQuantizer": {"encode": _mimi_encode, "decode": _mimi_decode},
    "DacVectorQuantize": {"decode_latents": _dac_decode_latents},
}


def _methods(module: nn.Module) -> dict[str, Callable[..., Any]] | None:
    """The methods to replace, or None; classes are told by their names, so that transformers needn't be imported."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in _KNOWN:
            return _KNOWN[kind.__name__]
    return None
