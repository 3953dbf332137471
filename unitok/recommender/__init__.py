"""The next item: sequence models over semantic IDs, their baselines, and one evaluation for all of them.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.recommender.causal import CausalRecommender, gpt2_config
    from unitok.recommender.encoder_decoder import T5Recommender
    from unitok.recommender.histories import Histories, Queries, Recommender
    from unitok.recommender.sequence_model import SequenceRecommender
    from unitok.recommender.token_table import TokenTable
    from unitok.recommender.training import TrainingConfig, fit
    from unitok.recommender.vocabulary import extend_vocabulary

_HOME = {
    "CausalRecommender": "causal",
    "Histories": "histories",
    "Queries": "histories",
    "Recommender": "histories",
    "SequenceRecommender": "sequence_model",
    "T5Recommender": "encoder_decoder",
    "TokenTable": "token_table",
    "TrainingConfig": "training",
    "extend_vocabulary": "vocabulary",
    "fit": "training",
    "gpt2_config": "causal",
}

__all__ = [
    "CausalRecommender",
    "Histories",
    "Queries",
    "Recommender",
    "SequenceRecommender",
    "T5Recommender",
    "TokenTable",
    "TrainingConfig",
    "extend_vocabulary",
    "fit",
    "gpt2_config",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
