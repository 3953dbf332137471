"""The trie of items on a device: the loss of a path through it, and a beam search that can only produce items.

Probabilities are over the catalogue: the next token is a softmax over the children of the prefix. So the probabilities
of all items sum to 1, and a step with only one child costs nothing, neither in training nor in the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.ids.trie import PrefixTrie
from unitok_kernels import checks
from unitok_kernels.rules import fail

# (tokens (B, W), where in the cache their ancestors and they are (B, W, depth), mask (B, 1, W, cached) to add)
# -> logits (B, W, V) of what follows each
Step = Callable[[Tensor, Tensor, Tensor], Tensor]

_LOW = (1 << 32) - 1
_NONE = torch.iinfo(torch.int64).min


def check_spans(items: object) -> None:
    """Refuse what a loss can't be of by its type and shape alone, which costs no wait for a GPU.

    Raises:
        TypeError: no tensor.
        ValueError: another dtype or shape than (B, H) int64.
    """
    checks.tensors("loss", items=items)
    assert isinstance(items, Tensor)
    if items.ndim != 2 or items.dtype != torch.int64:
        got = f"{items.dtype} of shape {tuple(items.shape)}"
        fail("loss", "items", "(B, H) int64", got, "Pad spans of histories on the right with -1.")


class Beams(NamedTuple):
    """The W best prefixes of each of B queries, best first.

    Attributes:
        scores: (B, W) float32, log-probabilities; -inf where there is no further prefix.
        nodes: (B, W) int64, of the trie; a leaf as soon as there is no choice left.
        tokens: (B, W) int64, the last token of each.
        parents: (B, W) int64, the beam that each one extends.
    """

    scores: Tensor
    nodes: Tensor
    tokens: Tensor
    parents: Tensor


@dataclass(frozen=True, eq=False)
class CatalogueTrie:
    """A prefix trie on a device; `CatalogueTrie.build` makes one.

    Attributes:
        offsets: (nodes + 1,) int64; the edges of node v are offsets[v] .. offsets[v + 1]; edge j leads to node j + 1.
        tokens: (nodes - 1,) int64, the token of each edge.
        ends: (nodes,) int64, the leaf that a node leads to without a choice, or the node itself.
        paths: (N, T + 1) int64, each row's node at each depth.
        names: (leaves,) int64, the name of each leaf; the leaves are the last nodes.
        below: (nodes, 2) int64, the leaves below each node: from the one number, up to before the other.
    """

    offsets: Tensor
    tokens: Tensor
    ends: Tensor
    paths: Tensor
    names: Tensor
    below: Tensor

    @classmethod
    def build(cls, tokens: Tensor, names: Tensor, device: torch.device) -> CatalogueTrie:
        """Build the trie of (N, T) tokens, items of equal tokens being of equal name, (N,)."""
        trie = PrefixTrie.build(tokens)
        starts, depths, rows = trie.row_starts.astype(np.int64), trie.depth_starts, len(tokens)
        stops = np.append(starts[1:], 0)
        stops[depths[1:] - 1] = rows  # the last node of each depth
        leaves = starts[depths[-2] :]
        leaf = np.searchsorted(leaves, starts, side="right") - 1
        end = np.searchsorted(leaves, stops - 1, side="right")
        place = np.empty(rows, dtype=np.int64)
        place[trie.row_order] = np.arange(rows)
        levels = pairwise(depths)
        paths = [low + np.searchsorted(starts[low:high], place, side="right") - 1 for low, high in levels]
        arrays = {
            "offsets": trie.offsets.astype(np.int64),
            "tokens": trie.tokens.astype(np.int64),
            "ends": np.where(leaf == end - 1, depths[-2] + leaf, np.arange(len(starts))),
            "paths": np.stack(paths, 1),
            "names": names.numpy()[trie.row_order[leaves]],
            "below": np.stack([leaf, end], 1),
        }
        return cls(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})

    @property
    def fan_out(self) -> Tensor:
        """The children of each node."""
        return self.offsets.diff()

    def loss(self, logits: Tensor, nodes: Tensor, children: Tensor, first: int = 0) -> Tensor:
        """Sum the negative log-probabilities of going from nodes to their children.

        sum_p log sum_c exp(logits[p, token of c]) - logits[p, token of children[p]], c over the children of nodes[p].

        Args:
            logits: (P, V), or of as many tokens as can follow.
            nodes: (P,) int64.
            children: (P,) int64.
            first: the token that the logits begin with.

        Returns:
            The sum, nats.
        """
        # The root has most children by far, and every item passes it: a dense softmax over them.
        root, inner = nodes == 0, nodes != 0
        total = logits.new_zeros((), dtype=torch.float32)
        if root.any():
            chosen = logits[root][:, self.tokens[: int(self.offsets[1])] - first]
            total = F.cross_entropy(chosen.float(), children[root] - 1, reduction="sum")
        if not inner.any():  # one token an item
            return total
        logits, edge = logits[inner].float(), children[inner] - 1
        normaliser = self._children(logits, nodes[inner], first=first)[2]
        wanted = logits.gather(1, self.tokens[edge][:, None] - first)[:, 0]
        return total + (normaliser - wanted).sum()

    def begin(self, queries: int, excluded: Excluded | None = None) -> Beams:
        """Start every query with the empty prefix, if an item may be named."""
        nothing = self.ends.new_zeros(queries, 1)
        scores = torch.zeros_like(nothing, dtype=torch.float32)
        if excluded is not None:
            every = torch.arange(queries, device=nothing.device)[:, None]
            scores = scores.masked_fill(excluded.covers(every, self.below[nothing]), -torch.inf)
        return Beams(scores, self.ends[nothing], nothing, nothing)

    def unfinished(self, beams: Beams) -> Tensor:
        """Which beams have several possible continuations, (B, W) bool."""
        return beams.scores.isfinite() & (beams.nodes < self.first_leaf)

    def advance(
        self, beams: Beams, going: Tensor, logits: Tensor, width: int, excluded: Excluded | None = None
    ) -> Beams:
        """Keep each query's best prefixes, of those that are finished and those that are one token longer.

        score(prefix, token) = score(prefix) + logits[token] - log sum_c exp(logits[c]), c over the prefix's children,
        as in transformers' `generate` with `prefix_allowed_tokens_fn` and `renormalize_logits`. What may follow is a
        ragged list, of the size of the nodes and not of the vocabulary. Equal scores take the first node.

        A prefix is dropped at once if all items below it are excluded. So each prefix that is kept leads to an item
        that may be named, and `width` items are found if there are as many. Scores stay what they are without: excluded
        items keep their probabilities, and take no place.

        Args:
            beams: (B, W) prefixes.
            going: (B, G) int64, the beams that `logits` are of: all unfinished ones, and others to fill up.
            logits: (B, G, V) of what follows each.
            width: how many to keep at most.
            excluded: the leaves that each query must not reach; None excludes none.

        Returns:
            (B, at most width) prefixes.
        """
        queries, count = going.shape
        open_ = self.unfinished(beams)
        flat = logits.flatten(0, 1)
        beam, edge, normaliser = self._children(
            flat, beams.nodes.gather(1, going).flatten(), open_.gather(1, going).flatten()
        )
        base = beams.scores.gather(1, going).flatten() - normaliser
        longer = order_key(base[beam] + flat[beam, self.tokens[edge]].float(), edge + 1)
        query = beam // count
        if excluded is not None:
            longer = longer.masked_fill(excluded.covers(query, self.below[edge + 1]), _NONE)
        sizes = torch.bincount(query, minlength=queries)
        place = torch.arange(len(beam), device=beam.device) - (sizes.cumsum(0) - sizes)[query]
        table = beam.new_full((queries, int(sizes.max()) if len(beam) else 0), _NONE)
        origin = torch.zeros_like(table)
        table[query, place], origin[query, place] = longer, beam % count
        done = order_key(beams.scores, beams.nodes).where(beams.scores.isfinite() & ~open_, _NONE)
        best, chosen = torch.cat([table, done], 1).topk(min(width, table.shape[1] + done.shape[1]))
        found = best != _NONE
        node = (_LOW - (best & _LOW)).where(found, 1)
        return Beams(
            _score(best).where(found, -torch.inf),
            self.ends[node],
            self.tokens[node - 1],
            F.pad(origin, (0, done.shape[1])).gather(1, chosen),
        )

    def named(self, beams: Beams, k: int) -> Tensor:
        """Return the names of the beams' leaves, (B, k) int64; -1 if there are fewer."""
        leaf = (beams.nodes[:, :k] - self.first_leaf).clamp(min=0)
        names = self.names[leaf].where(beams.scores[:, :k].isfinite(), -1)
        return F.pad(names, (0, k - names.shape[1]), value=-1)

    @property
    def first_leaf(self) -> int:
        """The number of the first leaf: all nodes from it on are leaves."""
        return len(self.ends) - len(self.names)

    def _children(
        self, logits: Tensor, nodes: Tensor, wanted: Tensor | None = None, first: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """List the edges of each node (those of `wanted` alone): (row, edge) of each, and the rows' log-sum-exp."""
        fan_out = self.offsets[nodes + 1] - self.offsets[nodes]
        if wanted is not None:
            fan_out = fan_out.where(wanted, 0)
        row = torch.arange(len(nodes), device=nodes.device).repeat_interleave(fan_out)
        ends = fan_out.cumsum(0)
        edge = torch.arange(len(row), device=nodes.device) + (self.offsets[nodes] - (ends - fan_out))[row]
        value = logits[row, self.tokens[edge] - first].float()
        highest = torch.segment_reduce(value.detach(), "max", lengths=fan_out)
        total = torch.segment_reduce((value - highest[row]).exp(), "sum", lengths=fan_out)
        return row, edge, total.log() + highest


@dataclass(frozen=True, eq=False)
class Excluded:
    """The leaves that each of B queries must not reach: those all of whose items are excluded.

    Attributes:
        leaf_of: (N,) int64, the leaf of each item; -1 if the item isn't in the trie.
        left: (leaves,) int64, the items of each leaf that are not excluded for all queries.
        common: (leaves + 1,) int64, how many leaves before each one are excluded for all queries.
        own: (M,) int64, ascending, query * leaves + leaf: those that are excluded for a query besides.
    """

    leaf_of: Tensor
    left: Tensor
    common: Tensor
    own: Tensor

    @classmethod
    def of(cls, trie: CatalogueTrie, rows: Tensor | None, excluded: Tensor) -> Excluded:
        """Exclude items for all queries.

        Args:
            trie: of the items that are ranked.
            rows: their numbers; None if all are ranked.
            excluded: (N,) bool, which of all items are excluded.

        Returns:
            What is excluded, without any query's own.
        """
        device = trie.paths.device
        leaf_of = torch.full(excluded.shape, -1, device=device)
        leaf_of[slice(None) if rows is None else rows.to(device)] = trie.paths[:, -1] - trie.first_leaf
        kept = (leaf_of >= 0) & ~excluded.to(device)
        left = torch.bincount(leaf_of[kept], minlength=len(trie.names))
        leaf_of = leaf_of.where(kept, -1)
        return cls(leaf_of, left, F.pad((left == 0).cumsum(0), (1, 0)), leaf_of[:0])

    def after(self, seen: Tensor) -> Excluded:
        """Exclude a query's own items as well: (B, S) int64, -1 for none."""
        items, leaves = len(self.leaf_of), len(self.left)
        query = torch.arange(len(seen), device=seen.device)[:, None].expand_as(seen)
        pairs = (query * items + seen)[seen >= 0].unique()  # an item that was met twice counts once
        leaf = self.leaf_of[pairs % items]
        own, count = ((pairs // items) * leaves + leaf)[leaf >= 0].unique(return_counts=True)
        return replace(self, own=own[count == self.left[own % leaves]])

    def covers(self, query: Tensor, below: Tensor) -> Tensor:
        """Tell whether all leaves from below[..., 0] up to before below[..., 1] are excluded for query (...)."""
        places = query[..., None] * len(self.left) + below
        count = self.common[below] + torch.searchsorted(self.own, places)
        dead: Tensor = count.diff(dim=-1)[..., 0] == below.diff(dim=-1)[..., 0]
        return dead


def order_key(score: Tensor, node: Tensor) -> Tensor:
    """Make one integer that orders by score and then by node: no two are equal, so that there is one order."""
    bits = score.contiguous().view(torch.int32)
    # The bits of floats in their order as integers: those of a negative number, but for the sign, are turned round.
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | (_LOW - node)


def _score(key: Tensor) -> Tensor:
    bits = (key >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
