"""Beam search that can only spell items: every step looks up the children of its prefixes in the trie's arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unitok.trie import PrefixTrie

_LOW = (1 << 32) - 1


class Beams(NamedTuple):
    """The W best prefixes of each of B queries, best first.

    Attributes:
        scores: (B, W) float32, log-probabilities; -inf where there is no further prefix.
        nodes: (B, W) int64, of the trie.
        tokens: (B, W) int64, the last token of each.
        parents: (B, W) int64, which beam each came from.
    """

    scores: Tensor
    nodes: Tensor
    tokens: Tensor
    parents: Tensor


@dataclass(frozen=True, eq=False)
class TrieSearch:
    """A prefix trie on a device; `TrieSearch.build` makes one.

    Args:
        offsets: (nodes + 1,) int64, as `PrefixTrie` has them.
        tokens: (nodes - 1,) int64, likewise.
        names: (leaves,) int64, what each leaf is called.
    """

    offsets: Tensor
    tokens: Tensor
    names: Tensor

    @classmethod
    def build(cls, tokens: Tensor, names: Tensor, device: torch.device) -> TrieSearch:
        """Build the trie of (N, T) tokens, items of equal tokens being of equal name, (N,)."""
        trie = PrefixTrie.build(tokens)
        first = trie.row_order[trie.row_starts[trie.depth_starts[-2] :]].astype(np.int64)
        arrays = (torch.from_numpy(array.astype(np.int64)) for array in (trie.offsets, trie.tokens))
        return cls(*(tensor.to(device) for tensor in (*arrays, names[torch.from_numpy(first)])))

    def begin(self, queries: int) -> Beams:
        """Give every query the empty prefix."""
        nothing = self.tokens.new_zeros(queries, 1)
        return Beams(torch.zeros_like(nothing, dtype=torch.float32), nothing, nothing, nothing)

    def advance(self, beams: Beams, logits: Tensor, width: int) -> Beams:
        """Keep each query's best prefixes that are one token longer.

        score(prefix, token) = score(prefix) + log_softmax(logits)[token], the softmax over the whole vocabulary, as in
        transformers' `generate` with `prefix_allowed_tokens_fn`; ties take the lexicographically first prefix. What may
        follow is a ragged list, of the size of the trie's nodes and not of the vocabulary.

        Args:
            beams: (B, W) prefixes.
            logits: (B, W, V) of what follows each.
            width: how many to keep at most.

        Returns:
            (B, at most width) prefixes.
        """
        num_beams, nodes = beams.nodes.shape[1], beams.nodes.flatten()
        logits = logits.flatten(0, 1).float()
        first = self.offsets[nodes]
        fan_out = torch.where(beams.scores.flatten().isfinite(), self.offsets[nodes + 1] - first, 0)
        beam, place = _ragged(fan_out)
        edge = first[beam] + place
        base = beams.scores.flatten() - logits.logsumexp(1)
        score = base[beam] + logits[beam, self.tokens[edge]]
        # One integer a candidate, ordered by score and then by the trie: no two are equal, so there is one order.
        key = (_ordered(score) << 32) | (_LOW - edge)
        query, place = _ragged(fan_out.view(-1, num_beams).sum(1))
        table = key.new_full((len(beams.nodes), int(place.max()) + 1), torch.iinfo(torch.int64).min)
        table[query, place] = key
        best, chosen = table.topk(min(width, table.shape[1]), sorted=True)
        found = best > torch.iinfo(torch.int64).min
        edge = torch.where(found, _LOW - (best & _LOW), 0)
        came_from = torch.zeros_like(table)
        came_from[query, place] = beam % num_beams
        return Beams(
            torch.where(found, _score(best >> 32), -torch.inf),
            edge + 1,  # edge j leads to node j + 1
            self.tokens[edge],
            came_from.gather(1, chosen),
        )

    def named(self, beams: Beams, k: int) -> Tensor:
        """Name the leaves that the beams have come to, (B, k) int64; -1 where there are fewer."""
        leaf = beams.nodes[:, :k] - (len(self.offsets) - 1 - len(self.names))
        found = beams.scores[:, :k].isfinite()
        names = torch.where(found, self.names[torch.where(found, leaf, 0)], -1)
        return torch.nn.functional.pad(names, (0, k - names.shape[1]), value=-1)


def _ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Number the entries of rows of these lengths, laid end to end: (row, place in it) of each."""
    row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return row, torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]


def _ordered(score: Tensor) -> Tensor:
    """Map float32 to int64 in the same order: the bits of a negative number but the sign are turned round."""
    bits = score.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _score(ordered: Tensor) -> Tensor:
    """Undo `_ordered`."""
    bits = ordered.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
