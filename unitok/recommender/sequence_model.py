"""What the sequence models over IDs share: the search for the next item, and the folder that they are saved in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from unitok.recommender.beam import CatalogueTrie
from unitok.recommender.histories import Histories
from unitok.recommender.token_table import TokenTable
from unitok.storage import NOT_WHOLE

SETTINGS, ITEMS, HEAD = "recommender.json", "items.safetensors", "head.safetensors"
FORMAT = 1
_BEAMS_AT_ONCE = {"cpu": 2**11}  # queries x beams of a batch of `rank`: what a processor's cache takes
_LOGITS_AT_ONCE = 2**26  # queries x beams x vocabulary of a batch: 256 MiB

# (tokens (B, W), where in the cache their ancestors and they are (B, W, depth), mask (B, 1, W, cached) to add)
# -> logits (B, W, V) of what follows each
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


class Spans(NamedTuple):
    """What is learnt from in an epoch: stretches of `Histories.items`.

    Attributes:
        first: (X,) int64, where each begins.
        length: (X,) int64, its items.
        targets: (X,) int64, how many of them are asked for.
    """

    first: Tensor
    length: Tensor
    targets: Tensor


class SequenceRecommender(ABC):
    """Ranks items by the probability of their tokens after those of a history.

    Args:
        model: a model of transformers.
        table: the items in its vocabulary.
        history: the latest items that are looked at.
        beam: prefixes that the search keeps, or as many as items are asked for where those are more.
        about: plain data that is saved along.

    Raises:
        ValueError: a size below 1.

    Source: TIGER, arXiv 2305.05065.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        model: Any,
        table: TokenTable,
        *,
        history: int = 20,
        beam: int = 50,
        about: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("history", history), ("beam", beam)):
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {value}. Take 20.")
        self.model, self.table, self.history, self.beam, self.about = model, table, history, beam, about or {}
        self._tokens = table.tokens.to(model.device)
        self._trie = CatalogueTrie.build(table.tokens, table.names, model.device)

    @property
    def names(self) -> Tensor:
        """The name of each item: (N,) int64; arange(N) where every item can be told apart."""
        return self.table.names

    def to(self, device: str) -> Self:
        """Move to a device.

        Args:
            device: as torch names it.

        Returns:
            A recommender on the same weights, which are moved.
        """
        moved = self.model.to(device)
        return type(self)(moved, self.table, history=self.history, beam=self.beam, about=self.about)

    def within(self, rows: Tensor) -> Self:
        """Rank some items alone, such as those of one domain; histories may hold any. For ranking, not for training.

        Args:
            rows: (M,) int64, the items.

        Returns:
            A recommender on the same weights, whose names are those of this one.

        Raises:
            ValueError: no rows.
        """
        other = type(self)(self.model, self.table, history=self.history, beam=self.beam, about=self.about)
        other._trie = CatalogueTrie.build(self.table.tokens[rows], self.names[rows], self.model.device)
        return other

    @torch.inference_mode()
    def rank(self, histories: Tensor, k: int) -> Tensor:
        """Rank the whole catalogue after each history.

        A beam search over the tokens of items; exact where `beam` is at least the number of items. Of equal
        probabilities the lexicographically first ID is taken.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left.
            k: how many names to give.

        Returns:
            (Q, k) int64 on the CPU: names, best first, none twice; -1 at the end where there are fewer.

        Raises:
            ValueError: another shape, a row that is no item, or k below 1.
        """
        items, lengths = self._left_aligned(histories)
        if k < 1:
            raise ValueError(f"rank: k must be at least 1, got {k}. Take 10, as is usual.")
        width = max(self.beam, k)
        most = min(_BEAMS_AT_ONCE.get(self.model.device.type, 2**16), _LOGITS_AT_ONCE // self.table.vocab_size)
        at_once = max(1, most // (width if self.table.width > 1 else 1))
        ranked = torch.full((len(items), k), -1)
        was_training = self.model.training
        self.model.eval()
        batches = lengths.argsort(stable=True).split(at_once)  # like lengths together: little padding
        for rows in batches if len(items) else ():
            longest = int(lengths[rows].max())
            found = self._search(items[rows, :longest].to(self.model.device), lengths[rows], width, k)
            ranked[rows] = found.cpu()
        self.model.train(was_training)
        return ranked

    def _search(self, items: Tensor, lengths: Tensor, width: int, k: int) -> Tensor:
        """The beams of a query are a tree in one row of the cache: what it has read is kept once, and nothing moves.

        Each beam sees, by a mask, the history and its own ancestors. Only beams that have a choice left go on.
        """
        trie, beams = self._trie, self._trie.begin(len(items))
        logits, seen, step = self._begin(items, lengths.to(items.device))
        going = beams.nodes.new_zeros(len(items), 1)
        beams = trie.advance(beams, going, logits[:, None], width)
        slots = beams.nodes.new_empty(len(items), 1, 0)  # where in the cache the ancestors of each are
        cached = seen.shape[1]
        while (going := _where(trie.unfinished(beams))).numel():
            came_from = beams.parents.gather(1, going)[:, :, None].expand(-1, -1, slots.shape[2])
            own = torch.arange(cached, cached + going.shape[1], device=seen.device).expand_as(going)
            slots = torch.cat([slots.gather(1, came_from), own[:, :, None]], 2)
            cached += going.shape[1]
            sees = seen.new_zeros(*going.shape, cached)
            sees[:, :, : seen.shape[1]] = seen[:, None]
            sees.scatter_(2, slots, True)
            mask = torch.zeros_like(sees, dtype=logits.dtype).masked_fill(~sees, torch.finfo(logits.dtype).min)
            logits = step(beams.tokens.gather(1, going), slots, mask[:, None])
            beams = trie.advance(beams, going, logits, width)
        return trie.named(beams, k)

    def _left_aligned(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """The latest `history` items of each query, padded on the right with -1, and how many they are."""
        if histories.ndim != 2 or histories.dtype != torch.int64:
            got = f"{histories.dtype} of shape {tuple(histories.shape)}"
            raise ValueError(f"rank: histories must be (Q, H) int64, got {got}. Pass Queries.histories.")
        histories = histories.cpu()[:, -self.history :]
        there = histories >= 0
        bad = (histories >= len(self.table)) | (histories < -1)
        bad[:, 1:] |= there[:, :-1] & ~there[:, 1:]
        if bad.any():
            row = int(bad.any(1).nonzero()[0, 0])
            raise ValueError(
                f"rank: histories must be rows of the {len(self.table)} items after any -1, got "
                f"{histories[row].tolist()} in row {row}. Number the items as the table does."
            )
        lengths = there.sum(1)
        places = torch.arange(histories.shape[1])[None] - lengths[:, None]  # counted from the end
        return histories.gather(1, places % max(histories.shape[1], 1)).where(places < 0, -1), lengths

    def _spell(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H) items as (B, H T) tokens, and say which of them are no padding."""
        there = items >= 0
        tokens = self._tokens[items.clamp(min=0)].where(there[:, :, None], self.table.pad)
        return tokens.flatten(1), there.repeat_interleave(self.table.width, 1)

    def _asked(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the tokens of items (...) that are a choice: (..., T) bool; the nodes before and after each of them."""
        path = self._trie.paths[items.clamp(min=0)]
        asked = (self._trie.fan_out[path[..., :-1]] > 1) & (items >= 0)[..., None]
        return asked, path[..., :-1][asked], path[..., 1:][asked]

    def spans(self, histories: Histories, generator: torch.Generator) -> Spans:
        """Take every user whole; one of more than history + 1 items in pieces, cut elsewhere each epoch.

        Args:
            histories: what users met.
            generator: the source of chance.

        Returns:
            Stretches that hold every item once.
        """
        longest, lengths = self.history + 1, histories.lengths
        shift = torch.randint(longest, lengths.shape, generator=generator).where(lengths > longest, 0)
        user = torch.arange(len(lengths)).repeat_interleave(lengths)
        piece = (torch.arange(len(user)) - histories.offsets[user] + shift[user]) // longest
        begins = torch.ones_like(user, dtype=torch.bool)
        begins[1:] = (user[1:] != user[:-1]) | (piece[1:] != piece[:-1])
        first = begins.nonzero()[:, 0]
        count = torch.cat([first[1:], torch.tensor([len(user)])]) - first
        return Spans(first, count, count)

    @abstractmethod
    def loss(self, items: Tensor) -> Tensor:
        """Take the cross-entropy of the items that are asked for, each a choice from the catalogue.

        Args:
            items: (B, H) int64, stretches of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all that are asked for, nats.
        """

    @abstractmethod
    def _begin(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Step]:
        """Read histories: logits (B, V) of the first token, which cached tokens all beams see (B, S), and the step."""

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Save the model as transformers does, with the items' tokens beside it.

        Args:
            folder: is made where it is missing.
            force: replace a recommender that is there.

        Raises:
            ValueError: the folder holds a recommender and `force` is off.
        """
        folder = Path(folder)
        described = folder / SETTINGS
        if described.exists() and not force:
            raise ValueError(
                f"save_pretrained: folder must hold no recommender yet, got {folder}. Choose another, or use force."
            )
        described.unlink(missing_ok=True)  # and last again: a folder without it reads as incomplete
        (folder / HEAD).unlink(missing_ok=True)  # another kind than this one's may have left it
        self.model.save_pretrained(folder)
        items = {"tokens": self.table.tokens, "groups": self.table.groups}
        save_file({name: value for name, value in items.items() if value is not None}, folder / ITEMS)
        settings = {"format": FORMAT, "kind": self.kind, "history": self.history, "beam": self.beam}
        settings |= {name: getattr(self.table, name) for name in ("vocab_size", "start", "pad")}
        described.write_text(json.dumps({**settings, "about": self.about}, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> SequenceRecommender:
        """Load what `save_pretrained` wrote.

        Args:
            folder: the folder.
            device: where the model is to run.

        Returns:
            A recommender of the kind that was saved.

        Raises:
            ValueError: the folder holds no whole recommender, or one of a later release.
        """
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        from unitok.recommender.causal import CausalRecommender
        from unitok.recommender.encoder_decoder import T5Recommender
        from unitok.recommender.rq_transformer import RQRecommender, RQTransformer

        kinds: dict[str, tuple[type[SequenceRecommender], Any]] = {
            "rq": (RQRecommender, RQTransformer),
            "causal": (CausalRecommender, AutoModelForCausalLM),
            "t5": (T5Recommender, AutoModelForSeq2SeqLM),
        }
        folder = Path(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text())
            if settings["format"] > FORMAT:
                raise ValueError(f"format {settings['format']} of a later release")
            kind, auto = kinds[settings["kind"]]
            items = load_file(folder / ITEMS)
            numbers = {name: settings[name] for name in ("vocab_size", "start", "pad")}
            table = TokenTable(items["tokens"], **numbers, groups=items.get("groups"))
            model, info = auto.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            if info["missing_keys"]:
                raise ValueError(f"no weights for {min(info['missing_keys'])}")
        except (OSError, *NOT_WHOLE) as error:
            raise ValueError(
                f"from_pretrained: folder must hold a whole recommender, got {folder}: {error}. Train or copy it again."
            ) from error
        sizes = {name: settings[name] for name in ("history", "beam", "about")}
        return kind(model.eval(), table, **sizes).to(device)


def _where(mask: Tensor) -> Tensor:
    """The columns that hold True in each row, (B, most of any row); False ones fill the shorter rows up."""
    return mask.int().argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]
