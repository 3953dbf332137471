"""RQ-Transformer over items: a history is read one position an item, the next item is written token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from unitok.recommender.causal import fitted, gpt2_config
from unitok.recommender.sequence_model import HEAD, SequenceRecommender, Step
from unitok.recommender.token_table import TokenTable


class RQTransformer(nn.Module):
    """A decoder of transformers over items, and a perceptron a column that writes their tokens.

    x_j = sum of the embeddings of item j's tokens + an embedding of its own, which starts at 0;
    s_0 = the decoder's state after x_1 .. x_j; s_t = s_{t-1} + f_t(s_{t-1}, e of token t);
    the logits of token t + 1 are the products of s_t and the tokens' embeddings.

    Args:
        trunk: a decoder of transformers without a head, which takes `inputs_embeds`.
        num_items: N.
        columns: T, tokens an item.

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

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the trunk as transformers does, and the rest beside it."""
        self.trunk.save_pretrained(folder)
        rest = {name: value for name, value in self.state_dict().items() if not name.startswith("trunk.")}
        save_file({name: value.contiguous() for name, value in rest.items()}, Path(folder) / HEAD)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> tuple[Self, dict[str, Any]]:
        """Load what `save_pretrained` wrote, and what transformers says of the trunk; options go to transformers."""
        from transformers import AutoModel

        rest = load_file(Path(folder) / HEAD)
        columns = 1 + len({name.split(".")[1] for name in rest if name.startswith("follow.")})
        trunk, info = AutoModel.from_pretrained(folder, **options)
        model = cls(trunk, len(rest["items.weight"]), columns)
        model.load_state_dict({f"trunk.{name}": value for name, value in trunk.state_dict().items()} | rest)
        return model, info


class _Follow(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner, outer = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)
        self.layers = nn.Sequential(nn.LayerNorm(2 * width), inner, nn.GELU(), outer)

    def forward(self, states: Tensor, embedded: Tensor) -> Tensor:
        moved: Tensor = states + self.layers(torch.cat([states, embedded], -1))
        return moved


class RQRecommender(SequenceRecommender):
    """Reads a user's whole sequence once, one position an item, and learns every next item of it in that one pass.

    It knows items beside their tokens, and so remembers better which item follows which than `CausalRecommender`, which
    reads a position a token: docs/results/recommendation.md. Items that training doesn't meet are read by their tokens
    alone; those that are added to the catalogue later need another training. What an item has of its own takes
    (N, width) float32, three times that in training.

    Args:
        model: an `RQTransformer`.
        table: the items in its vocabulary.
        history: the latest items that are looked at.
        beam: prefixes that the search keeps, or as many as items are asked for where those are more.
        about: plain data that is saved along.

    Raises:
        ValueError: a size below 1, or a model that doesn't fit the table: other items or columns, too few tokens or
            positions.

    Source: RQ-Transformer, arXiv 2203.01941.
    """

    kind = "rq"

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
        """Make a model of random weights.

        Args:
            table: the items.
            config: a configuration of a causal language model, of which a copy is taken, with the vocabulary and
                positions that are needed; `rq_config()` by default.
            history: the latest items that are looked at.
            beam: prefixes that the search keeps.
            seed: of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            ValueError: a size below 1.
        """
        from transformers import AutoModel

        config = fitted(rq_config() if config is None else config, table, history + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = RQTransformer(AutoModel.from_config(config), len(table), table.width)
        return cls(model.eval(), table, history=history, beam=beam)

    def loss(self, items: Tensor) -> Tensor:
        """Take the cross-entropy of every item after those before it, each a choice from the catalogue.

        Args:
            items: (B, H) int64, stretches of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all of them, nats.
        """
        there, trie = items >= 0, self._trie
        wanted, states = items[there], self._read(items[:, :-1])[there]
        total = states.new_zeros(())
        for column, (first, end) in enumerate(self._columns):
            going = trie.ends[trie.paths[wanted, column]] < trie.first_leaf  # there is a choice, here or later
            wanted, states = wanted[going], states[going]
            path = trie.paths[wanted]
            asked = trie.fan_out[path[:, column]] > 1
            logits = self.model.logits(states[asked], first, end)
            total = total + trie.loss(logits, path[asked, column], path[asked, column + 1], first)
            if column + 1 < len(self._columns):
                states = self.model.after(column, states, self._tokens[wanted, column])
        return total / there.sum()

    def _read(self, items: Tensor) -> Tensor:
        known = items.clamp(min=0)  # what stands in for padding is never looked back at
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


def rq_config() -> Any:
    """Describe the trunk as a small GPT-2: 2 layers of width 128, 2 heads, four tenths dropped.

    Returns:
        A `GPT2Config`, for `RQRecommender.create`.
    """
    return gpt2_config(dropout=0.4, attention_dropout=0.2)
