"""What the sequence models over IDs share: the search for the next item, among all items or some, and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from unitok.recommender import saving
from unitok.recommender.backbones import check_device, evaluating
from unitok.recommender.beam import CatalogueTrie, Excluded, Step
from unitok.recommender.histories import Histories, Queries, as_histories, checked_rows, excluded_items
from unitok.recommender.token_table import TokenTable, check_table
from unitok.storage.saved import RECOMMENDER, WrongFolderError, free_to_save
from unitok_kernels import checks
from unitok_kernels.rules import fail, flag, typed

_BEAMS_AT_ONCE = {"cpu": 2**11}  # queries x beams per batch of `rank`: fits a processor's cache
_LOGITS_AT_ONCE = 2**26  # queries x beams x vocabulary per batch: 256 MiB


class Spans(NamedTuple):
    """What is trained on in an epoch: spans of `Histories.items`.

    Attributes:
        first: (X,) int64, the first item of each span.
        length: (X,) int64, its number of items.
        targets: (X,) int64, how many of them are targets.
    """

    first: Tensor
    length: Tensor
    targets: Tensor


class SequenceRecommender(ABC):
    """Ranks items by the probability of their tokens after those of a history.

    A class of one's own says by what name it is saved and found again: `class Mine(SequenceRecommender, kind="mine")`.
    One without can't be saved. Its constructor takes these arguments, so that copies can be made.

    Args:
        model: a model of transformers.
        table: the items in its vocabulary.
        history: number of latest items that are read.
        beam: prefixes that the search keeps; at least as many as items are asked for.
        about: JSON-serialisable data that is saved, too.
        rows: (M,) int64, the items that are ranked; None ranks all of them.

    Raises:
        TypeError: an argument of another type.
        ValueError: a size below 1, or rows that aren't items of the table.

    Source: TIGER, arXiv 2305.05065.
    """

    kind: ClassVar[str]
    shuffles: ClassVar[bool] = True  # off: the loss is of items in their order, so `fit` may not mix them
    _rows: Tensor | None = None  # here, so that objects pickled by an older release have them
    _placed: tuple[torch.device, Tensor, CatalogueTrie] | None = None

    def __init_subclass__(cls, kind: str | None = None, **options: Any) -> None:
        """Have `from_pretrained` make this class of what was saved under the name of its kind."""
        super().__init_subclass__(**options)
        if kind is None:
            return
        taken = KINDS.get(kind, cls)
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            fail(cls.__name__, "kind", "a name of its own", f"{kind!r} of {taken.__name__}", "Choose another.")
        cls.kind = kind
        KINDS[kind] = cls

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
        what = type(self).__name__
        check_table(what, table)
        typed(what, "about", about, (dict, type(None)), "a dict or None")
        checks.whole(what, history=history, beam=beam)
        for name, value in (("history", history), ("beam", beam)):
            checks.at_least(what, name, value, 1, "Take 20.")
        self.model, self.table, self.history, self.beam, self.about = model, table, history, beam, about or {}
        self._rows = None if rows is None else checked_rows(what, rows, torch.arange(len(table)))

    @property
    def rows(self) -> Tensor | None:
        """The items that are ranked, (M,) int64 on the CPU; None where all are. `within` makes another choice."""
        return None if self._rows is None else self._rows.clone()

    @property
    def names(self) -> Tensor:
        """The name of each item: (N,) int64; arange(N) if all items have distinct tokens."""
        return self.table.names

    def to(self, device: str) -> Self:
        """Move to a device.

        Args:
            device: as torch names it.

        Returns:
            A recommender on the same weights, which are moved; it ranks the same items.

        Raises:
            ValueError: a device that torch can't use here.
        """
        check_device("to", device)
        return self._like(self.model.to(device), self.rows)

    def within(self, rows: Tensor) -> Self:
        """Rank some items alone, such as those of one domain; histories may hold any. For ranking, not for training.

        Args:
            rows: (M,) int64, the items, of those that this one ranks.

        Returns:
            A recommender on the same weights, whose names are those of this one. What is copied, moved or loaded of it
            ranks the same items.

        Raises:
            ValueError: no rows, rows that are no items or that this one doesn't rank, or one twice.
        """
        known = torch.arange(len(self.table)) if self.rows is None else self.rows
        return self._like(self.model, checked_rows("within", rows, known))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is built again when it is needed."""
        return {**self.__dict__, "_placed": None}

    def _like(self, model: Any, rows: Tensor | None) -> Self:
        options = {name: getattr(self, name) for name in _OPTIONS}
        if rows is not None:  # which a subclass of an older release doesn't take
            options["rows"] = rows
        return type(self)(model, self.table, **options)

    @property
    def _tokens(self) -> Tensor:
        return self._on_device()[0]

    @property
    def _trie(self) -> CatalogueTrie:
        """The trie of the items that are ranked."""
        return self._on_device()[1]

    @property
    def _learnt(self) -> CatalogueTrie:
        """The trie of all items: what is learnt is a choice from the whole catalogue."""
        if self.rows is not None:
            got = f"one that ranks {len(self.rows)} of {len(self.table)}"
            raise ValueError(f"loss: recommender must rank all items, got {got}. Train the one that it was made of.")
        return self._trie

    def _on_device(self) -> tuple[Tensor, CatalogueTrie]:
        """The tokens and the trie where the model is now."""
        device = self.model.device
        if self._placed is None or self._placed[0] != device:
            ranked = slice(None) if self.rows is None else self.rows
            trie = CatalogueTrie.build(self.table.tokens[ranked], self.table.names[ranked], device)
            self._placed = device, self.table.tokens.to(device), trie
        return self._placed[1:]

    @torch.inference_mode()
    def rank(
        self,
        histories: Tensor | Sequence[Sequence[int]],
        k: int,
        *,
        exclude_seen: bool = True,
        allow: Tensor | Sequence[int] | None = None,
        deny: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Rank the whole catalogue, or the rows that this one is of, after each history.

        A beam search over the tokens of items; exact where `beam` is at least the number of items. Of equal
        probabilities the lexicographically first ID is taken. A prefix of excluded items alone is dropped at once, so
        that k names are found if as many are left. A name stays while one of its items may be recommended.

        Args:
            histories: (Q, H) int64, rows of items, the latest last; -1 pads on the left. Or Q lists of items.
            k: how many names to give.
            exclude_seen: leave out the items of the query's own history, also those before the latest that are read.
            allow: (A,) int64, the only items that may be named; None allows all.
            deny: (A,) int64, items that may not be named.

        Returns:
            (Q, k) int64 on the CPU: names, best first, none twice; -1 at the end where there are fewer.

        Raises:
            TypeError: histories that are neither a tensor nor lists of integers, or another argument's type.
            ValueError: another shape, a row that is no item, or k below 1.
        """
        flag("rank", exclude_seen=exclude_seen)
        banned = excluded_items("rank", len(self.table), allow, deny)
        most = None if exclude_seen else self.history
        histories = as_histories("rank", "histories", histories, len(self.table), most).cpu()
        items, lengths = self._left_aligned(histories)
        checks.whole("rank", k=k)
        checks.at_least("rank", "k", k, 1, "Use 10, a common value.")
        excluded = None
        if exclude_seen or banned is not None:
            none = torch.zeros(len(self.table), dtype=torch.bool)
            excluded = Excluded.of(self._trie, self.rows, none if banned is None else banned)
        ranked = torch.full((len(items), k), -1)
        batches = lengths.argsort(stable=True).split(self._at_once(k))  # similar lengths together: little padding
        with evaluating(self.model):
            for rows in batches if len(items) else ():
                longest, device = int(lengths[rows].max()), self.model.device
                seen = histories[rows].to(device) if exclude_seen else None
                found = self._best(items[rows, :longest].to(device), lengths[rows], k, seen, excluded)
                ranked[rows] = found.cpu()
        return ranked

    def _at_once(self, k: int) -> int:
        """How many queries a batch of `rank` holds."""
        width = max(self.beam, k) if self.table.width > 1 else 1
        most = min(_BEAMS_AT_ONCE.get(self.model.device.type, 2**16), _LOGITS_AT_ONCE // self.table.vocab_size)
        return max(1, most // width)

    def _best(self, items: Tensor, lengths: Tensor, k: int, seen: Tensor | None, excluded: Excluded | None) -> Tensor:
        """The best k names for (B, H) items, without the (B, S) items of `seen`, if given; -1 where there are fewer."""
        own = excluded if seen is None or excluded is None else excluded.after(seen)
        return self._search(items, lengths, max(self.beam, k), k, own)

    def _search(self, items: Tensor, lengths: Tensor, width: int, k: int, excluded: Excluded | None) -> Tensor:
        """The beams of a query are a tree in one row of the cache: each token is stored once and never moved.

        By a mask, each beam sees the history and its own ancestors. Beams whose next tokens are all determined stop.
        """
        trie, beams = self._trie, self._trie.begin(len(items), excluded)
        logits, seen, step = self._begin(items, lengths.to(items.device))
        going = beams.nodes.new_zeros(len(items), 1)
        beams = trie.advance(beams, going, logits[:, None], width, excluded)
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
            beams = trie.advance(beams, going, logits, width, excluded)
        return trie.named(beams, k)

    def _left_aligned(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """The latest `history` items of each query, padded on the right with -1, and how many they are."""
        histories = histories[:, -self.history :]
        lengths = (histories >= 0).sum(1)
        places = torch.arange(histories.shape[1])[None] - lengths[:, None]  # counted from the end
        return histories.gather(1, places % max(histories.shape[1], 1)).where(places < 0, -1), lengths

    def _spell(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H) items as (B, H T) tokens, with a mask of those that are not padding."""
        there = items >= 0
        tokens = self._tokens[items.clamp(min=0)].where(there[:, :, None], self.table.pad)
        return tokens.flatten(1), there.repeat_interleave(self.table.width, 1)

    def _asked(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the tokens of items (...) where several could follow: (..., T) bool; and the nodes around them."""
        path = self._learnt.paths[items.clamp(min=0)]
        asked = (self._learnt.fan_out[path[..., :-1]] > 1) & (items >= 0)[..., None]
        return asked, path[..., :-1][asked], path[..., 1:][asked]

    def spans(self, histories: Histories, generator: torch.Generator) -> Spans:
        """Take each user's history as one span; more than history + 1 items are split, at other places in each epoch.

        Args:
            histories: the users' items.
            generator: the random generator.

        Returns:
            Spans that contain every item once.
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
        """Return the cross-entropy of the target items, each among the items of the catalogue.

        Args:
            items: (B, H) int64, spans of histories, padded on the right with -1.

        Returns:
            - log p(item), the mean over all targets, in nats.
        """

    def finish(self, queries: Queries, *, exclude_seen: bool = True) -> None:  # noqa: B027, most have nothing to do
        """Choose what is chosen on validation, once the weights are learnt; `fit` ends with it.

        Args:
            queries: those of validation.
            exclude_seen: leave out the items of each history, as `rank` does.
        """

    @staticmethod
    @abstractmethod
    def _load_model(saved: saving.Saved) -> tuple[Any, dict[str, Any]]:
        """Make the model of what was saved: the model, and what transformers says of its weights."""

    @abstractmethod
    def _begin(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Step]:
        """Read histories: logits (B, V) of the first token, which cached tokens all beams see (B, S), and the step."""

    def save_pretrained(self, directory: str | Path, *, force: bool = False, tokenizer: Any = None) -> None:
        """Save the model as transformers does, with the items' tokens beside it; all at one stroke, or nothing.

        Args:
            directory: the folder; made where it is missing.
            force: replace a recommender that is there.
            tokenizer: a language model's, which `extend_vocabulary` extended. It is saved, too: transformers' own
                `AutoTokenizer` and `AutoModelForCausalLM` then load both from the folder. Without it, a recommender of
                equal `table` that is replaced leaves its tokenizer there.

        Raises:
            FileExistsError: a recommender is there and `force` is off.
            TypeError: `about` holds what JSON can't, or the tokenizer is none of transformers'.
            ValueError: the folder holds something else that would be lost, such as a tokenizer or a model of
                transformers; or the class has no kind of its own to be loaded by.
            OSError: the folder can't be written to, or another holds it for long; what was there stays.
        """
        folder = saving.as_folder("save_pretrained", directory)
        if "kind" not in vars(type(self)):
            name = type(self).__name__
            rule = "class must have a kind, by which it is loaded"
            raise ValueError(f"save_pretrained: {rule}, got {name} without. Write class {name}(..., kind='a name').")
        if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
            step = "Pass the one that extend_vocabulary extended."
            got = type(tokenizer).__name__
            fail("save_pretrained", "tokenizer", "a tokenizer of transformers", got, step, TypeError)
        settings = {"kind": self.kind, "history": self.history, "beam": self.beam, "about": self.about}
        saving.check_plain("save_pretrained", "about", self.about)
        with free_to_save("save_pretrained", RECOMMENDER, folder, force=force):
            saving.write("save_pretrained", folder, self.model, self.table, self.rows, settings, tokenizer)

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "cpu") -> Self:
        """Load what `save_pretrained` wrote.

        Args:
            directory: the folder.
            device: where the model is to run.

        Returns:
            A recommender of the kind that was saved, which ranks the same items alike.

        Raises:
            FileNotFoundError: nothing is there, or one of its files is missing.
            TypeError: a directory that is no path.
            ValueError: its files are broken, or of a later release; or the folder holds something else, be it a
                recommender of another class than this; or a device that torch can't use here.
        """
        check_device("from_pretrained", device)
        return saving.read("from_pretrained", directory, cls._make).to(device)

    @classmethod
    def _make(cls, saved: saving.Saved) -> Self:
        settings, rows = saved.settings, saved.rows
        kind = KINDS.get(settings["kind"])
        if kind is None:
            why = f"its kind {settings['kind']!r} is none of {', '.join(KINDS)}"
            raise WrongFolderError(why, "Import the module that defines it")
        if not issubclass(kind, cls):
            raise WrongFolderError(f"it holds a {kind.__name__}", f"Load it with {kind.__name__}.from_pretrained")
        model, info = kind._load_model(saved)
        if info["missing_keys"]:
            raise ValueError(f"no weights for {min(info['missing_keys'])}")
        options = {name: settings[name] for name in _OPTIONS} | ({} if rows is None else {"rows": rows})
        return kind(model.eval(), saved.table, **options)


KINDS: dict[str, type[SequenceRecommender]] = {}  # each kind of recommender by its name, as its module is imported
_OPTIONS = ("history", "beam", "about")


def _where(mask: Tensor) -> Tensor:
    """The columns that hold True in each row, (B, most of any row); shorter rows are filled with other columns."""
    return mask.int().argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]
