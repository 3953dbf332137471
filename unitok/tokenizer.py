"""Tokenizer: fit on domains, tokenize items, decode IDs, add domains, save and load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unitok.config import UniTokConfig
from unitok.data.catalogue import EmbeddingInfo
from unitok.mixture import DenseMixtureVQ
from unitok.model import Routing, UniTokModel
from unitok.monitor import snapshot
from unitok.plain import embeddings, softmax
from unitok.report import Report, make_report
from unitok.semantic_id import SemanticIds
from unitok.start import kmeans_chain
from unitok.storage import NOT_WHOLE, SETTINGS, not_whole, read_pair, write_pair
from unitok.trainer import Progress, Trainer
from unitok.zero_shot import DomainCheck, Familiarity, check_domain, familiarity
from unitok_kernels import checks, residual_encode

ADD_MODES = ("new_expert", "frozen")

Rows = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class DomainInfo:
    """A domain that the tokenizer knows.

    Attributes:
        name: its name.
        num_items: items it was fitted on or added with.
        expert: the expert that was made for it by `add_domain`, which only it reaches; None where the router decides.
    """

    name: str
    num_items: int
    expert: int | None = None


class Encoded(NamedTuple):
    """Items with their IDs.

    Attributes:
        ids: their semantic IDs.
        z: (N, D) float32 latents.
        z_hat: (N, D) float32, what all active chains make of them.
    """

    ids: SemanticIds
    z: Tensor
    z_hat: Tensor


class Tokenizer:
    """Turns item embeddings of many domains into semantic IDs. Made by `fit` or `from_pretrained`.

    Args:
        model: the network.
        domains: the domains it knows.
        embedding: what made the embeddings, or None where nothing was said.

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
            config: the settings; None takes the defaults.
            embedding: what made the embeddings; kept, and asked for again by `tokenize`.
            directory: keeps checkpoint and history there, and resumes from them; None keeps nothing.
            progress: called after each step with steps done, steps in all and a line about the loss.
            on_epoch: called with each epoch's record.

        Returns:
            Tokenizer: fitted; `history` holds a record an epoch.

        Raises:
            ValueError: no domain, an empty one, other widths, NaN; `directory` holds another run.
            TypeError: an entry is neither a tensor nor an array of floats.

        Source:
            UniTok, arXiv 2511.12922.
        """
        config = config or UniTokConfig()
        if not domains:
            checks.fail("fit", "domains", "at least one domain", 0, "Pass a dict of name -> embeddings.")
        parts = {name: _rows("fit", f"domains[{name!r}]", x) for name, x in domains.items()}
        first, width = next((name, x.shape[1]) for name, x in parts.items())
        for name, x in parts.items():
            checks.at_least("fit", f"domains[{name!r}]'s rows", len(x), 1, "Leave empty domains out.")
            checks.same("fit", f"domains[{name!r}]", x.shape[1], f"domains[{first!r}]", width, "width")
        x = torch.cat(list(parts.values()))
        labels = torch.repeat_interleave(torch.tensor([len(p) for p in parts.values()]))

        num_experts = len(parts) if config.num_experts is None else config.num_experts
        step = "Ask for fewer experts, or give more items."
        checks.at_least("fit", "the number of items", len(x), num_experts, step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = UniTokModel(width, num_experts, config)
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
        measured = {name: familiarity(tokenizer, rows) for name, rows in parts.items()}
        tokenizer.familiar = {name: figures for name, figures in measured.items() if figures is not None}
        return tokenizer

    @torch.no_grad()
    def tokenize(self, x: Rows, domain: str | None = None, *, embedding: EmbeddingInfo | None = None) -> SemanticIds:
        """Give each item its semantic ID; an item's ID depends on nothing but its own embedding and domain.

        Args:
            x: (N, D_in) float embeddings. N = 0 works.
            domain: a domain that the tokenizer knows; only those added with a new expert need to be named.
            embedding: what made x; refused where the tokenizer knows of another.

        Returns:
            SemanticIds: codes (N, L), experts (N, S), and shared codes (N, L) where the preset has a shared expert.

        Raises:
            ValueError: wrong width, NaN or infinity (with the row), unknown domain, other embedding model.
            TypeError: x is neither a tensor nor an array of floats.
        """
        self.check_embedding("tokenize", embedding)
        return self.encode(self._input("tokenize", x), domain).ids

    @torch.no_grad()
    def decode(self, ids: SemanticIds) -> Tensor:
        """Rebuild item embeddings from IDs.

        Args:
            ids: semantic IDs of this tokenizer; without shared codes or further slots the top expert stands in.

        Returns:
            Tensor: (N, D_in) float32.

        Raises:
            ValueError: the IDs are of another number of levels, codewords, experts or slots.
        """
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
            x: (N, D_in) embeddings of one domain, or a mapping of names to them; names that the tokenizer doesn't know
                go through its router.
            domain: the domain that x is of, where x isn't a mapping.

        Returns:
            Report: collisions, entropies, errors, router and codebook use, a domain and over all.

        Raises:
            ValueError: as `tokenize` does; no rows.
        """
        if domain is not None:
            self._known(domain)
        named = dict(x) if isinstance(x, Mapping) else {domain or "items": x}
        parts = {name: self._input("report", rows) for name, rows in named.items()}
        checks.at_least("report", "x's rows", sum(map(len, parts.values())), 1, "Give it items to measure.")
        known = {name: name if name in self.domains else None for name in parts}
        return make_report(self, parts, known)

    def check_domain(self, x: Rows, *, embedding: EmbeddingInfo | None = None) -> DomainCheck:
        """Say whether the IDs of an unseen catalogue will be any good: go or no-go, before it is tokenized.

        score = min over figures of the worst training domain's value / the catalogue's, at most 1. The figures are the
        shares of variance that the ID misses of latents and embeddings, collisions, and, the other way up, the router's
        confidence. It passes from .5 on; below, `advice` says whether `add_domain` will do.

        Args:
            x: (N, D_in) float embeddings of at least 32 distinct items; 2,048 of them are looked at.
            embedding: what made x.

        Returns:
            DomainCheck: score, threshold, figures and advice.

        Raises:
            ValueError: as `tokenize` does; too few items; the tokenizer was fitted on domains of too few items.
        """
        self.check_embedding("check_domain", embedding)
        return check_domain(self, self._input("check_domain", x), self.familiar)

    @torch.no_grad()
    def add_domain(
        self, name: str, x: Rows, mode: str = "new_expert", *, embedding: EmbeddingInfo | None = None
    ) -> None:
        """Let a new domain in without changing an ID that exists.

        "new_expert" clusters the domain's latents into codebooks of its own, which are reached only where the domain is
        named. "frozen" sends the domain through the router as it is. Encoder, router and old codebooks never change.

        Args:
            name: of the domain; a new one.
            x: (N, D_in) float embeddings, at least one row.
            mode: "new_expert" | "frozen".
            embedding: what made x.

        Raises:
            ValueError: the name is taken; x is empty or doesn't fit; the preset has no chains of its own an expert.
        """
        checks.one_of("add_domain", "mode", mode, ADD_MODES)
        self.check_embedding("add_domain", embedding)
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
        """Write weights (safetensors) and settings (JSON).

        Args:
            directory: is made where it is missing.
            force: replace a tokenizer that is already there.

        Raises:
            FileExistsError: a tokenizer is there and `force` is not given.
        """
        folder = Path(directory)
        if (folder / SETTINGS).exists() and not force:
            raise FileExistsError(
                f"save_pretrained: directory must hold no tokenizer yet, got {folder}. "
                "Choose another, or pass force=True."
            )
        settings = {
            "config": self.config.to_dict(),
            "input_dim": self.model.input_dim,
            "router_experts": self.model.routable_experts,
            "domains": [dataclasses.asdict(domain) for domain in self.domains.values()],
            "embedding": None if self.embedding is None else dataclasses.asdict(self.embedding),
            "history": self.history,
            "familiar": {name: dataclasses.asdict(figures) for name, figures in self.familiar.items()},
        }
        state = {name: value.cpu().contiguous().numpy() for name, value in self.model.state_dict().items()}
        write_pair(folder, state, settings)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Tokenizer:
        """Read what `save_pretrained` wrote.

        Args:
            directory: the folder.

        Returns:
            Tokenizer: gives the same IDs to the bit.

        Raises:
            FileNotFoundError: no tokenizer is there.
            ValueError: its files are broken, or of a later release.
        """
        folder = Path(directory)
        try:
            settings, arrays = read_pair("from_pretrained", folder)
            state = {name: torch.from_numpy(value) for name, value in arrays.items()}
            domains = [DomainInfo(**domain) for domain in settings["domains"]]
            embedding = settings["embedding"] and EmbeddingInfo(**settings["embedding"])
            config = UniTokConfig.from_dict(settings["config"])
            with torch.random.fork_rng(devices=[]):
                model = UniTokModel(settings["input_dim"], settings["router_experts"], config)
            grown, own = len(state["quantizer.codebooks"]), model.quantizer.codebooks  # by domains added
            model.quantizer.codebooks = nn.Parameter(own.new_empty(grown, *own.shape[1:]))
            model.mean_shared = model.mean_shared.new_empty(grown, model.mean_shared.shape[1])
            model.load_state_dict(state)
            tokenizer = cls(model, domains, embedding)
            tokenizer.history = settings["history"]
            familiar = settings.get("familiar", {})  # tokenizers of before have none
            tokenizer.familiar = {name: Familiarity(**figures) for name, figures in familiar.items()}
        except NOT_WHOLE as error:
            raise not_whole("from_pretrained", folder, error) from error
        return tokenizer

    def check_embedding(self, what: str, embedding: EmbeddingInfo | None) -> None:
        """Refuse embeddings that are known to come from another model or text template.

        Args:
            what: the operation that the message names.
            embedding: what made them, or None where nothing is known.

        Raises:
            ValueError: both are known and differ.
        """
        if embedding is not None and self.embedding is not None and embedding != self.embedding:
            step = "Embed the items as the tokenizer's were, or fit a new one."
            checks.fail(what, "embedding", str(self.embedding), embedding, step)

    def _input(self, what: str, x: Rows) -> Tensor:
        rows = _rows(what, "x", x)
        checks.same(what, "x", rows.shape[1], "the tokenizer", self.model.input_dim, "width")
        return rows

    @torch.no_grad()
    def encode(self, x: Tensor, domain: str | None) -> Encoded:
        """Encode, route and quantise items, each on its own.

        Args:
            x: (N, D_in) float32.
            domain: a domain that the tokenizer knows, or None.

        Returns:
            Encoded: IDs, latents and their approximation.

        Raises:
            ValueError: the domain is unknown.
        """
        z, logits = self.model.encode(x)
        routing = self.model.route(logits, z, None if logits is None else torch.from_numpy(softmax(logits.numpy())))
        expert = None if domain is None else self._known(domain).expert
        if expert is not None:  # its own expert takes the weight of all slots; the router's fill the others, unweighted
            own = torch.full_like(routing.experts[:, :1], expert)
            experts = torch.cat([own, routing.experts[:, :-1]], 1)
            weights = torch.zeros_like(routing.weights)
            weights[:, 0] = self.model.mean_weights.sum()
            routing = Routing(routing.probs, experts, weights)
        found = self.model.quantize(z, routing)
        ids = SemanticIds(
            codes=found.codes[:, 0],
            experts=routing.experts,
            codebook_size=self.config.codebook_size,
            num_experts=self.model.num_experts,
            shared_codes=found.shared_codes,
            slot_codes=found.codes if self.config.top_k > 1 else None,
            last_residual=self.model.last_residual(z, routing, found),
            last_codebooks=self.model.quantizer.codebooks[:, -1].detach().clone(),
        )
        return Encoded(ids, z, found.quantized)

    def _known(self, domain: str) -> DomainInfo:
        if domain not in self.domains:
            names = ", ".join(self.domains)
            checks.fail("tokenize", "domain", f"one of {names}", repr(domain), "Add it with add_domain.")
        return self.domains[domain]


def _rows(what: str, name: str, x: Rows) -> Tensor:
    if isinstance(x, np.ndarray):
        array = embeddings(what, name, x)
        return torch.from_numpy(array if array.flags.writeable else array.copy())  # what is mapped from a file is not
    checks.tensors(what, **{name: x})
    checks.floating(what, name, x, "(N, D_in)")
    rows = x.detach().float().cpu()
    checks.finite(what, name, rows, "Remove or repair that row.")
    return rows
