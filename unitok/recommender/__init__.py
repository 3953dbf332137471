"""The next item: sequence models over semantic IDs, their baselines, and one evaluation for all of them.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.recommender.backbones import gpt2_config, rq_config, sasrec_config
    from unitok.recommender.causal import CausalRecommender
    from unitok.recommender.encoder_decoder import T5Recommender
    from unitok.recommender.evaluation.baselines import MarkovChain, Popularity
    from unitok.recommender.evaluation.bootstrap import paired_bootstrap
    from unitok.recommender.evaluation.content import MarkovContent, fit_markov_content
    from unitok.recommender.evaluation.item_level import Evaluation, Scores, evaluate
    from unitok.recommender.evaluation.neighbours import ItemKNN
    from unitok.recommender.evaluation.splits import Split, points_in_time
    from unitok.recommender.histories import Histories, Queries, Recommender
    from unitok.recommender.hybrid.recommender import HybridRecommender
    from unitok.recommender.kinds import SequenceRecommender
    from unitok.recommender.language.vocabulary import extend_vocabulary
    from unitok.recommender.rq_transformer import RQRecommender
    from unitok.recommender.token_table import TokenTable
    from unitok.recommender.training import TrainingConfig, fit

_HOME = {
    "CausalRecommender": "causal",
    "Evaluation": "evaluation.item_level",
    "Histories": "histories",
    "HybridRecommender": "hybrid.recommender",
    "ItemKNN": "evaluation.neighbours",
    "MarkovChain": "evaluation.baselines",
    "MarkovContent": "evaluation.content",
    "Popularity": "evaluation.baselines",
    "Queries": "histories",
    "RQRecommender": "rq_transformer",
    "Recommender": "histories",
    "Scores": "evaluation.item_level",
    "SequenceRecommender": "kinds",
    "Split": "evaluation.splits",
    "T5Recommender": "encoder_decoder",
    "TokenTable": "token_table",
    "TrainingConfig": "training",
    "evaluate": "evaluation.item_level",
    "extend_vocabulary": "language.vocabulary",
    "fit": "training",
    "fit_markov_content": "evaluation.content",
    "gpt2_config": "backbones",
    "paired_bootstrap": "evaluation.bootstrap",
    "points_in_time": "evaluation.splits",
    "rq_config": "backbones",
    "sasrec_config": "backbones",
}

__all__ = [
    "CausalRecommender",
    "Evaluation",
    "Histories",
    "HybridRecommender",
    "ItemKNN",
    "MarkovChain",
    "MarkovContent",
    "Popularity",
    "Queries",
    "RQRecommender",
    "Recommender",
    "Scores",
    "SequenceRecommender",
    "Split",
    "T5Recommender",
    "TokenTable",
    "TrainingConfig",
    "evaluate",
    "extend_vocabulary",
    "fit",
    "fit_markov_content",
    "gpt2_config",
    "paired_bootstrap",
    "points_in_time",
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
    return sorted(__all__)
