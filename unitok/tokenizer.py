"""Tokenizer: fit on domains, tokenize items, decode IDs, add domains, save and load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unitok.config import UniTokConfig
from unitok.data.catalogue import EmbeddingInfo
from unitok.evaluation.domain_check import DomainCheck, Familiarity, check_domain, familiarity
from unitok.evaluation.report import Report, make_report
from unitok.ids.semantic_ids import AssignedIds, SemanticIds
from unitok.model.encoding import Encoded, encode_items
from unitok.model.inputs import (
    Rows,
    check_experts,
    check_settings,
    checked_domains,
    checked_ids,
    checked_rows,
    stated,
    stated_by_all,
)
from unitok.model.mixture import DenseMixtureVQ
from unitok.model.network import UniTokModel
from unitok.numerics import check_latents
from unitok.storage.layout import Fingerprint, checked_config, fingerprint_of
from unitok.storage.pair import read_pair, write_pair
from unitok.storage.saved import NOT_WHOLE, TOKENIZER, free_to_save, not_whole
from unitok.training.initialisation import kmeans_chain
from unitok.training.monitor import snapshot
from unitok.training.trainer import Progress, Trainer
from unitok_kernels import checks, residual_encode

ADD_MODES = ("new_expert", "frozen")


@dataclass(frozen=True)
class DomainInfo:
    """A domain that the tokenizer knows.

    Attributes:
        name: its name.
        num_items: number of items it was fitted on or added with.
        expert: the expert that `add_domain` made for it, used only by this domain; None if the router decides.
    """

    name: str
    num_items: int
    expert: int | None = None


class Tokenizer:
    """Turns item embeddings of many domains into semantic IDs. Made by `fit` or `from_pretrained`.

    Args:
        model: the network.
        domains: the domains it knows.
        embedding: what made the embeddings, or None if unknown.

    Source:
        UniTok, arXiv 2511.12922.
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
        embedding: EmbeddingInfo | None = None,
        directory: str | Path | None = None,
        progress: Progress | None = None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> Tokenizer:
        """Fit one tokenizer on the items of all domains.

        Args:
            domains: name -> (N_k, D_in) float embeddings, all of one width, made by one model.
            config: the settings; None uses the defaults.
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

        Source:
            UniTok, arXiv 2511.12922.
        """
        config = UniTokConfig() if config is None else config
        check_settings("fit", config, embedding)
        parts = checked_domains(domains)
        embedding = stated_by_all(domains, embedding)
        x = torch.cat(list(parts.values()))
        labels = torch.repeat_interleave(torch.tensor([len(p) for p in parts.values()]))
        num_experts = len(parts) if config.num_experts is None else config.num_experts
        check_experts(config, num_experts, len(x))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = UniTokModel(x.shape[1], num_experts, config)
        trainer = Trainer(
            model,
            x,
            labels,
            list(parts),
            config,
            directory=None if directory is None else Path(directory),
            progress=progress,
            on_epoch=on_epoch,
        )
        history = trainer.run()
        seen = snapshot(model, x)
        model.remember_means(seen.routing, seen.quantized)
        tokenizer = cls(model, [DomainInfo(name, len(p)) for name, p in parts.items()], embedding)
        tokenizer.history = history
        measured = {name: familiarity("fit", model, rows) for name, rows in parts.items()}
        tokenizer.familiar = {name: figures for name, figures in measured.items() if figures is not None}
        return tokenizer

    @torch.no_grad()
    def tokenize(self, x: Rows, domain: str | None = None, *, embedding: EmbeddingInfo | None = None) -> SemanticIds:
        """Give each item its semantic ID; an item's ID depends only on its own embedding and domain.

        Args:
            x: (N, D_in) float embeddings: a tensor, an array, a list of rows, or a table of pandas or polars. N may
                be 0.
            domain: a domain that the tokenizer knows; needed only for domains that were added with a new expert.
            embedding: what made x; refused if the tokenizer was fitted on other embeddings.

        Returns:
            SemanticIds: codes (N, L), experts (N, S), and shared codes (N, L) where the preset has a shared expert.

        Raises:
            ValueError: wrong width, NaN or infinity (with the row), unknown domain, other embedding model.
            TypeError: x is neither a tensor nor an array of floats.
        """
        self.check_embedding("tokenize", stated(x, embedding))
        return encode_items("tokenize", self.model, self._input("tokenize", x), self._expert("tokenize", domain)).ids

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
        levels, size, slots = self.config.num_levels, self.config.codebook_size, self.config.top_k
        has = (ids.num_levels, ids.codebook_size, slots if ids.slot_codes is None else ids.experts.shape[1])
        if has != (levels, size, slots) or ids.num_experts > self.model.num_experts:
            rule = f"of {levels} levels of {size} codewords, at most {self.model.num_experts} experts, {slots} slots"
            got = f"{has[0]} levels of {has[1]} codewords, {ids.num_experts} experts, {has[2]} slots"
            checks.fail("decode", "ids", rule, got, "Use the tokenizer that made them.")
        return torch.cat([self.model.decoder(z) for z in self.model.latents(ids).split(4096)])

    def report(self, x: Rows | Mapping[str, Rows], domain: str | None = None) -> Report:
        """Measure the tokenizer on items.

        Args:
            x: (N, D_in) embeddings of one domain, or a mapping of names to them; domains that the tokenizer doesn't
                know go through its router.
            domain: the domain of x, if x isn't a mapping.

        Returns:
            Report: collisions, entropies, errors, router and codebook use, per domain and over all.

        Raises:
            ValueError: as `tokenize` does; no rows.
        """
        self._expert("report", domain)  # raises for an unknown domain
        named = dict(x) if isinstance(x, Mapping) else {domain or "items": x}
        for rows in named.values():
            self.check_embedding("report", stated(rows, None))
        parts = {name: self._input("report", rows) for name, rows in named.items()}
        checks.at_least("report", "x's rows", sum(map(len, parts.values())), 1, "Give it items to measure.")
        experts = {name: self.domains[name].expert if name in self.domains else None for name in parts}
        return make_report(self.model, parts, experts)

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
        return check_domain(self.model, self._input("check_domain", x), self.familiar)

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
        self.check_embedding("add_domain", stated(x, embedding))
        if not isinstance(name, str):
            checks.fail("add_domain", "name", "a text", type(name).__name__, "Name the domain first.", TypeError)
        if name in self.domains:
            checks.fail("add_domain", "name", "a new domain's name", repr(name), "Choose another name.")
        rows = self._input("add_domain", x)
        checks.at_least("add_domain", "x's rows", len(rows), 1, "Give it the domain's items.")
        quantizer, expert = self.model.quantizer, None
        if mode == "new_expert":
            if isinstance(quantizer, DenseMixtureVQ) or self.model.router is None:
                rule = f"'frozen' where no expert has a chain of its own (preset {self.config.preset!r}"
                rule += f", num_experts {self.config.num_experts})"
                checks.fail("add_domain", "mode", rule, repr(mode), "Use it, or fit anew with the domain.")
            z, _ = self.model.encode(rows)
            check_latents("add_domain", z.numpy())
            shared = quantizer.shared_codebooks
            base = torch.zeros_like(z) if shared is None else residual_encode(z, shared).quantized
            residual = z - base if quantizer.shared == "first" else z
            sizes = (self.config.num_levels, self.config.codebook_size)
            chain = kmeans_chain(residual, *sizes, seed=self.config.seed + len(self.domains))
            expert = self.model.num_experts
            quantizer.codebooks = nn.Parameter(torch.cat([quantizer.codebooks, chain[None]]))
            self.model.mean_shared = torch.cat([self.model.mean_shared, base.mean(0, keepdim=True)])
        self.domains[name] = DomainInfo(name, len(rows), expert)

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
            "config": self.config.to_dict(),
            "input_dim": self.model.input_dim,
            "router_experts": self.model.routable_experts,
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
            state = {name: torch.from_numpy(value) for name, value in arrays.items()}
            domains = [DomainInfo(**domain) for domain in settings["domains"]]
            embedding = settings["embedding"] and EmbeddingInfo(**settings["embedding"])
            with torch.random.fork_rng(devices=[]):
                model = UniTokModel(settings["input_dim"], settings["router_experts"], config)
            grown, own = len(state["quantizer.codebooks"]), model.quantizer.codebooks  # by domains added
            model.quantizer.codebooks = nn.Parameter(own.new_empty(grown, *own.shape[1:]))
            model.mean_shared = model.mean_shared.new_empty(grown, model.mean_shared.shape[1])
            model.load_state_dict(state)
            tokenizer = cls(model, domains, embedding)
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

    def _input(self, what: str, x: Rows) -> Tensor:
        rows = checked_rows(what, "x", x)
        checks.same(what, "x", rows.shape[1], "the tokenizer", self.model.input_dim, "width")
        return rows

    def encode(self, x: Tensor, domain: str | None) -> Encoded:
        """Encode, route and quantise items; an item's result doesn't depend on the others.

        Args:
            x: (N, D_in) float32.
            domain: a domain that the tokenizer knows, or None.

        Returns:
            Encoded: IDs, latents and their approximation.

        Raises:
            ValueError: the domain is unknown.
        """
        return encode_items("encode", self.model, x, self._expert("encode", domain))

    def fingerprint(self) -> Fingerprint:
        """Identify the tokenizer by digests of its weights, so that stored IDs can be checked to be its own.

        Returns:
            dict: `base`, a digest of the weights that adding a domain never changes; `experts`, a digest of each
            expert's weights; `num_levels` and `codebook_size`.
        """
        weights = {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}
        return fingerprint_of(self.config, weights)

    def _expert(self, what: str, domain: str | None) -> int | None:
        """The own expert of an added domain; None if the router decides."""
        if domain is not None and (not isinstance(domain, str) or domain not in self.domains):
            names = ", ".join(self.domains)
            checks.fail(what, "domain", f"one of {names}", repr(domain), "Add it with add_domain.")
        return None if domain is None else self.domains[domain].expert
