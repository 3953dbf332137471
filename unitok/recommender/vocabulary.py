"""Semantic IDs in the vocabulary of a language model."""

from __future__ import annotations

from typing import Any

import torch

from unitok.recommender.token_table import TokenTable, columns
from unitok.semantic_id import SemanticIds


def extend_vocabulary(tokenizer: Any, model: Any, ids: SemanticIds, layout: str = "top1") -> TokenTable:
    """Add the tokens of IDs to a tokenizer and a model of transformers.

    The tokens are written as `SemanticIds.to_text` writes them, `<a_12>`: all codes of a column, be they in use or not.
    The columns are those of `TokenTable.of`, so that the last may read `<e_2><f_0>`. What is there already keeps its
    number: a second call changes nothing. New embeddings are drawn as `resize_token_embeddings` does.

    Args:
        tokenizer: of the model; it is added to.
        model: its embeddings, and its head, grow where there are too few.
        ids: the IDs of N items, with a suffix where items share one.
        layout: see `SemanticIds.tokens`.

    Returns:
        The items in that vocabulary, for `CausalRecommender(model, table)`; sequences begin with the tokenizer's
        bos_token, or its eos_token where it has none.

    Raises:
        ValueError: a tokenizer that has neither, or that doesn't fit the model; IDs that `TokenTable.of` refuses.

    Source: LC-Rec, arXiv 2311.09049.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        step = "Set tokenizer.bos_token to a token that sequences may begin with."
        raise ValueError(f"extend_vocabulary: tokenizer must have a bos_token or an eos_token, got neither. {step}")
    rows, found = model.get_input_embeddings().weight.shape[0], columns(ids, layout)
    if len(tokenizer) > rows:
        got = len(tokenizer)
        step = "Load both from one checkpoint."
        raise ValueError(f"extend_vocabulary: tokenizer must have at most the model's {rows} tokens, got {got}. {step}")
    tokenizer.add_tokens([text for column in found for text in column.texts])
    if len(tokenizer) > rows:  # some models have rows to spare
        model.resize_token_embeddings(len(tokenizer))
    numbers = [torch.tensor(tokenizer.convert_tokens_to_ids(column.texts)) for column in found]
    tokens = torch.stack([number[column.values] for number, column in zip(numbers, found, strict=True)], 1)
    pad = start if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return TokenTable(tokens, model.get_input_embeddings().weight.shape[0], start, pad, ids.groups(layout))
