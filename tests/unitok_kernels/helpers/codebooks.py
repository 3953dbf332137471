"""The codebooks inside a drop-in layer."""

from __future__ import annotations

from typing import Any

from torch import nn


def books(layer: nn.Module) -> list[Any]:
    """The codebooks of a layer, ours or vector-quantize-pytorch's, level by level; one that is shared stands once."""
    return [module for module in layer.modules() if type(module).__name__ == "Codebook"]
