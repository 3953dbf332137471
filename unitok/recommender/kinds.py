"""All kinds of sequence models: importing this module is what lets `SequenceRecommender` load any of them."""

from unitok.recommender.base import SequenceRecommender
from unitok.recommender.causal import CausalRecommender
from unitok.recommender.encoder_decoder import T5Recommender
from unitok.recommender.rq_transformer import RQRecommender

__all__ = ["CausalRecommender", "RQRecommender", "SequenceRecommender", "T5Recommender"]
