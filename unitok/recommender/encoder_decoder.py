"""TIGER's recommender: a T5 that reads a history and writes the next item, one example a target."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.histories import Histories
from unitok.recommender.sequence_model import SequenceRecommender, Spans, Step
from unitok.recommender.token_table import TokenTable


class T5Recommender(SequenceRecommender):
    """An encoder-decoder over the tokens of items.

    The encoder reads the start token and the history, the decoder writes the item. A user of H items is read H - 1
    times an epoch, once for every item after the first.

    Args:
        model: a `T5ForConditionalGeneration`.
        table: the items in its vocabulary.
        history: the latest items that are looked at.
        beam: prefixes that the search keeps, or as many as items are asked for where those are more.
        about: plain data that is saved along.

    Raises:
        ValueError: a size below 1.

    Source: TIGER, arXiv 2305.05065.
    """

    kind = "t5"

    @classmethod
    def create(
        cls, table: TokenTable, config: Any = None, *, history: int = 20, beam: int = 50, seed: int = 0
    ) -> T5Recommender:
        """Make a model of random weights.

        Args:
            table: the items.
            config: a `T5Config`, of which a copy is taken, with the table's vocabulary; TIGER's by default: 4 + 4
                layers of width 128, 6 heads of 64, 1024 inside, dropout 0.1.
            history: the latest items that are looked at.
            beam: prefixes that the search keeps.
            seed: of the weights.

        Returns:
            The recommender, on the CPU.
        """
        from transformers import T5Config, T5ForConditionalGeneration

        if config is None:
            config = T5Config(d_model=128, num_layers=4, num_decoder_layers=4, num_heads=6, d_kv=64, d_ff=1024)
        config = copy.deepcopy(config)  # the caller's stays what it is
        config.vocab_size, config.decoder_start_token_id = table.vocab_size, table.start
        config.eos_token_id, config.pad_token_id = None, table.pad
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = T5ForConditionalGeneration(config)
        return cls(model.eval(), table, history=history, beam=beam)

    def spans(self, histories: Histories, generator: torch.Generator) -> Spans:
        """Take every item after a user's first, with the `history` items before it.

        Args:
            histories: what users met.
            generator: plays no part: every epoch is the same.

        Returns:
            Stretches whose last item is asked for.
        """
        user = torch.arange(len(histories)).repeat_interleave(histories.lengths)
        begin = histories.offsets[user]
        target = (torch.arange(len(user)) > begin).nonzero()[:, 0]
        first = torch.maximum(begin[target], target - self.history)
        return Spans(first, target - first + 1, torch.ones_like(first))

    def loss(self, items: Tensor) -> Tensor:
        """Take the cross-entropy of the last item of each stretch after those before it, a choice from the catalogue.

        Args:
            items: (B, H) int64, stretches of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all stretches, nats.
        """
        last = (items >= 0).sum(1, keepdim=True) - 1
        wanted = items.gather(1, last)
        tokens, there = self._read(items.scatter(1, last, -1)[:, :-1])
        written = F.pad(self._spell(wanted)[0][:, :-1], (1, 0), value=self.table.start)
        logits = self.model(input_ids=tokens, attention_mask=there, decoder_input_ids=written, use_cache=False).logits
        asked, nodes, children = self._asked(wanted[:, 0])
        return self._trie.loss(logits[asked], nodes, children) / len(items)

    def _read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        tokens, there = self._spell(items)
        return F.pad(tokens, (1, 0), value=self.table.start), F.pad(there, (1, 0), value=True)

    def _begin(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Step]:
        from transformers import DynamicCache, EncoderDecoderCache

        tokens, there = self._read(items)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        given = {
            "encoder_outputs": (self.model.encoder(input_ids=tokens, attention_mask=there)[0],),
            "attention_mask": there,
            "past_key_values": cache,
            "use_cache": True,
        }
        start = tokens.new_full((len(items), 1), self.table.start)
        places = [0]  # of the tokens in the decoder's cache

        def step(tokens: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
            depth = slots.shape[2]
            places.extend([depth] * tokens.shape[1])
            with _placed(self.model, torch.tensor(places, device=tokens.device), depth):
                return self.model(decoder_input_ids=tokens, decoder_attention_mask=mask, **given).logits

        logits = self.model(decoder_input_ids=start, **given).logits[:, 0]
        return logits, torch.ones_like(start, dtype=torch.bool), step


@contextmanager
def _placed(model: Any, keys: Tensor, query: int) -> Iterator[None]:
    """Have the decoder's relative positions be those in the tree: T5 takes no position_ids."""
    attention = model.decoder.block[0].layer[0].SelfAttention  # all layers share its bias

    def compute_bias(query_length: int, key_length: int, **others: Any) -> Tensor:
        bucket = attention._relative_position_bucket(
            (keys - query)[None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias: Tensor = attention.relative_attention_bias(bucket).permute(2, 0, 1)[None]
        return bias.expand(1, -1, query_length, key_length)

    attention.compute_bias = compute_bias
    try:
        yield
    finally:
        del attention.compute_bias
