"""UniTok: one item tokenizer for many domains.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.config import LossWeights, UniTokConfig
    from unitok.data.catalogue import EmbeddingInfo
    from unitok.evaluation.domain_check import DomainCheck
    from unitok.evaluation.report import Report
    from unitok.ids.semantic_ids import AssignedIds, SemanticIds
    from unitok.ids.table import IdTable
    from unitok.model.network import UniTokModel
    from unitok.tokenizer import Tokenizer

__version__ = "0.1.0"

_HOME = {
    "AssignedIds": "ids.semantic_ids",
    "DomainCheck": "evaluation.domain_check",
    "EmbeddingInfo": "data.catalogue",
    "IdTable": "ids.table",
    "LossWeights": "config",
    "Report": "evaluation.report",
    "SemanticIds": "ids.semantic_ids",
    "Tokenizer": "tokenizer",
    "UniTokConfig": "config",
    "UniTokModel": "model.network",
}

__all__ = [
    "AssignedIds",
    "DomainCheck",
    "EmbeddingInfo",
    "IdTable",
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
    return sorted([*__all__, "__version__"])
