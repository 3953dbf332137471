"""Configurations of transformers for the recommenders, and how one is adapted to a table of items."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unitok.recommender.token_table import TokenTable, check_table
from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail


def check_creation(what: str, table: object, config: object, history: object, kind: type | None = None) -> None:
    """Refuse what no model can be made of: no table, no configuration, or a history that is no size.

    Args:
        what: the class that a message names.
        table: the items.
        config: of transformers, or None.
        history: number of items that are read.
        kind: the class of the configuration; any of transformers' by default.
    """
    from transformers import PreTrainedConfig

    kind = PreTrainedConfig if kind is None else kind
    check_table(what, table)
    if config is not None and not isinstance(config, kind):
        step = "Pass a configuration of transformers, or none for the default."
        fail(what, "config", f"a {kind.__name__}", type(config).__name__, step, TypeError)
    checks.whole(what, history=history)
    at_least(what, "history", history, 1, "Take 20.")  # type: ignore[arg-type]


def check_embeddings(what: str, model: Any, table: TokenTable) -> None:
    """Refuse a model with fewer tokens than the table's vocabulary."""
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < table.vocab_size:
        step = "Build it with create, or use extend_vocabulary."
        raise ValueError(f"{what}: model must have {table.vocab_size} embeddings, got {rows}. {step}")


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
    return _gpt2(width=64, layers=2, heads=2, dropout=0.5, attention_dropout=0.5)


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

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting out of its range, or heads that don't divide the width.
    """
    checks.whole("gpt2_config", width=width, layers=layers, heads=heads)
    checks.number("gpt2_config", dropout=dropout, attention_dropout=attention_dropout)
    for name, size in (("width", width), ("layers", layers), ("heads", heads)):
        at_least("gpt2_config", name, size, 1, "Raise it.")
    if width % heads:
        fail("gpt2_config", "heads", f"a divisor of width, {width}", heads, "Take 1, 2 or 4.")
    for name, share in (("dropout", dropout), ("attention_dropout", attention_dropout)):
        if not 0 <= share < 1:
            fail("gpt2_config", name, "in [0, 1)", share, "Use 0.2.")
    return _gpt2(width, layers, heads, dropout, attention_dropout)


def rq_config() -> Any:
    """Describe the trunk of `RQRecommender` as a small GPT-2: 2 layers of width 128, 2 heads, dropout 0.4.

    Returns:
        A `GPT2Config`, for `RQRecommender.create`.
    """
    return _gpt2(width=128, layers=2, heads=2, dropout=0.4, attention_dropout=0.2)


def _gpt2(width: int, layers: int, heads: int, dropout: float, attention_dropout: float) -> Any:
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


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Have a model evaluate; afterwards each of its modules is in the mode that it was in, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_device(what: str, device: Any) -> None:
    """Refuse a device that torch can't use here, before anything is loaded or moved."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"{what}: device must be one that torch can use here, got {device!r}. Use 'cpu'.") from error
