"""One evaluation for all recommenders, its ranking metrics, and baselines."""

from unitok.recommender.evaluation.bootstrap import paired_bootstrap
from unitok.recommender.evaluation.item_level import Evaluation, Scores, evaluate

__all__ = ["Evaluation", "Scores", "evaluate", "paired_bootstrap"]
