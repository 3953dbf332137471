"""The causal decoder: reads a user's whole sequence once, and learns every next item of it in that one pass."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.sequence_model import SequenceRecommender, Step
from unitok.recommender.token_table import TokenTable


class CausalRecommender(SequenceRecommender):
    """A causal language model over the tokens of items; with one token an item it is SASRec.

    A sequence is the start token and then the tokens of a user's items, in order of time; each is predicted from all
    before it. Sequences of like length share a batch, padded on the right: the causal mask keeps the padding out of
    sight, so that no other mask is needed and any model's fastest attention runs. (Several users packed into one row
    behind a block-diagonal mask took 1.3 times as long on a CPU; the padding here is 1 %.)

    Args:
        model: one of transformers' causal language models that takes `position_ids`.
        table: the items in its vocabulary.
        history: the latest items that are looked at.
        beam: prefixes that the search keeps, or as many as items are asked for where those are more.
        about: plain data that is saved along.

    Raises:
        ValueError: a model that fits neither the search nor the table.

    Source: TIGER, arXiv 2305.05065, with a decoder alone; SASRec, arXiv 1808.09781.
    """

    kind = "causal"

    def __init__(
        self,
        model: Any,
        table: TokenTable,
        *,
        history: int = 20,
        beam: int = 50,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, table, history=history, beam=beam, about=about)
        if "position_ids" not in inspect.signature(model.forward).parameters:
            got = type(model).__name__
            raise ValueError(f"CausalRecommender: model must take position_ids, got {got}. GPT-2 and Llama do.")
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < table.vocab_size:
            step = "Build it with create, or use extend_vocabulary."
            raise ValueError(f"CausalRecommender: model must have {table.vocab_size} embeddings, got {rows}. {step}")
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and most < positions(table, history):
            step = "Shorten the history, or enlarge the model's positions."
            needed = positions(table, history)
            raise ValueError(f"CausalRecommender: model must have {needed} positions, got {most}. {step}")

    @classmethod
    def create(
        cls, table: TokenTable, config: Any = None, *, history: int = 20, beam: int = 50, seed: int = 0
    ) -> CausalRecommender:
        """Make a model of random weights.

        Args:
            table: the items.
            config: a configuration of a causal language model, of which a copy is taken, with the vocabulary and
                positions that are needed; `gpt2_config()` by default.
            history: the latest items that are looked at.
            beam: prefixes that the search keeps.
            seed: of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            ValueError: a model that doesn't fit the search.
        """
        from transformers import AutoModelForCausalLM

        config = fitted(gpt2_config() if config is None else config, table, positions(table, history))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        return cls(model.eval(), table, history=history, beam=beam)

    def loss(self, items: Tensor) -> Tensor:
        """Take the cross-entropy of every item after those before it, each a choice from the catalogue.

        Args:
            items: (B, H) int64, stretches of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all of them, nats.
        """
        asked, nodes, children = self._asked(items)
        tokens = self._read(self._spell(items)[0][:, :-1])
        logits = self.model(input_ids=tokens, use_cache=False).logits[asked.flatten(1)]
        return self._trie.loss(logits, nodes, children) / (items >= 0).sum()

    def _read(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (1, 0), value=self.table.start)

    def _begin(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Step]:
        from transformers import DynamicCache

        last = lengths * self.table.width  # of the start token and the history
        kept, row = last.unique(return_inverse=True)
        cache = DynamicCache()
        tokens = self._read(self._spell(items)[0])
        read = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=kept).logits
        seen = torch.arange(tokens.shape[1], device=items.device) <= last[:, None]

        def step(tokens: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
            at = (last + slots.shape[2])[:, None].expand_as(tokens)
            return self.model(
                input_ids=tokens, position_ids=at, attention_mask=mask, past_key_values=cache, use_cache=True
            ).logits

        return read[torch.arange(len(items), device=items.device), row], seen, step


def fitted(config: Any, table: TokenTable, positions: int) -> Any:
    """Copy a configuration, which stays what it is, with the vocabulary and the positions that are needed."""
    config = copy.deepcopy(config)
    config.vocab_size, config.max_position_embeddings = table.vocab_size, positions
    config.bos_token_id, config.eos_token_id, config.pad_token_id = table.start, None, None
    config.dtype = torch.float32
    return config


def positions(table: TokenTable, history: int) -> int:
    """Count the positions of a history and the item after it: the start token takes the place of the last one."""
    return (history + 1) * table.width


def sasrec_config() -> Any:
    """Describe SASRec as a small GPT-2: 2 layers of width 64, 2 heads, half of everything dropped.

    Returns:
        A `GPT2Config`, for `CausalRecommender.create(TokenTable.items(N), ...)`.

    Source: SASRec, arXiv 1808.09781; trained by the cross-entropy over all items, not over one drawn.
    """
    return gpt2_config(width=64, layers=2, heads=2, dropout=0.5, attention_dropout=0.5)


def gpt2_config(
    width: int = 128, layers: int = 2, heads: int = 2, dropout: float = 0.2, attention_dropout: float = 0.0
) -> Any:
    """Describe a small GPT-2.

    Args:
        width: of the embeddings.
        layers: blocks.
        heads: of each block; width must be a multiple.
        dropout: of embeddings and residuals.
        attention_dropout: of attention, which does without its fastest kernels where this isn't 0.

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
