"""UniTok: one item tokenizer for many domains.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.config import LossWeights, UniTokConfig
    from unitok.data.catalogue import EmbeddingInfo
    from unitok.model import UniTokModel
    from unitok.report import Report
    from unitok.semantic_id import SemanticIds
    from unitok.tokenizer import Tokenizer
    from unitok.zero_shot import DomainCheck

__version__ = "0.1.0"

_HOME = {
    "DomainCheck": "zero_shot",
    "EmbeddingInfo": "data.catalogue",
    "LossWeights": "config",
    "Report": "report",
    "SemanticIds": "semantic_id",
    "Tokenizer": "tokenizer",
    "UniTokConfig": "config",
    "UniTokModel": "model",
}

__all__ = [
    "DomainCheck",
    "EmbeddingInfo",
    "LossWeights",
    "Report",
    "SemanticIds",
    "Tokenizer",
    "UniTokConfig",
    "UniTokModel",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
