"""Fused quantizers inside transformers' EncodecModel, MimiModel and DacModel: swapped in place, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unitok_kernels as uk
from unitok_kernels import checks
from unitok_kernels.ops.common import PRECISIONS

_MARK = "_unitok_replaced"  # on a swapped module: the names of its methods that are ours


class Replacement(NamedTuple):
    """What was changed.

    Attributes:
        name: of the module in its model.
        kind: its class.
        methods: those that are fused now.
        levels: codebooks it has.
    """

    name: str
    kind: str
    methods: tuple[str, ...]
    levels: int


def replace_quantizers(
    model: nn.Module, *, precision: str = "exact", check_finite: bool | None = None, backend: str | None = None
) -> list[Replacement]:
    """Give the residual quantizers of a model fused searches, in place.

    Modules, parameters, buffers and the state dict stay as they are: only methods are exchanged, so that
    `restore_quantizers` can undo it, and a model that learns on goes on with what it learnt. EnCodec and Mimi search
    all levels in one call; DAC, whose levels are apart by learnt projections, level by level.

    Args:
        model: transformers' EncodecModel, MimiModel or DacModel, or a module that holds one.
        precision: "exact" | "fast"; see `unitok_kernels.residual_encode`.
        check_finite: as there.
        backend: as there.

    Returns:
        list: a Replacement for each module that was changed; those that were swapped before are swapped anew.

    Raises:
        ValueError: the model has no quantizer that is known here, or a setting is unknown.
        TypeError: a setting has the wrong type.
    """
    checks.settings("replace_quantizers", check_finite=check_finite, backend=backend, precision=precision)
    checks.one_of("replace_quantizers", "precision", precision, PRECISIONS)
    settings = {"precision": precision, "check_finite": check_finite, "backend": backend}
    done = []
    for name, module in model.named_modules():
        methods = _methods(module)
        if not methods:
            continue
        for method, function in methods.items():
            setattr(module, method, partial(function, module))  # a bound method couldn't be pickled
        setattr(module, _MARK, {"methods": tuple(methods), "settings": settings})
        levels = len(module.layers) if hasattr(module, "layers") else 1
        done.append(Replacement(name, type(module).__name__, tuple(methods), levels))
    if not done:
        kinds = ", ".join(_KNOWN)
        step = f"The quantizers known here are {kinds} of transformers."
        checks.fail("replace_quantizers", "model", "one with a known quantizer", type(model).__name__, step)
    return done


def restore_quantizers(model: nn.Module) -> list[str]:
    """Give the quantizers of a model their own methods back.

    Args:
        model: what `replace_quantizers` was given.

    Returns:
        list: the names of the modules that were restored; none where nothing was replaced.
    """
    names = []
    for name, module in model.named_modules():
        if (mark := module.__dict__.pop(_MARK, None)) is not None:
            for method in mark["methods"]:
                delattr(module, method)
            names.append(name)
    return names


def _encode_levels(module: Any, embeddings: Tensor, levels: int) -> Tensor:
    """Codes (L, B, T) of embeddings (B, D, T)."""
    batch, width, time = embeddings.shape
    tables = torch.stack([layer.codebook.embed for layer in module.layers[:levels]])
    rows = embeddings.transpose(1, 2).reshape(-1, width)
    codes = uk.residual_encode(rows.detach(), tables, **_settings(module)).codes
    return codes.t().reshape(levels, batch, time)


def _decode_levels(module: Any, codes: Tensor) -> Tensor:
    """Embeddings (B, D, T) of codes (L, B, T)."""
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
    rows = F.normalize(hidden_states.transpose(1, 2).reshape(-1, width))
    codebook = F.normalize(self.codebook.weight)
    codes = uk.nearest_codeword(rows.detach(), codebook.detach(), **_settings(self)).codes.view(batch, time)
    return self.codebook(codes).transpose(1, 2), codes


_KNOWN: dict[str, dict[str, Callable[..., Any]]] = {
    "EncodecResidualVectorQuantizer": {"encode": _encodec_encode, "decode": _encodec_decode},
    "MimiResidualVectorQuantizer": {"encode": _mimi_encode, "decode": _mimi_decode},
    "DacVectorQuantize": {"decode_latents": _dac_decode_latents},
}


def _methods(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The methods to exchange; transformers isn't imported to ask, so classes go by their names."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in _KNOWN:
            return _KNOWN[kind.__name__]
    return {}
