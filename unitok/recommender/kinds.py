"""All kinds of sequence models: importing this module is what lets `SequenceRecommender` load any of them."""

from unitok.recommender.base import SequenceRecommender
from unitok.recommender.causal import CausalRecommender
from unitok.recommender.encoder_decoder import T5Recommender
from unitok.recommender.hybrid.recommender import HybridRecommender
from unitok.recommender.rq_transformer import RQRecommender

__all__ = ["CausalRecommender", "HybridRecommender", "RQRecommender", "SequenceRecommender", "T5Recommender"]
