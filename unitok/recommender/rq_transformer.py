"""RQ-Transformer over items: reads one position per item, and writes the next item token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from unitok.recommender.backbones import check_creation, fitted, rq_config
from unitok.recommender.base import SequenceRecommender
from unitok.recommender.beam import Step, check_spans
from unitok.recommender.saving import HEAD, Saved, model_of
from unitok.recommender.token_table import TokenTable
from unitok.storage.tensors import write_tensors


class RQTransformer(nn.Module):
    """A decoder of transformers over items, and one perceptron per column that writes their tokens.

    x_j = sum of the embeddings of item j's tokens + an embedding of its own, which starts at 0;
    s_0 = the decoder's state after x_1 .. x_j; s_t = s_{t-1} + f_t(s_{t-1}, e of token t);
    the logits of token t + 1 are the products of s_t and the tokens' embeddings.

    Args:
        trunk: a decoder of transformers without a head, which takes `inputs_embeds`.
        num_items: N.
        columns: T, tokens per item.

    Source: RQ-Transformer, arXiv 2203.01941, its depth transformer being a perceptron here; SASRec, arXiv 1808.09781,
    for what an item has of its own.
    """

    def __init__(self, trunk: Any, num_items: int, columns: int) -> None:
        super().__init__()
        self.trunk, width = trunk, trunk.get_input_embeddings().weight.shape[1]
        self.items = nn.Embedding(num_items, width)
        nn.init.zeros_(self.items.weight)
        self.follow = nn.ModuleList(_Follow(width) for _ in range(columns - 1))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.items.weight.device

    def forward(self, start: int, items: Tensor, tokens: Tensor) -> Tensor:
        """Read the start token and then (B, H) items of (B, H, T) tokens: the states after each, (B, H + 1, width)."""
        embeddings = self.trunk.get_input_embeddings()
        read = embeddings(tokens).sum(2) + self.items(items)
        begin = embeddings(tokens.new_full((len(tokens), 1), start))
        return self.trunk(inputs_embeds=torch.cat([begin, read], 1), use_cache=False).last_hidden_state

    def logits(self, states: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """Score the tokens first .. end after (..., width) states."""
        return states @ self.trunk.get_input_embeddings().weight[first:end].T

    def after(self, column: int, states: Tensor, tokens: Tensor) -> Tensor:
        """Move (..., width) states on by (...) tokens of a column."""
        return self.follow[column](states, self.trunk.get_input_embeddings()(tokens))

    def save_pretrained(self, staging: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the trunk as transformers does, and the rest beside it, in a folder that `whole_files` gave."""
        weights = self.state_dict() if state_dict is None else state_dict
        trunk = {name.removeprefix("trunk."): value for name, value in weights.items() if name.startswith("trunk.")}
        self.trunk.save_pretrained(staging, state_dict=trunk)
        rest = {name: value for name, value in weights.items() if not name.startswith("trunk.")}
        write_tensors(Path(staging) / HEAD, rest)

    @classmethod
    def of(cls, saved: Saved) -> tuple[Self, dict[str, Any]]:
        """Make the model of what `save_pretrained` wrote: the model, and what transformers says of the trunk."""
        from transformers import AutoModel

        rest = saved.tensors.get(HEAD, {})
        if "items.weight" not in rest or rest["items.weight"].ndim != 2:
            raise ValueError(f"{HEAD} holds no embeddings of items")
        columns = 1 + len({name.split(".")[1] for name in rest if name.startswith("follow.")})
        trunk, info = model_of(AutoModel, saved)
        model = cls._around(trunk, columns, rest)
        model.load_state_dict({f"trunk.{name}": value for name, value in trunk.state_dict().items()} | rest)
        return model, info

    @classmethod
    def _around(cls, trunk: Any, columns: int, rest: dict[str, Tensor]) -> Self:
        """Make a model of the sizes of what was saved beside the trunk."""
        return cls(trunk, len(rest["items.weight"]), columns)


class _Follow(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner, outer = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)
        self.layers = nn.Sequential(nn.LayerNorm(2 * width), inner, nn.GELU(), outer)

    def forward(self, states: Tensor, embedded: Tensor) -> Tensor:
        moved: Tensor = states + self.layers(torch.cat([states, embedded], -1))
        return moved


