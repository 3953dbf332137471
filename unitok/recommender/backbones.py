"""Configurations of transformers for the recommenders, and how one is adapted to a table of items."""

from __future__ import annotations

import copy
from typing import Any

import torch

from unitok.recommender.token_table import TokenTable


def fitted(config: Any, table: TokenTable, positions: int) -> Any:
    """Return a copy of a configuration with the vocabulary and the positions that are needed."""
    config = copy.deepcopy(config)
    config.vocab_size, config.max_position_embeddings = table.vocab_size, positions
    config.bos_token_id, config.eos_token_id, config.pad_token_id = table.start, None, None
    config.dtype = torch.float32
    return config


def positions(table: TokenTable, history: int) -> int:
    """Count the positions of a history and the next item; the start token replaces the last token."""
    return (history + 1) * table.width


def sasrec_config() -> Any:
    """Describe SASRec as a small GPT-2: 2 layers of width 64, 2 heads, dropout 0.5.

    Returns:
        A `GPT2Config`, for `CausalRecommender.create(TokenTable.items(N), ...)`.

    Source: SASRec, arXiv 1808.09781; but trained with cross-entropy over all items, not one sampled negative.
    """
    return gpt2_config(width=64, layers=2, heads=2, dropout=0.5, attention_dropout=0.5)


def gpt2_config(
    width: int = 128, layers: int = 2, heads: int = 2, dropout: float = 0.2, attention_dropout: float = 0.0
) -> Any:
    """Describe a small GPT-2.

    Args:
        width: width of embeddings and hidden states, at least 1. Wider: more capacity, slower, and overfits sooner.
        layers: number of transformer blocks, at least 1. More: more capacity, and slower.
        heads: attention heads per block; must divide width.
        dropout: share of embeddings and block outputs set to 0 in training, at least 0 and below 1. Higher: overfits
            less, learns slower.
        attention_dropout: share of attention weights set to 0 in training, at least 0 and below 1. Above 0, the fastest
            attention kernels can't be used.

    Returns:
        A `GPT2Config`, for `CausalRecommender.create`.
    """
    from transformers import GPT2Config

    return GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=attention_dropout,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, as one operation
    )


def rq_config() -> Any:
    """Describe the trunk of `RQRecommender` as a small GPT-2: 2 layers of width 128, 2 heads, dropout 0.4.

    Returns:
        A `GPT2Config`, for `RQRecommender.create`.
    """
    return gpt2_config(dropout=0.4, attention_dropout=0.2)
