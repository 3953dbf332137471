"""The causal decoder: reads a user's sequence once, and learns every next item in that one pass."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.backbones import check_creation, check_embeddings, fitted, gpt2_config, positions
from unitok.recommender.base import SequenceRecommender
from unitok.recommender.beam import Excluded, Step, check_spans, order_key
from unitok.recommender.saving import Saved, model_of
from unitok.recommender.token_table import TokenTable


class CausalRecommender(SequenceRecommender, kind="causal"):
    """A causal language model over the tokens of items; with one token per item it is SASRec.

    A sequence is the start token and then the tokens of a user's items, in order of time; each is predicted from all
    before it. Sequences of similar length share a batch, padded on the right: the causal mask hides the padding, so no
    other mask is needed and the fastest attention of any model runs. (Several users per row with a block-diagonal mask
    took 1.3 times as long on a CPU; the padding here is 1 %.)

    Args:
        model: one of transformers' causal language models that takes `position_ids`.
        table: the items in its vocabulary.
        history: number of latest items that are read.
        beam: prefixes that the search keeps; at least as many as items are asked for.
        about: JSON-serialisable data that is saved, too.
        rows: (M,) int64, the items that are ranked; None ranks all of them.

    Raises:
        ValueError: a size below 1, rows that aren't items of the table, or a model that fits neither the search nor
            the table.

    Source: TIGER, arXiv 2305.05065, with a decoder alone; SASRec, arXiv 1808.09781.
    """

    _first: int | None = None  # the token of item 0 where item i is the token after it by i, as in SASRec

    def __init__(
        self,
        model: Any,
        table: TokenTable,
        *,
        history: int = 20,
        beam: int = 50,
        about: dict[str, Any] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(model, table, history=history, beam=beam, about=about, rows=rows)
        if not hasattr(model, "forward") or "position_ids" not in inspect.signature(model.forward).parameters:
            got = type(model).__name__
            raise ValueError(f"CausalRecommender: model must take position_ids, got {got}. GPT-2 and Llama do.")
        check_embeddings("CausalRecommender", model, table)
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and most < positions(table, history):
            step = "Shorten the history, or enlarge the model's positions."
            needed = positions(table, history)
            raise ValueError(f"CausalRecommender: model must have {needed} positions, got {most}. {step}")
        first = int(table.tokens[0, 0])
        if torch.equal(table.tokens.cpu(), torch.arange(first, first + len(table))[:, None]):
            self._first = first

    @classmethod
    def create(
        cls, table: TokenTable, config: Any = None, *, history: int = 20, beam: int = 50, seed: int = 0
    ) -> CausalRecommender:
        """Make a model with random weights.

        Args:
            table: the items.
            config: a configuration of a causal language model, of which a copy is taken, with the vocabulary and
                positions that are needed; `gpt2_config()` by default.
            history: number of latest items that are read.
            beam: prefixes that the search keeps.
            seed: seed of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            TypeError: a table or a configuration of another type.
            ValueError: a size below 1, or a model that doesn't fit the search.
        """
        from transformers import AutoModelForCausalLM

        check_creation("CausalRecommender", table, config, history)
        config = fitted(gpt2_config() if config is None else config, table, positions(table, history))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        return cls(model.eval(), table, history=history, beam=beam)

    @staticmethod
    def _load_model(saved: Saved) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForCausalLM

        return model_of(AutoModelForCausalLM, saved)

    def loss(self, items: Tensor) -> Tensor:
        """Return the cross-entropy of every item given those before it, each among the items of the catalogue.

        Args:
            items: (B, H) int64, spans of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all items, in nats.

        Raises:
            TypeError: no tensor.
            ValueError: another dtype or shape.
        """
        check_spans(items)
        trie = self._learnt
        tokens = self._read(self._spell(items)[0][:, :-1])
        logits = self.model(input_ids=tokens, use_cache=False).logits
        if self._first is not None:  # the same without copies of the logits, which took half of the time
            chosen = logits.flatten(0, 1)[:, self._first : self._first + len(self.table)]
            total = F.cross_entropy(chosen.float(), items.flatten(), ignore_index=-1, reduction="sum")
        else:
            asked, nodes, children = self._asked(items)
            total = trie.loss(logits[asked.flatten(1)], nodes, children)
        return total / (items >= 0).sum()

    def _search(self, items: Tensor, lengths: Tensor, width: int, k: int, excluded: Excluded | None) -> Tensor:
        """With one token an item, all items are compared at once: as the beam does it, by the last position alone."""
        if self.table.width > 1:
            return super()._search(items, lengths, width, k, excluded)
        trie, tokens = self._trie, self._read(self._spell(items)[0])
        scores = torch.empty(len(items), len(trie.names), device=items.device)
        for length in lengths.unique().tolist():
            rows = (lengths == length).to(items.device)
            read = self.model(input_ids=tokens[rows, : length + 1], use_cache=False, logits_to_keep=1).logits[:, 0]
            scores[rows] = read[:, trie.tokens].float()  # from the root to each leaf
        keys, none = order_key(scores, torch.arange(len(trie.names), device=items.device)), torch.iinfo(torch.int64).min
        if excluded is not None:
            keys.masked_fill_(excluded.common.diff().bool(), none).view(-1)[excluded.own] = none
        best = keys.topk(min(k, len(trie.names)))
        return F.pad(trie.names[best.indices].where(best.values != none, -1), (0, k - best.values.shape[1]), value=-1)

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