class RQRecommender(SequenceRecommender, kind="rq"):
    """Reads a user's sequence once, one position per item, and learns every next item in that one pass.

    It has an embedding per item, not only per token. So it learns better which item follows which than
    `CausalRecommender`, which reads one position per token: docs/results/recommendation.md. Items that are not in the
    training data are read by their tokens alone; items that are added to the catalogue later need a new training. The
    items' own embeddings take (N, width) float32, and three times that in training.

    Args:
        model: an `RQTransformer`.
        table: the items in its vocabulary.
        history: number of latest items that are read.
        beam: prefixes that the search keeps; at least as many as items are asked for.
        about: JSON-serialisable data that is saved, too.
        rows: (M,) int64, the items that are ranked; None ranks all of them.

    Raises:
        ValueError: a size below 1, rows that aren't items of the table, or a model that doesn't fit it: other items or
            columns, too few tokens or positions.

    Source: RQ-Transformer, arXiv 2203.01941.
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
        if not isinstance(model, RQTransformer):
            got = type(model).__name__
            raise ValueError(f"RQRecommender: model must be an RQTransformer, got {got}. Build it with create.")
        shape = (len(model.items.weight), len(model.follow) + 1)
        tokens = len(model.trunk.get_input_embeddings().weight)
        most = getattr(model.trunk.config, "max_position_embeddings", None) or history + 1
        if shape != tuple(table.tokens.shape) or tokens < table.vocab_size or most <= history:
            needed = f"{len(table)} items of {table.width}, with {table.vocab_size} tokens and {history + 1} positions"
            got = f"{shape[0]} of {shape[1]}, with {tokens} and {most}"
            raise ValueError(f"RQRecommender: model must be of {needed}, got {got}. Build it with create.")
        self._columns = [(int(column.min()), int(column.max()) + 1) for column in table.tokens.T]

    @classmethod
    def create(
        cls, table: TokenTable, config: Any = None, *, history: int = 20, beam: int = 50, seed: int = 0
    ) -> RQRecommender:
        """Make a model with random weights.

        Args:
            table: the items.
            config: a configuration of a causal language model, of which a copy is taken, with the vocabulary and
                positions that are needed; `rq_config()` by default.
            history: number of latest items that are read.
            beam: prefixes that the search keeps.
            seed: seed of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            TypeError: a table or a configuration of another type.
            ValueError: a size below 1.
        """
        from transformers import AutoModel

        check_creation("RQRecommender", table, config, history)
        config = fitted(rq_config() if config is None else config, table, history + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = RQTransformer(AutoModel.from_config(config), len(table), table.width)
        return cls(model.eval(), table, history=history, beam=beam)

    @staticmethod
    def _load_model(saved: Saved) -> tuple[Any, dict[str, Any]]:
        return RQTransformer.of(saved)

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
        there = items >= 0
        return self._written(items[there], self._read(items[:, :-1])[there]) / there.sum()

    def _written(self, wanted: Tensor, states: Tensor) -> Tensor:
        """Sum up what it costs to write (P,) items, token by token, after (P, width) states."""
        total, trie = states.new_zeros(()), self._learnt
        for column, (first, end) in enumerate(self._columns):
            going = trie.ends[trie.paths[wanted, column]] < trie.first_leaf  # several items could follow, here or later
            wanted, states = wanted[going], states[going]
            path = trie.paths[wanted]
            asked = trie.fan_out[path[:, column]] > 1
            logits = self.model.logits(states[asked], first, end)
            total = total + trie.loss(logits, path[asked, column], path[asked, column + 1], first)
            if column + 1 < len(self._columns):
                states = self.model.after(column, states, self._tokens[wanted, column])
        return total

    def _read(self, items: Tensor) -> Tensor:
        known = items.clamp(min=0)  # item 0 replaces padding, which nothing attends to
        states: Tensor = self.model(self.table.start, known, self._tokens[known])
        return states

    def _begin(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Step]:
        states = self._read(items)[torch.arange(len(items), device=items.device), lengths][:, None]

        def step(tokens: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
            nonlocal states
            parents = F.pad(slots, (1, 0))[:, :, -2, None].expand(-1, -1, states.shape[2])  # 0: the history
            moved = self.model.after(slots.shape[2] - 1, states.gather(1, parents), tokens)
            states = torch.cat([states, moved], 1)
            return self.model.logits(moved)

        return self.model.logits(states[:, 0]), torch.ones_like(lengths, dtype=torch.bool)[:, None], step
