"""Tokenizer: fit on domains, tokenize items, decode IDs, add domains, save and load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitok.config import UniTokConfig
from unitok.data.catalogue import Domain, EmbeddingInfo
from unitok.evaluation.domain_check import DomainCheck, Familiarity, check_domain, familiarity
from unitok.evaluation.report import Report, make_report
from unitok.ids.semantic_ids import AssignedIds, SemanticIds
from unitok.ids.versions.alignment import Alignment, align_ids
from unitok.model.encoding import Encoded, encode_items
from unitok.model.inputs import (
    Rows,
    Vectors,
    beside,
    beside_each,
    check_settings,
    checked_domains,
    checked_ids,
    checked_vectors,
    checked_views,
    item_keys,
    rows_of_width,
    stated,
    stated_by_all,
)
from unitok.model.network import UniTokModel
from unitok.model.renumbering import renumber
from unitok.model.saved import DomainInfo, load_model, settings_of
from unitok.storage.layout import Fingerprint, checked_config, fingerprint_of
from unitok.storage.pair import read_pair, write_pair
from unitok.storage.saved import NOT_WHOLE, TOKENIZER, free_to_save, not_whole
from unitok.training.fitting import fit_model, fit_views
from unitok.training.initialisation import add_expert
from unitok.training.trainer import Progress
from unitok_kernels import checks
from unitok_kernels.rules import typed

ADD_MODES = ("new_expert", "frozen")


class Tokenizer:
    """Turns item embeddings of many domains into semantic IDs. Made by `fit` or `from_pretrained`.

    Args:
        model: the network.
        domains: the domains it knows.
        embedding: what made the embeddings, or None if unknown.

    Source: UniTok, arXiv 2511.12922.
    """

    def __init__(self, model: UniTokModel, domains: list[DomainInfo], embedding: EmbeddingInfo | None = None) -> None:
        self.model = model.eval()
        self.domains = {domain.name: domain for domain in domains}
        self.embedding = embedding
        self.history: list[dict[str, Any]] = []
        self.familiar: dict[str, Familiarity] = {}

    @property
    def config(self) -> UniTokConfig:
        """The settings it was fitted with."""
        return self.model.config

    @classmethod
    def fit(
        cls,
        domains: Mapping[str, Rows],
        config: UniTokConfig | None = None,
        *,
        views: Mapping[str, Mapping[str, Vectors]] | None = None,
        embedding: EmbeddingInfo | None = None,
        directory: str | Path | None = None,
        progress: Progress | None = None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> Tokenizer:
        """Fit one tokenizer on the items of all domains.

        Args:
            domains: name -> (N_k, D_in) float embeddings, all of one width, made by one model.
            config: the settings; None uses the defaults.
            views: name of the view -> name of the domain -> (N_k, B) float vectors of its items, such as
                `unitok.data.behaviour` makes; rows of NaN for items that have none. Domains may be left out.
            embedding: what made the embeddings; saved, and compared by `tokenize`.
            directory: folder for checkpoint and history; a checkpoint found there is resumed. None writes nothing.
            progress: called after each step with the steps done, their total, and a line about the loss.
            on_epoch: called with each epoch's record.

        Returns:
            Tokenizer: fitted; `history` has one record per epoch.

        Raises:
            ValueError: no domain, an empty one, other widths, NaN; `directory` holds another run.
            TypeError: an entry is neither a tensor nor an array of floats.
            BusyError: another process or thread fits in `directory`.

        Source: UniTok, arXiv 2511.12922.
        """
        config = UniTokConfig() if config is None else config
        check_settings("fit", config, embedding)
        parts = checked_domains(domains)
        given = checked_views(views, parts, config)
        embedding = stated_by_all(domains, embedding)
        model, history = fit_model(parts, config, directory=directory, progress=progress, on_epoch=on_epoch)
        own = fit_views(model, parts, given)
        tokenizer = cls(model, [DomainInfo(name, len(p), own.get(name)) for name, p in parts.items()], embedding)
        tokenizer.history = history
        measured = {name: familiarity("fit", model, rows) for name, rows in parts.items()}
        tokenizer.familiar = {name: figures for name, figures in measured.items() if figures is not None}
        return tokenizer

    @torch.no_grad()
    def tokenize(
        self,
        x: Rows,
        domain: str | None = None,
        *,
        views: Mapping[str, Vectors] | None = None,
        embedding: EmbeddingInfo | None = None,
    ) -> SemanticIds:
        """Give each item its semantic ID, which depends only on its own embedding and vectors, and its domain.

        Args:
            x: (N, D_in) float embeddings: a tensor, an array, a list of rows, or a table of pandas or polars. N may
                be 0.
            domain: a domain that the tokenizer knows; needed only for domains that were added with a new expert or
                fitted with views. Without it, IDs are those of a tokenizer that was fitted without views.
            views: name of the view -> (N, B) float vectors of the items; rows of NaN for items that have none.
            embedding: what made x; refused if the tokenizer was fitted on other embeddings.

        Returns:
            SemanticIds: codes (N, L), experts (N, S), and shared codes (N, L) where the preset has a shared expert.

        Raises:
            ValueError: wrong width, NaN or infinity (with the row), unknown domain, other embedding model, or a view
                that it or the domain wasn't fitted with.
            TypeError: x is neither a tensor nor an array of floats.
        """
        self.check_embedding("tokenize", stated(x, embedding))
        rows, expert = rows_of_width("tokenize", x, self.model.input_dim), self._expert("tokenize", domain)
        seen = beside("tokenize", self.model, views, len(rows), domain)
        return encode_items("tokenize", self.model, rows, expert, seen).ids

    @torch.no_grad()
    def decode(self, ids: SemanticIds | AssignedIds | Sequence[str]) -> Tensor:
        """Rebuild item embeddings from IDs.

        Args:
            ids: semantic IDs of this tokenizer, or their texts; missing shared codes or slots are replaced by the top
                expert's, and a suffix is ignored.

        Returns:
            Tensor: (N, D_in) float32.

        Raises:
            ValueError: the IDs have another number of levels, codewords, experts or slots.
            TypeError: they are no IDs.
        """
        ids = checked_ids("decode", ids, self.config, self.model.num_experts)
        return torch.cat([self.model.decoder(z) for z in self.model.latents(ids).split(4096)])

    def report(
        self, x: Rows | Mapping[str, Rows], domain: str | None = None, *, views: Mapping[str, Any] | None = None
    ) -> Report:
        """Measure the tokenizer on items.

        Args:
            x: (N, D_in) embeddings of one domain, or a mapping of names to them; domains that the tokenizer doesn't
                know go through its router.
            domain: the domain of x, if x isn't a mapping.
            views: as `tokenize` takes them; if x is a mapping, as `fit` does.

        Returns:
            Report: collisions, entropies, errors, router and codebook use, per domain and over all.

        Raises:
            ValueError: as `tokenize` does; no rows.
        """
        self._expert("report", domain)  # raises for an unknown domain
        named = dict(x) if isinstance(x, Mapping) else {domain or "items": x}
        for rows in named.values():
            self.check_embedding("report", stated(rows, None))
        parts = {name: rows_of_width("report", rows, self.model.input_dim) for name, rows in named.items()}
        checks.at_least("report", "x's rows", sum(map(len, parts.values())), 1, "Give it items to measure.")
        experts = {name: self.domains[name].expert if name in self.domains else None for name in parts}
        seen = beside_each("report", self.model, views, parts, isinstance(x, Mapping))
        return make_report(self.model, parts, experts, seen)

    def check_domain(self, x: Rows, *, embedding: EmbeddingInfo | None = None) -> DomainCheck:
        """Check whether the tokenizer can be used for an unseen catalogue: go or no-go, before it is tokenized.

        score = min over figures of worst training domain's value / catalogue's value, at most 1. The figures are the
        shares of variance that the ID misses of latents and embeddings, the collision rate, and the router's confidence
        (with the inverse ratio). It passes from .5 on; below, `advice` says whether `add_domain` is enough.

        Args:
            x: (N, D_in) float embeddings of at least 32 distinct items; at most 2,048 are used.
            embedding: what made x.

        Returns:
            DomainCheck: score, threshold, figures and advice.

        Raises:
            ValueError: as `tokenize` does; too few items; the tokenizer was fitted on domains of too few items.
        """
        self.check_embedding("check_domain", stated(x, embedding))
        return check_domain(self.model, rows_of_width("check_domain", x, self.model.input_dim), self.familiar)

    @torch.no_grad()
    def add_domain(
        self, name: str, x: Rows, mode: str = "new_expert", *, embedding: EmbeddingInfo | None = None
    ) -> None:
        """Add a new domain without changing existing IDs.

        "new_expert" clusters the domain's latents into new codebooks, which are used only if the domain is named.
        "frozen" lets the router choose among the existing experts. Encoder, router and old codebooks never change.

        Args:
            name: the new domain's name.
            x: (N, D_in) float embeddings, at least one row.
            mode: "new_expert" | "frozen".
            embedding: what made x.

        Raises:
            ValueError: the name is taken; x is empty or doesn't fit; the preset has no separate chain per expert.
        """
        checks.one_of("add_domain", "mode", mode, ADD_MODES)
        typed("add_domain", "name", name, (str,), "a text")
        self.check_embedding("add_domain", stated(x, embedding))
        if name in self.domains:
            checks.fail("add_domain", "name", "a new domain's name", repr(name), "Choose another name.")
        rows = rows_of_width("add_domain", x, self.model.input_dim)
        checks.at_least("add_domain", "x's rows", len(rows), 1, "Give it the domain's items.")
        is_own, seed = mode == "new_expert", self.config.seed + len(self.domains)
        expert = add_expert("add_domain", self.model, rows, seed) if is_own else None
        self.domains[name] = DomainInfo(name, len(rows), expert)

    def align(self, ids: SemanticIds, earlier: SemanticIds) -> Alignment:
        """Number experts and codes anew, so that most items have the prefixes of their earlier IDs.

        Args:
            ids: N IDs that it gives items now.
            earlier: the IDs that the same items had, of another tokenizer of as many levels and codewords.

        Returns:
            Alignment: the numbers, and the shares of items with an equal prefix before and after.

        Raises:
            TypeError: no IDs.
            ValueError: other items, levels or codewords; an item without an ID; none at all; or another's IDs.
            ImportError: scipy isn't installed.
        """
        checked_ids("align", ids, self.config, self.model.num_experts)
        found = align_ids(ids, earlier, self.model.num_experts, self.model.routable_experts)
        own = {name: domain.expert for name, domain in self.domains.items() if domain.expert is not None}
        renumber(self.model, found.experts, found.codes, own)
        for name, number in own.items():
            self.domains[name] = dataclasses.replace(self.domains[name], expert=int(found.experts[number]))
        return found

    def save_pretrained(self, directory: str | Path, *, force: bool = False) -> None:
        """Write weights (safetensors) and settings (JSON); all at one stroke, or nothing.

        Args:
            directory: the folder; made where it is missing.
            force: replace a tokenizer that is there.

        Raises:
            FileExistsError: a tokenizer is there and `force` is off.
            ValueError: the folder holds something else that would be lost, such as a recommender.
            OSError: the folder can't be written to, or another process works there; what was there stays.
        """
        folder = Path(directory)
        settings = {
            **settings_of(self.model),
            "domains": [dataclasses.asdict(domain) for domain in self.domains.values()],
            "embedding": None if self.embedding is None else dataclasses.asdict(self.embedding),
            "history": self.history,
            "familiar": {name: dataclasses.asdict(figures) for name, figures in self.familiar.items()},
        }
        state = {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}
        with free_to_save("save_pretrained", TOKENIZER, folder, force=force):
            write_pair(folder, state, settings)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Tokenizer:
        """Read what `save_pretrained` wrote.

        Args:
            directory: the folder.

        Returns:
            Tokenizer: gives the same IDs to the bit.

        Raises:
            FileNotFoundError: nothing is there, or one of its files is missing.
            ValueError: its files are broken, or of a later release; or the folder holds something else.
        """
        folder = Path(directory)
        try:
            settings, arrays = read_pair("from_pretrained", folder)
            config = checked_config(settings, arrays)
            domains = [DomainInfo(**domain) for domain in settings["domains"]]
            embedding = settings["embedding"] and EmbeddingInfo(**settings["embedding"])
            tokenizer = cls(load_model(settings, arrays, config), domains, embedding)
            tokenizer.history = settings["history"]
            familiar = settings.get("familiar", {})  # older tokenizers have none
            tokenizer.familiar = {name: Familiarity(**figures) for name, figures in familiar.items()}
        except NOT_WHOLE as error:
            raise not_whole("from_pretrained", TOKENIZER, folder, error) from error
        return tokenizer

    def check_embedding(self, what: str, embedding: EmbeddingInfo | None) -> None:
        """Refuse embeddings that are known to come from another model or text template.

        Args:
            what: the operation that the message names.
            embedding: what made them, or None if unknown.

        Raises:
            ValueError: both are known and differ.
            TypeError: it is no EmbeddingInfo.
        """
        check_settings(what, self.config, embedding)
        if embedding is not None and self.embedding is not None and embedding != self.embedding:
            step = "Embed the items as the tokenizer's were, or fit a new one."
            checks.fail(what, "embedding", str(self.embedding), embedding, step)

    def encode(self, x: Tensor, domain: str | None, views: Mapping[str, Vectors] | None = None) -> Encoded:
        """Encode, route and quantise items; an item's result doesn't depend on the others.

        Args:
            x: (N, D_in) float32.
            domain: a domain that the tokenizer knows, or None.
            views: as `tokenize` takes them.

        Returns:
            Encoded: IDs, latents and their approximation.

        Raises:
            ValueError: the domain is unknown, or a view doesn't fit.
        """
        expert = self._expert("encode", domain)
        return encode_items("encode", self.model, x, expert, beside("encode", self.model, views, len(x), domain))

    def remember(self, items: Domain, views: Mapping[str, Vectors], domain: str | None = None) -> None:
        """Keep vectors of items, so that these keep their IDs whatever becomes of what the vectors were made of.

        Args:
            items: the items, known again by `source_ids` where these tell them apart, else by number and embedding.
            views: as `tokenize` takes them.
            domain: the domain as which they are tokenized; None takes that of their name.

        Raises:
            ValueError: a view that the domain wasn't fitted with, or that doesn't fit the items.
        """
        name = items.name if domain is None else domain
        own, keys = self.model.viewed.get(name), item_keys(items, name)
        vectors = checked_vectors("remember", own, views, len(keys), name)
        if own is not None and vectors is not None:
            own.remember(keys, vectors)

    def recall(self, items: Domain, domain: str | None = None) -> dict[str, Tensor]:
        """Return the vectors that `remember` kept of items, for `tokenize`.

        Args:
            items: the items.
            domain: the domain as which they are tokenized; None takes that of their name.

        Returns:
            dict: name of the view -> (N, B) float32, rows of NaN for items of which none is kept; empty if the domain
            has no views.
        """
        name = items.name if domain is None else domain
        own = self.model.viewed.get(name)
        return {} if own is None else own.parted(own.recall(item_keys(items, name)))

    def fingerprint(self) -> Fingerprint:
        """Identify the tokenizer by digests of its weights, so that stored IDs can be checked to be its own.

        Returns:
            dict: `base`, a digest of the weights that adding a domain never changes; `experts`, a digest of each
            expert's weights; `num_levels` and `codebook_size`.
        """
        weights = {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}
        return fingerprint_of(self.config, weights)

    def _expert(self, what: str, domain: str | None) -> int | None:
        """The own expert of a domain; None if the router decides."""
        if domain is not None and (not isinstance(domain, str) or domain not in self.domains):
            checks.fail(what, "domain", f"one of {', '.join(self.domains)}", repr(domain), "Add it with add_domain.")
        return None if domain is None else self.domains[domain].expert
