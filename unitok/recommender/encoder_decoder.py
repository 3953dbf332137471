"""TIGER's recommender: a T5 that reads a history and writes the next item, one example per target."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.recommender.backbones import check_creation, check_embeddings
from unitok.recommender.base import SequenceRecommender, Spans
from unitok.recommender.beam import Step, check_spans
from unitok.recommender.histories import Histories
from unitok.recommender.saving import Saved, model_of
from unitok.recommender.token_table import TokenTable


class T5Recommender(SequenceRecommender, kind="t5"):
    """An encoder-decoder over the tokens of items.

    The encoder reads the start token and the history, the decoder writes the item. A user with H items is read H - 1
    times per epoch, once for every item after the first.

    Args:
        model: a `T5ForConditionalGeneration`.
        table: the items in its vocabulary.
        history: number of latest items that are read.
        beam: prefixes that the search keeps; at least as many as items are asked for.
        about: JSON-serialisable data that is saved, too.
        rows: (M,) int64, the items that are ranked; None ranks all of them.

    Raises:
        ValueError: a size below 1, rows that aren't items of the table, or a model that is no T5 or has too few tokens.

    Source: TIGER, arXiv 2305.05065.
    """

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
        if not hasattr(model, "encoder") or not hasattr(model, "decoder"):
            got = type(model).__name__
            raise ValueError(f"T5Recommender: model must be a T5 of transformers, got {got}. Build it with create.")
        check_embeddings("T5Recommender", model, table)

    @classmethod
    def create(
        cls, table: TokenTable, config: Any = None, *, history: int = 20, beam: int = 50, seed: int = 0
    ) -> T5Recommender:
        """Make a model with random weights.

        Args:
            table: the items.
            config: a `T5Config`, of which a copy is taken, with the table's vocabulary; TIGER's by default: 4 + 4
                layers of width 128, 6 heads of 64, 1024 inside, dropout 0.1.
            history: number of latest items that are read.
            beam: prefixes that the search keeps.
            seed: seed of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            TypeError: a table or a configuration of another type.
            ValueError: a size below 1.
        """
        from transformers import T5Config, T5ForConditionalGeneration

        check_creation("T5Recommender", table, config, history, T5Config)
        if config is None:
            config = T5Config(d_model=128, num_layers=4, num_decoder_layers=4, num_heads=6, d_kv=64, d_ff=1024)
        config = copy.deepcopy(config)  # the caller's stays what it is
        config.vocab_size, config.decoder_start_token_id = table.vocab_size, table.start
        config.eos_token_id, config.pad_token_id = None, table.pad
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = T5ForConditionalGeneration(config)
        return cls(model.eval(), table, history=history, beam=beam)

    @staticmethod
    def _load_model(saved: Saved) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForSeq2SeqLM

        return model_of(AutoModelForSeq2SeqLM, saved)

    def spans(self, histories: Histories, generator: torch.Generator) -> Spans:
        """Take every item after a user's first, with the `history` items before it.

        Args:
            histories: the users' items.
            generator: not used: every epoch is the same.

        Returns:
            Spans whose last item is the target.
        """
        user = torch.arange(len(histories)).repeat_interleave(histories.lengths)
        begin = histories.offsets[user]
        target = (torch.arange(len(user)) > begin).nonzero()[:, 0]
        first = torch.maximum(begin[target], target - self.history)
        return Spans(first, target - first + 1, torch.ones_like(first))

    def loss(self, items: Tensor) -> Tensor:
        """Return the cross-entropy of each span's last item given those before it, among the items of the catalogue.

        Args:
            items: (B, H) int64, spans of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all spans, in nats.

        Raises:
            TypeError: no tensor.
            ValueError: another dtype or shape.
        """
        check_spans(items)
        last = (items >= 0).sum(1, keepdim=True) - 1
        wanted = items.gather(1, last)
        tokens, there = self._read(items.scatter(1, last, -1)[:, :-1])
        written = F.pad(self._spell(wanted)[0][:, :-1], (1, 0), value=self.table.start)
        logits = self.model(input_ids=tokens, attention_mask=there, decoder_input_ids=written, use_cache=False).logits
        asked, nodes, children = self._asked(wanted[:, 0])
        return self._learnt.loss(logits[asked], nodes, children) / len(items)

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
    """Make the decoder use the positions in the tree of beams, since T5 takes no position_ids."""
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
