"""The next item: sequence models over semantic IDs, their baselines, and one evaluation for all of them.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.recommender.baselines import MarkovChain, Popularity
    from unitok.recommender.causal import CausalRecommender, gpt2_config, sasrec_config
    from unitok.recommender.encoder_decoder import T5Recommender
    from unitok.recommender.evaluation import Evaluation, Scores, evaluate, paired_bootstrap
    from unitok.recommender.histories import Histories, Queries, Recommender
    from unitok.recommender.rq_transformer import RQRecommender, rq_config
    from unitok.recommender.sequence_model import SequenceRecommender
    from unitok.recommender.token_table import TokenTable
    from unitok.recommender.training import TrainingConfig, fit
    from unitok.recommender.vocabulary import extend_vocabulary

_HOME = {
    "CausalRecommender": "causal",
    "Evaluation": "evaluation",
    "Histories": "histories",
    "MarkovChain": "baselines",
    "Popularity": "baselines",
    "Queries": "histories",
    "RQRecommender": "rq_transformer",
    "Recommender": "histories",
    "Scores": "evaluation",
    "SequenceRecommender": "sequence_model",
    "T5Recommender": "encoder_decoder",
    "TokenTable": "token_table",
    "TrainingConfig": "training",
    "evaluate": "evaluation",
    "extend_vocabulary": "vocabulary",
    "fit": "training",
    "gpt2_config": "causal",
    "paired_bootstrap": "evaluation",
    "rq_config": "rq_transformer",
    "sasrec_config": "causal",
}

__all__ = [
    "CausalRecommender",
    "Evaluation",
    "Histories",
    "MarkovChain",
    "Popularity",
    "Queries",
    "RQRecommender",
    "Recommender",
    "Scores",
    "SequenceRecommender",
    "T5Recommender",
    "TokenTable",
    "TrainingConfig",
    "evaluate",
    "extend_vocabulary",
    "fit",
    "gpt2_config",
    "paired_bootstrap",
    "rq_config",
    "sasrec_config",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
