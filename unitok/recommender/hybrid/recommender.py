"""A recommender that knows items by their tokens, as themselves, by their content, and by what came after them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from unitok.ids.semantic_ids import SemanticIds
from unitok.recommender.backbones import check_creation, fitted, rq_config
from unitok.recommender.beam import Excluded, check_spans, order_key
from unitok.recommender.evaluation.item_level import evaluate
from unitok.recommender.evaluation.splits import Split
from unitok.recommender.histories import Histories, Queries
from unitok.recommender.hybrid.calibration import climb
from unitok.recommender.hybrid.growth import grown
from unitok.recommender.hybrid.memory import TransitionMemory
from unitok.recommender.hybrid.model import HybridModel
from unitok.recommender.hybrid.sampling import draw
from unitok.recommender.hybrid.start import checked_content, log_lift, principal, summands
from unitok.recommender.rq_transformer import RQRecommender
from unitok.recommender.saving import Saved
from unitok.recommender.token_table import TokenTable
from unitok_kernels import checks
from unitok_kernels.rules import fail, typed

EXACT_ITEMS = 2**18
_CELLS_AT_ONCE = 2**21  # queries x items per batch of `rank`
_NONE = torch.iinfo(torch.int64).min


class HybridRecommender(RQRecommender, kind="hybrid"):
    """Ranks items by a score of each; in a large catalogue, those that it finds by writing their tokens.

    The score of an item adds up how its vector fits the state of a transformer that has read the history; how often it
    came after the history's items in training; how much its content is like theirs; and whether it is among them. An
    item's vector is the sum of its tokens' embeddings, which start so that the sum tells the item's content, and an
    embedding of its own, which starts at 0. The formula is in `HybridModel`. How much what was learnt and the content
    count beside the memory is chosen on validation at the end of `fit`.

    Up to `exact_items` items, 262,144 unless it is set otherwise (which is not saved), all are scored. Of more, `beam`
    are found by a beam search over their tokens and as many by what came after the history's items; those are scored.

    In training, the targets of a step are told from all items that users met, or from `sampled_items` of more: 2,048
    unless it is set otherwise.

    It learns fast: `TrainingConfig(epochs=12, patience=4)` is what `unitok recommend train` takes.

    Args:
        model: a `HybridModel`.
        table: the items in its vocabulary.
        history: number of latest items that are read.
        beam: prefixes that the search keeps, where not all items are scored.
        about: JSON-serialisable data that is saved, too.
        rows: (M,) int64, the items that are ranked; None ranks all of them.

    Raises:
        ValueError: a size below 1, rows that aren't items of the table, or a model that doesn't fit it.

    Source: RQ-Transformer, arXiv 2203.01941; LIGER, arXiv 2411.18814, for scores of items beside a search for IDs.
    """

    shuffles = False  # what a user did is taken out of the memory by its order
    exact_items: int = EXACT_ITEMS
    trie_weight: float = 1.0  # of writing the tokens, in the loss
    sampled_items: int = 2048  # that a step of training tells its targets from, where there are more
    start_length: float = 0.5  # mean length of the items' vectors at the start
    start_trust: float = 2.0  # c(s) at the start; learnt as slowly as other weights are, it stays near that
    _kept: tuple[tuple[Any, ...], Tensor] | None = None  # what items are found by, and what that was made of

    def __init__(
        self,
        model: Any,
        table: TokenTable,
        *,
        history: int = 20,
        beam: int = 200,
        about: dict[str, Any] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(model, table, history=history, beam=beam, about=about, rows=rows)
        if not isinstance(model, HybridModel):
            got = type(model).__name__
            raise ValueError(f"HybridRecommender: model must be a HybridModel, got {got}. Build it with create.")

    @classmethod
    def create(
        cls,
        table: TokenTable,
        config: Any = None,
        *,
        histories: Histories | Split | None = None,
        content: Tensor | NDArray[Any] | None = None,
        history: int = 20,
        beam: int = 200,
        seed: int = 0,
    ) -> Self:
        """Make a model of random weights that remembers what users did, and knows what the items are like.

        Args:
            table: the items.
            config: a configuration of a causal language model, of which a copy is taken, with the vocabulary and
                positions that are needed; `rq_config()` by default.
            histories: what `fit` is given: the memory is of its training part, so that nothing of validation or test is
                in it. None remembers nothing.
            content: (N, C) floating point, a tensor or an array, the items' embeddings, such as a catalogue's. None
                knows of none.
            history: number of latest items that are read.
            beam: prefixes that the search keeps, where not all items are scored.
            seed: seed of the weights.

        Returns:
            The recommender, on the CPU.

        Raises:
            TypeError: a table, a configuration, histories or content of another type.
            ValueError: a size below 1, histories of other items, or content of other items or not finite.
        """
        from transformers import AutoModel

        check_creation(cls.__name__, table, config, history)
        known = _training(histories, len(table))
        content = torch.zeros(len(table), 0) if content is None else checked_content("create", content, len(table))
        config = fitted(rq_config() if config is None else config, table, history + 1)
        memory = TransitionMemory(len(table)).observed(known)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = HybridModel(AutoModel.from_config(config), table.width, memory, content)
        with torch.no_grad():
            if len(known.items):
                model.met = torch.bincount(known.items, minlength=len(table)) > 0
            model.repeat.fill_(log_lift(known, len(table), history))
            model.trust.bias[1] = math.log(math.expm1(cls.start_trust))
            if content.shape[1]:
                weight = model.trunk.get_input_embeddings().weight
                begun = summands(table.tokens, len(weight), principal(content, weight.shape[1]))
                told = torch.bincount(table.tokens.flatten(), minlength=len(weight)) > 0
                weight[told] = cls.start_length * begun[told]
        return cls(model.eval(), table, history=history, beam=beam)

    @staticmethod
    def _load_model(saved: Saved) -> tuple[Any, dict[str, Any]]:
        return HybridModel.of(saved)

    @property
    def names(self) -> Tensor:
        """The name of each item: arange(N), since even items of equal tokens can be told apart."""
        return torch.arange(len(self.table))

    def observe(self, histories: Histories, new: int | None = 1) -> None:
        """Remember what users did since, without training: the next `rank` knows it.

        Other threads may rank meanwhile, but not observe.

        Args:
            histories: users' items, the latest last, and those before them, at least 5, that are known already.
            new: how many of each user's last items are new. None: all are.

        Raises:
            TypeError: something else than histories or a number.
            ValueError: a number below 1, or histories of other items.
        """
        typed("observe", "histories", histories, (Histories,), "Histories")
        if new is not None:
            checks.whole("observe", new=new)
            if new < 1:
                fail("observe", "new", "at least 1, or None for all", new, "Pass how many items are new.")
        _check_items("observe", histories, len(self.table))
        self.model.memory = self.model.memory.observed(histories, new)

    def add_items(
        self, ids: SemanticIds, content: Tensor | NDArray[Any] | None = None, *, layout: str = "top1"
    ) -> Self:
        """Rank new items too, without training: their tokens and their content tell what they are like.

        They take part at once. `observe` adds what users do with them.

        Args:
            ids: the IDs of all items: first those that are there, as they were, then the new ones, such as
                `Tokenizer.tokenize` and `assign` give them. A new item's ID may be of new codes, but not tell items
                apart where all that are there are alike, as the first suffix of a tokenizer without experts does.
            content: (M, C) floating point, a tensor or an array, the new items' embeddings; needed if the recommender
                knows its items'.
            layout: of `SemanticIds.tokens`, as the table was made with.

        Returns:
            A recommender of all items, on weights of its own; this one stays as it is.

        Raises:
            TypeError: IDs or content of another type.
            ValueError: no new items, other IDs of those that were there, content of other items, or a recommender
                within some items.
        """
        if self.rows is not None:
            rule, got = "recommender must rank all items", f"one within {len(self.rows)} of {len(self.table)}"
            raise ValueError(f"add_items: {rule}, got {got}. Add them to the one that it was made of.")
        table, known = self.table.extended(ids, layout), len(self.table)
        width = self.model.content.shape[1]
        if content is None and width:
            fail("add_items", "content", f"({len(table) - known}, {width})", "none", "Pass the new items' embeddings.")
        if content is None:
            content = torch.zeros(len(table) - known, 0)
        content = checked_content("add_items", content, len(table) - known)
        if content.shape[1] != width:
            step = "Embed them with the same model."
            fail("add_items", "content", f"({len(content)}, {width})", tuple(content.shape), step)
        model = grown(self.model, table.tokens.to(self.model.device), table.vocab_size, content)
        made = type(self)(model, table, history=self.history, beam=self.beam, about=copy.deepcopy(self.about))
        return self._alike(made)

    def _like(self, model: Any, rows: Tensor | None) -> Self:
        return self._alike(super()._like(model, rows))

    def _alike(self, other: Self) -> Self:
        """Give another one what was set of this one after it was made."""
        for name in ("exact_items", "trie_weight", "sampled_items"):
            setattr(other, name, getattr(self, name))
        return other

    def loss(self, items: Tensor) -> Tensor:
        """Return the cross-entropy of every item given those before it: among the items, and written token by token.

        Args:
            items: (B, H) int64, spans of histories, padded on the right with -1.

        Returns:
            - log p(item) by its score - log p(item) by its tokens, the mean over all items, in nats.

        Raises:
            TypeError: no tensor.
            ValueError: another dtype or shape.
        """
        check_spans(items)
        there = items >= 0
        states = self._read(items[:, :-1])
        total = self._scored(items, states)
        if self.trie_weight:
            total = total + self.trie_weight * self._written(items[there], states[there])
        return total / there.sum()

    def _scored(self, items: Tensor, states: Tensor) -> Tensor:
        """Sum up what (B, H) items cost, each among the items that are drawn, given those before it."""
        model, there, wanted = self.model, items >= 0, items[items >= 0]
        # What nobody met isn't pushed down: else new items would be known by being new, and by nothing else.
        among, correction = draw(model.met, wanted, self.sampled_items)
        column = torch.full_like(model.met, -1, dtype=torch.int64)
        column[among] = torch.arange(len(among), device=items.device)
        recalled = model.memory.before_each(items, among)[there]
        profiles = F.pad(model.profiles(items[:, :-1]), (0, 0, 1, 0))[there]
        row = torch.full_like(items, -1).masked_scatter(there, torch.arange(len(wanted), device=items.device))
        earlier = torch.ones(there.shape[1], there.shape[1], dtype=torch.bool, device=items.device).tril(-1)
        query, at, other = (earlier & there[:, :, None] & (column[items] >= 0)[:, None]).nonzero(as_tuple=True)
        met = _marked(recalled, row[query, at], column[items[query, other]])
        vectors = model.vectors(among, self._tokens[among])
        scores = model.score(states[there], profiles @ model.content[among].T, recalled, met, vectors)
        return F.cross_entropy(scores + correction, column[wanted], reduction="sum")

    def finish(self, queries: Queries, *, exclude_seen: bool = True) -> None:
        """Choose how much what was learnt and the content count beside the memory, by NDCG@10 on queries.

        Args:
            queries: such as those of validation; nothing may have been learnt from their targets.
            exclude_seen: leave out the items of each history, as `rank` does.

        Raises:
            ValueError: no queries, or of items that there aren't.
        """

        def reached(factors: Sequence[float]) -> float:
            self.model.balance.copy_(torch.tensor(factors))
            return float(evaluate(self, queries, exclude_seen=exclude_seen).values("ndcg", 10).mean())

        self.model.balance.copy_(torch.tensor(climb(reached, 2)))

    @property
    def _searches(self) -> bool:
        """Whether there are too many items to score all."""
        return len(self.table if self.rows is None else self.rows) > max(self.exact_items, self.beam)

    def _at_once(self, k: int) -> int:
        most = super()._at_once(k) if self._searches else 2**16
        return max(1, min(most, _CELLS_AT_ONCE // len(self.table)))

    def _best(self, items: Tensor, lengths: Tensor, k: int, seen: Tensor | None, excluded: Excluded | None) -> Tensor:
        model, queries = self.model, len(items)
        every = torch.arange(queries, device=items.device)
        recalled = model.memory.after(items)
        met = _marked(recalled, *_entries(items))
        barred = torch.zeros_like(met, dtype=torch.bool) | ~self._allowed(excluded)
        if seen is not None:
            barred[_entries(seen)] = True
        item = torch.arange(len(self.table), device=items.device).expand(queries, -1)
        own: Tensor | slice = slice(None)
        if self._searches:
            found = self._found(items, lengths, k, recalled.masked_fill(barred, -1), seen, excluded)
            own = item = found.clamp(min=0)
            recalled, met, barred = recalled.gather(1, item), met.gather(1, item), barred.gather(1, item) | (found < 0)
        states = self._read(items)[every, lengths.to(items.device)]
        blank = model.content.new_zeros(queries, 1, model.content.shape[1])
        profiles = torch.cat([blank, model.profiles(items)], 1)[every, lengths.to(items.device)]
        content, vectors = model.content[own], self._vectors()[own]
        likeness = profiles @ content.T if content.ndim == 2 else (content @ profiles[:, :, None])[:, :, 0]
        scores = model.score(states, likeness, recalled, met, vectors)
        order = order_key(scores.float(), item).masked_fill(barred, _NONE)
        best = order.topk(min(k, order.shape[1]))
        chosen = item.gather(1, best.indices).where(best.values != _NONE, -1)
        return F.pad(chosen, (0, k - chosen.shape[1]), value=-1)

    def _found(
        self,
        items: Tensor,
        lengths: Tensor,
        k: int,
        recalled: Tensor,
        seen: Tensor | None,
        excluded: Excluded | None,
    ) -> Tensor:
        """The items of the best `beam` leaves, and as many that were recalled: (B, C), -1 for none, none twice."""
        width = max(self.beam, k)
        own = excluded if seen is None or excluded is None else excluded.after(seen)
        leaves = self._search(items, lengths, width, width, own)
        number = self.table.names.to(items.device)
        order, counts = number.argsort(stable=True), torch.bincount(number)
        place = torch.arange(int(counts.max()), device=items.device)
        there = (leaves >= 0)[:, :, None] & (place < counts[leaves.clamp(min=0)][:, :, None])
        first = (counts.cumsum(0) - counts)[leaves.clamp(min=0)][:, :, None]
        written = order[(first + place).where(there, 0)].where(there, -1).flatten(1)
        came = recalled.topk(min(width, recalled.shape[1]))
        both = torch.cat([written, came.indices.where(came.values > 0, -1)], 1).sort(1).values
        twice = F.pad(both[:, 1:] == both[:, :-1], (1, 0))
        return both.masked_fill(twice, -1)

    def _allowed(self, excluded: Excluded | None) -> Tensor:
        """Which items may be named in any query, (N,) bool."""
        if excluded is not None:
            return excluded.leaf_of >= 0
        allowed = torch.zeros(len(self.table), dtype=torch.bool, device=self.model.device)
        allowed[slice(None) if self.rows is None else self.rows.to(allowed.device)] = True
        return allowed

    def _vectors(self) -> Tensor:
        """What the state finds items by, made once for as long as the weights stay."""
        every = torch.arange(len(self.table), device=self.model.device)
        weights = (self.model.trunk.get_input_embeddings().weight, self.model.items.weight)
        if any(weight.is_inference() for weight in weights):  # which don't tell whether they were changed
            return self.model.vectors(every, self._tokens)
        # The sums tell of changes that went round the counters, as averages of weights made by `.data` do.
        made_of = tuple((part.data_ptr(), part.device, part._version, float(part.sum())) for part in weights)
        if self._kept is None or self._kept[0] != made_of:
            self._kept = made_of, self.model.vectors(every, self._tokens)
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is built again when it is needed."""
        return {**super().__getstate__(), "_kept": None}


def _training(histories: object, num_items: int) -> Histories:
    """What may be learnt from: of whole histories, all but the targets."""
    if histories is None:
        return Histories.from_lists([])
    typed("create", "histories", histories, (Histories, Split), "Histories or a Split")
    assert isinstance(histories, Histories | Split)
    known = histories.training() if isinstance(histories, Histories) else histories.training
    _check_items("create", known, num_items)
    return known


def _check_items(what: str, histories: Histories, num_items: int) -> None:
    if len(histories.items) and not 0 <= int(histories.items.min()) <= int(histories.items.max()) < num_items:
        got = f"{int(histories.items.min())} to {int(histories.items.max())}"
        fail(what, "histories", f"of items in [0, {num_items})", got, "Number the items as the table does.")


def _entries(items: Tensor) -> tuple[Tensor, Tensor]:
    """Where (B, H) items are, as (row, item) of each that isn't padding."""
    row, place = (items >= 0).nonzero(as_tuple=True)
    return row, items[row, place]


def _marked(scores: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """1 for each (row, item), else 0, in the shape of the scores."""
    marks = torch.zeros_like(scores)
    marks[row, item] = 1.0
    return marks
