"""The tokens of IDs in the vocabulary of a language model: each is added whole, and read back at once."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unitok.ids.semantic_ids import SemanticIds
from unitok.recommender.language.embeddings import check_start, start_rows
from unitok.recommender.token_table import Column, TokenTable, columns
from unitok_kernels.rules import fail

_WHAT = "extend_vocabulary"
_TOKEN = re.compile(r"<[a-z]+_\d+>")
_TOKENIZER = ("add_tokens", "bos_token_id", "convert_tokens_to_ids", "get_vocab")
_MODEL = ("get_input_embeddings", "get_output_embeddings", "resize_token_embeddings")


def extend_vocabulary(
    tokenizer: Any, model: Any, ids: SemanticIds, layout: str = "top1", *, start: str | Tensor = "resize"
) -> TokenTable:
    """Add the tokens of IDs to a tokenizer and a model of transformers.

    Tokens are written as in `SemanticIds.to_text`, `<a_12>`: all codes of a column, even unused ones. The columns are
    those of `TokenTable.of`, so the last token may be `<e_2><f_0>`. Existing tokens keep their numbers: a second call
    changes nothing. Each is one token wherever it stands, untouched by the tokenizer's normaliser, and none is special:
    `skip_special_tokens=True` keeps them. Some tokenizers decode with spaces between; `SemanticIds.from_text` takes
    them.

    Args:
        tokenizer: the model's tokenizer, fast or slow; tokens are added to it.
        model: the model; its embeddings and its head grow if needed.
        ids: the IDs of N items, with a suffix where items share one.
        layout: see `SemanticIds.tokens`.
        start: where new rows of the embeddings, and of a head of its own, start. "resize": as
            `resize_token_embeddings` draws them; rows that a model has to spare stay. "mean": at the mean of the old
            rows. Or (N, D) float vectors of the items, such as `Tokenizer.decode(ids)`, which is what the codebooks
            say, or the items' embeddings: a token starts at the mean of its items' vectors, turned at random into the
            model's width, so that their distances stay, and scaled column by column to the spread of the old rows. A
            token of no item starts at the mean.

    Returns:
        The items in that vocabulary, for `CausalRecommender(model, table)`; sequences begin with the tokenizer's
        bos_token, or its eos_token where it has none.

    Raises:
        TypeError: a tokenizer or a model that is none of transformers', or ids of another type.
        ValueError: a tokenizer that has neither token, that doesn't fit the model, or that doesn't read the tokens
            back; then nothing was changed. IDs that `TokenTable.of` refuses, or a start that is none.

    Source: LC-Rec, arXiv 2311.09049; Hewitt, "Initializing new word embeddings for pretrained language models", 2021,
    for "mean".
    """
    for name, value, methods in (("tokenizer", tokenizer, _TOKENIZER), ("model", model, _MODEL)):
        if not all(hasattr(value, each) for each in methods):
            step = "Pass tokenizer, model and ids in this order."
            fail(_WHAT, name, f"a {name} of transformers", type(value).__name__, step, TypeError)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        step = "Set tokenizer.bos_token to a token that sequences may begin with."
        raise ValueError(f"extend_vocabulary: tokenizer must have a bos_token or an eos_token, got neither. {step}")
    found = columns(_WHAT, ids, layout)
    check_start(_WHAT, start, len(ids))
    rows, known = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab()
    if len(tokenizer) > rows:
        got = len(tokenizer)
        step = "Load both from one checkpoint."
        raise ValueError(f"extend_vocabulary: tokenizer must have at most the model's {rows} tokens, got {got}. {step}")
    _add(copy.deepcopy(tokenizer), found)  # one that refuses them stays as it is
    numbers = _add(tokenizer, found)
    needed = max(len(tokenizer), 1 + max(map(max, numbers)))  # the numbers of some tokenizers have gaps
    if needed > rows:  # some models have spare rows
        model.resize_token_embeddings(needed)
    taken = set(known.values())
    start_rows(model, found, numbers, taken, start)
    tokens = torch.stack([torch.tensor(n)[column.values] for n, column in zip(numbers, found, strict=True)], 1)
    pad = begin if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return TokenTable(tokens, model.get_input_embeddings().weight.shape[0], begin, pad, ids.groups(layout))


def _add(tokenizer: Any, found: Sequence[Column]) -> list[list[int]]:
    """Add the tokens of all columns, and give their numbers; refuse a tokenizer that doesn't read them back."""
    from tokenizers import AddedToken

    texts = [text for column in found for text in column.texts]
    # A normaliser may put a mark before each piece of text: a token that is normalised is found behind it alone. So
    # may strings that an older release added; those are added anew.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    numbers = [tokenizer.convert_tokens_to_ids(column.texts) for column in found]
    _check_apart(tokenizer, texts)
    _check_read_back(tokenizer, found, numbers)
    return numbers


def _check_apart(tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse a token that consists of others, which tokens of another layout or number of levels may be."""
    every = {*texts, *tokenizer.get_added_vocab()}
    for text in sorted(every):
        parts = _TOKEN.findall(text)
        if len(parts) > 1 and "".join(parts) == text and every.issuperset(parts):
            rule, step = "free of IDs of another form", "Start from the language model's own tokenizer."
            fail(_WHAT, "tokenizer", rule, f"{text} beside {' and '.join(parts)}", step)


def _check_read_back(tokenizer: Any, found: Sequence[Column], numbers: Sequence[Sequence[int]]) -> None:
    """Refuse a tokenizer that doesn't find each token behind another, or that decodes them to another text."""
    longest = max(len(column.texts) for column in found)
    places = [(n, row % len(column.texts)) for row in range(longest) for n, column in enumerate(found)]
    places.append(places[0])  # so that each stands behind another
    text, wanted = "".join(found[n].texts[row] for n, row in places), [numbers[n][row] for n, row in places]
    read = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if read != wanted or len(set(wanted)) != sum(len(column.texts) for column in found):
        got = f"{tokenizer.convert_ids_to_tokens(read)[:6]} for {text[:40]}"
        step = "Take one that finds added tokens, such as the model's fast tokenizer."
        fail(_WHAT, "tokenizer", "one that reads each token back as one", got, step)
    if (said := "".join(tokenizer.decode(read).split())) != text:
        step = "Take one that decodes added tokens as they are."
        fail(_WHAT, "tokenizer", "one that decodes tokens to their text", repr(said[:40]), step)
