"""Tokenize with a saved tokenizer, without torch: needs only numpy, so a new process is ready at once.

    tokenizer = unitok.serving.load(directory, ids="ids.parquet")
    ids = tokenizer.tokenize(x, domain)              # of new items
    tokenizer.assigned.texts("beauty", [17, 18])     # of items in the table, as it has them
    tokenizer.assigned.items(["<a_1><b_7><c_0><f_0>"])
    tokenizer.decode(ids)

The IDs are those of `Tokenizer.from_pretrained(directory).tokenize(x, domain)`, as are those with views. The native
module must be built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unitok.config import PRESETS
from unitok.ids.lookup import AssignedTexts
from unitok.ids.text import read_tokens, token_text
from unitok.numerics import check_latents, embeddings, softmax, top_experts, vectors
from unitok.storage.layout import Fingerprint, checked_config, fingerprint_of
from unitok.storage.pair import read_pair
from unitok.storage.saved import NOT_WHOLE, TOKENIZER, not_whole
from unitok_kernels import rules
from unitok_kernels.numpy import encode, moe_encode, ordered_linear

__all__ = ["ItemIds", "ServingTokenizer", "load"]

_BLOCK_ROWS = 1024  # rows that are encoded at a time

Codes = NDArray[np.int64]
Floats = NDArray[np.float32]


class ItemIds(NamedTuple):
    """The semantic IDs of N items.

    Attributes:
        codes: (N, L), codes of the top expert, one per level.
        experts: (N, S), the routed experts, the top one first; zeros (N, 1) for a single codebook.
        shared_codes: (N, L), codes of the shared expert, or None if there is none.
        slot_codes: (N, S, L), codes of every routed expert, or None for S = 1.
    """

    codes: Codes
    experts: Codes
    shared_codes: Codes | None
    slot_codes: Codes | None

    def to_text(self) -> list[str]:
        """Write each ID as one string, as `SemanticIds.to_text` does: `<a_12><b_7><c_3><d_9><e_2>`.

        It has no suffix, which is given to an item when its ID is assigned: see `ServingTokenizer.assigned`.

        Returns:
            list[str]: N strings.
        """
        return token_text(np.concatenate([self.codes, self.experts[:, :1]], axis=1))


def load(directory: str | Path, *, threads: int | None = None, ids: str | Path | None = None) -> ServingTokenizer:
    """Read what `Tokenizer.save_pretrained` wrote.

    Args:
        directory: the folder.
        threads: number of threads; None uses OMP_NUM_THREADS, or every processor that this process may use.
        ids: the table that `unitok tokenize` wrote, for `ServingTokenizer.assigned`; reading it needs pyarrow.

    Returns:
        ServingTokenizer: ready to tokenize.

    Raises:
        FileNotFoundError: nothing is there, or one of its files is missing.
        ValueError: its files are broken, or of a later release; or the folder holds something else; or the table is
            damaged or of another tokenizer.
    """
    folder = Path(directory)
    rules.threads("load", threads)
    try:
        settings, state = read_pair("load", folder)
        tokenizer = ServingTokenizer(settings, state, threads)
    except NOT_WHOLE as error:
        raise not_whole("load", TOKENIZER, folder, error) from error
    if ids is not None:
        tokenizer.assigned = AssignedTexts.read(ids, tokenizer.fingerprint())
    return tokenizer


class ServingTokenizer:
    """Turns item embeddings into semantic IDs. Made by `load`.

    Args:
        settings: the settings of the saved tokenizer.
        state: its weights by name.
        threads: as in `load`.

    Attributes:
        domains: the names of the domains that it knows.
        assigned: the IDs of items as a table has them, and the items of IDs; None if none was loaded.

    Raises:
        ValueError: the weights aren't those that the settings describe.

    Source:
        UniTok, arXiv 2511.12922.
    """

    assigned: AssignedTexts | None = None

    def __init__(self, settings: dict[str, Any], state: dict[str, NDArray[Any]], threads: int | None) -> None:
        self.config, self.threads = checked_config(settings, state), threads
        self.preset = PRESETS[self.config.preset]
        self.experts = {domain["name"]: domain["expert"] for domain in settings["domains"]}  # own ones of those added
        self.domains = tuple(self.experts)
        self.input_dim, self._state = settings["input_dim"], state

        def layer(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
            return state[f"{name}.weight"], state[f"{name}.bias"]

        depths = range(len(self.config.encoder_widths) + 1)
        self.encoder, self.decoder = (
            [layer(f"{part}.{2 * depth}") for depth in depths] for part in ("encoder", "decoder")
        )
        self.views = {each["domain"]: (place, each["views"]) for place, each in enumerate(settings.get("views", ()))}
        self.router = layer("router") if "router.weight" in state else None
        self.codebooks = state["quantizer.codebooks"]
        self.shared_codebooks = state.get("quantizer.shared_codebooks")

    def tokenize(
        self, x: NDArray[Any], domain: str | None = None, *, views: Mapping[str, NDArray[Any]] | None = None
    ) -> ItemIds:
        """Give each item its semantic ID, which depends only on its own embedding and vectors, and its domain.

        Args:
            x: (N, D_in) float16, float32 or float64 embeddings. N = 0 works.
            domain: a domain that the tokenizer knows; needed only for domains that were added with a new expert or
                fitted with views.
            views: name of the view -> (N, B) float vectors of the items; rows of NaN for items that have none.

        Returns:
            ItemIds: codes (N, L), experts (N, S), and shared codes (N, L) where the preset has a shared expert.

        Raises:
            ValueError: wrong width, NaN or infinity (with the row), unknown domain, or a view that the tokenizer or the
                domain wasn't fitted with.
            TypeError: x isn't an array of floats.
        """
        rows = embeddings("tokenize", "x", x)
        rules.same("tokenize", "x", rows.shape[1], "the tokenizer", self.input_dim, "width")
        if domain is not None and domain not in self.experts:
            known = ", ".join(self.experts)
            rules.fail("tokenize", "domain", f"one of {known}", repr(domain), "Add it with Tokenizer.add_domain.")
        if not isinstance(views, Mapping | None):
            rule, got = "a mapping of names", type(views).__name__
            rules.fail("tokenize", "views", rule, got, "Pass {name: (N, B) array}.", TypeError)
        beside = self._beside(views or {}, len(rows), domain)
        z = self._latents(rows)
        if self.router is None:
            return self._items(np.zeros((len(z), 1), np.int64), z, None)
        logits = ordered_linear(z, *self.router, threads=self.threads)
        experts = top_experts(logits, self.config.top_k)
        own = None if domain is None else self.experts[domain]
        if own is not None:  # the router's choices fill the other slots
            experts = np.concatenate([np.full_like(experts[:, :1], own), experts[:, :-1]], axis=1)
        if self.preset.dense:
            return self._item_ids(experts, *self._dense(z, experts, softmax(logits).astype(np.float32)))
        if self.preset.shared == "parallel":
            residual, found = z, self._items(experts, z, self.shared_codebooks)
        else:
            assert self.shared_codebooks is not None
            shared = encode(z, self.shared_codebooks, threads=self.threads)
            residual = z - shared.quantized
            found = self._items(experts, residual, None)._replace(shared_codes=shared.codes)
        if beside is None:
            return found
        columns, codebooks = beside
        whole = np.concatenate([self.codebooks[own], codebooks], axis=2)
        codes = encode(np.concatenate([residual, columns], axis=1), whole, threads=self.threads).codes
        if found.slot_codes is not None:
            found.slot_codes[:, 0] = codes
        return found._replace(codes=codes)

    def fingerprint(self) -> Fingerprint:
        """Identify the tokenizer by digests of its weights, as `Tokenizer.fingerprint` does.

        Returns:
            dict: see `Tokenizer.fingerprint`.
        """
        return fingerprint_of(self.config, self._state)

    def decode(self, ids: ItemIds | Sequence[str]) -> Floats:
        """Rebuild item embeddings from IDs, as `Tokenizer.decode` does, up to the rounding of sums.

        Args:
            ids: what `tokenize` gave, or the texts of IDs, whose suffix is ignored.

        Returns:
            ndarray: (N, D_in) float32.

        Raises:
            ValueError: a text isn't an ID of this tokenizer.
            TypeError: they are no IDs.
        """
        return self._through(self.decoder, self._quantized(self._as_ids(ids)))

    def _as_ids(self, ids: ItemIds | Sequence[str]) -> ItemIds:
        if isinstance(ids, ItemIds):
            return ids
        if not isinstance(ids, list | tuple) or not all(isinstance(text, str) for text in ids):
            step = "Pass what tokenize() gave, or a list of texts."
            rules.fail("decode", "ids", "ItemIds, or a list of their texts", type(ids).__name__, step, TypeError)
        levels = self.config.num_levels
        suffixed = bool(ids) and ids[0].count("<") == levels + 2
        tokens = read_tokens("decode", ids, levels + 1 + suffixed)[:, : levels + 1]
        most = np.array([self.config.codebook_size] * levels + [len(self.codebooks)])
        if (odd := np.flatnonzero((tokens >= most).any(1))).size:
            got = f"{ids[odd[0]]!r} in row {odd[0]}"
            rules.fail("decode", "ids", f"of codes below {most[0]} and experts below {most[-1]}", got, "Check them.")
        return ItemIds(tokens[:, :levels], tokens[:, levels:], None, None)

    def _quantized(self, ids: ItemIds) -> Floats:
        """z_hat of IDs; `unitok.model.network.UniTokModel.latents` says what stands for what they don't contain."""

        def chain(codes: Codes, experts: Codes) -> Floats:
            found = self.codebooks[experts[:, None], np.arange(codes.shape[1]), codes]
            return np.asarray(found.sum(1, dtype=np.float32))

        def shared_chain(codes: Codes, codebooks: Floats) -> Floats:
            return np.asarray(codebooks[np.arange(codes.shape[1]), codes].sum(1, dtype=np.float32))

        weights, experts = self._state["mean_weights"], ids.experts
        top = chain(ids.codes, experts[:, 0])
        routed = weights.sum() * top
        if ids.slot_codes is not None:
            slots = range(ids.slot_codes.shape[1])
            mixed = sum(weights[slot] * chain(ids.slot_codes[:, slot], experts[:, slot]) for slot in slots)
            added = experts[:, :1] >= (0 if self.router is None else len(self.router[0]))
            routed = np.where(added & (self.router is not None), routed, mixed)
        if self.shared_codebooks is None:
            return routed
        told = ids.shared_codes is not None
        shared = shared_chain(ids.shared_codes, self.shared_codebooks) if ids.shared_codes is not None else top
        if self.preset.shared == "first":
            return routed + (shared if told else self._state["mean_shared"][experts[:, 0]])
        return np.asarray(routed + self.preset.shared_weight * shared)

    def _beside(
        self, given: Mapping[str, NDArray[Any]], count: int, domain: str | None
    ) -> tuple[Floats, Floats] | None:
        """What stands beside latents and codewords of a domain that has views; see `unitok.model.views.DomainViews`."""
        place, views = self.views.get(domain, (0, []))
        widths = {view["name"]: view["width"] for view in views}
        if unknown := [name for name in given if name not in widths]:
            rule = f"of those that the domain was fitted with ({', '.join(widths) or 'none'})"
            got = f"{unknown[0]!r} of {domain!r}"
            rules.fail("tokenize", "views", rule, got, "Name the domain, or leave the view out.")
        if not views:
            return None
        parts = [
            vectors("tokenize", f"views[{name!r}]", given[name], count, width)
            if name in given
            else np.full((count, width), np.nan, np.float32)
            for name, width in widths.items()
        ]
        means, scales, codebooks = (self._state[f"views.{place}.{name}"] for name in ("means", "scales", "codebooks"))
        return np.nan_to_num((np.concatenate(parts, axis=1) - means) * scales, nan=0.0), codebooks

    def _latents(self, rows: Floats) -> Floats:
        z = self._through(self.encoder, rows)
        check_latents("tokenize", z)
        return z

    def _through(self, layers: list[tuple[NDArray[Any], NDArray[Any]]], rows: Floats) -> Floats:
        """Send rows through an MLP, block by block."""
        found = np.empty((len(rows), len(layers[-1][1])), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            hidden: NDArray[Any] = rows[start : start + _BLOCK_ROWS]
            for depth, layer in enumerate(layers, 1):
                hidden = ordered_linear(hidden, *layer, relu=depth < len(layers), threads=self.threads)
            with np.errstate(over="ignore"):  # the caller checks
                found[start : start + _BLOCK_ROWS] = hidden
        return found

    def _dense(self, z: Floats, experts: Codes, probs: Floats) -> tuple[Codes, Codes]:
        """The chain of `unitok.model.mixture.DenseMixtureVQ`: slot codes (N, S, L) and shared codes (N, L)."""
        assert self.shared_codebooks is not None
        emitted, shared_codes = [], []
        for level, shared in enumerate(self.shared_codebooks):
            shared_codes.append(encode(z, shared[None], threads=self.threads).codes[:, 0])
            mixture, codes = self.preset.shared_weight * shared[shared_codes[-1]], []
            for expert, codebook in enumerate(self.codebooks[:, level]):
                codes.append(encode(z, codebook[None], threads=self.threads).codes[:, 0])
                mixture = mixture + self.preset.routed_scale * probs[:, expert, None] * codebook[codes[-1]]
            emitted.append(np.take_along_axis(np.stack(codes, 1), experts, 1))
            z = z - mixture
        return np.stack(emitted, 2), np.stack(shared_codes, 1)

    def _items(self, experts: Codes, z: Floats, shared_codebooks: Floats | None) -> ItemIds:
        weights = np.ones(experts.shape, np.float32)  # unused: they matter only for the sum
        found = moe_encode(z, self.codebooks, experts, weights, shared_codebooks, threads=self.threads)
        return self._item_ids(experts, found.codes, found.shared_codes)

    def _item_ids(self, experts: Codes, codes: Codes, shared_codes: Codes | None) -> ItemIds:
        return ItemIds(codes[:, 0], experts, shared_codes, codes if self.config.top_k > 1 else None)
