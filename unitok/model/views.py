"""Views: vectors of a domain's items beside their embeddings, such as of behaviour, and the expert that quantises both.

Without the domain's name an item goes the way of its embedding alone, as if there were no views.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

_MOST = 1e24  # one over the variance below which vectors are taken for equal: then they tell nothing


class Beside(NamedTuple):
    """What stands beside the latents of N rows, and beside the codewords of their domain's expert.

    Attributes:
        columns: (N, W) float32, 0 where a row has no vector.
        codebooks: (L, K, W) float32.
    """

    columns: Tensor
    codebooks: Tensor


class DomainViews(nn.Module):
    """The views of one domain.

    An item is the row [z, s (b - m)]: latents, then the vector of each view, with mean m and scale s of its own; 0 in
    the place of a vector that the item doesn't have. The domain's own expert quantises such rows. The first D columns
    of its codewords are in the model's quantizer, so that its IDs are decoded as all others are; the rest is here.

    Args:
        domain: the domain's name.
        widths: name of each view -> B, width of its vectors.
        num_levels: L.
        codebook_size: K.
    """

    def __init__(self, domain: str, widths: Mapping[str, int], num_levels: int, codebook_size: int) -> None:
        super().__init__()
        self.domain, self.widths = domain, dict(widths)
        width = sum(self.widths.values())
        self.codebooks: Tensor
        self.means: Tensor
        self.scales: Tensor
        self.register_buffer("codebooks", torch.zeros(num_levels, codebook_size, width))
        self.register_buffer("means", torch.zeros(width))
        self.register_buffer("scales", torch.ones(width))

        # Vectors by the keys of their items, in ascending order; NaN where an item has none.
        self.keys: Tensor
        self.vectors: Tensor
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros(0, width))

    def joined(self, vectors: Mapping[str, Tensor], count: int) -> Tensor:
        """Put the vectors of all views side by side: (N, W) float32, NaN where there are none."""
        absent = torch.full((count, 1), torch.nan)
        return torch.cat([vectors.get(name, absent.expand(-1, width)) for name, width in self.widths.items()], 1)

    def parted(self, columns: Tensor) -> dict[str, Tensor]:
        """Undo `joined`."""
        return dict(zip(self.widths, columns.split(list(self.widths.values()), 1), strict=True))

    def beside(self, vectors: Tensor) -> Beside:
        """Return what stands beside the latents: (N, W), as `joined` gives it."""
        return Beside(((vectors - self.means) * self.scales).nan_to_num(nan=0.0), self.codebooks)

    @torch.no_grad()
    def measure(self, rows: Tensor, vectors: Tensor, weight: float) -> None:
        """Set means and scales, so that the vectors of each view vary `weight` times as much as the latents do.

        Args:
            rows: (N, D) float32, what the expert quantises beside the vectors.
            vectors: (N, W) float32, as `joined` gives them.
            weight: above 0.
        """
        means, scales, wanted = [], [], weight * _variance(rows)
        for given in self.parted(vectors).values():
            known = given[~given.isnan().any(1)]
            means.append(known.double().mean(0).float())
            ratio = wanted / _variance(known)
            scales.append(ratio.sqrt().where(ratio < _MOST * wanted, 0).expand(known.shape[1]))
        self.means, self.scales = torch.cat(means), torch.cat(scales).float()

    def remember(self, keys: Tensor, vectors: Tensor) -> None:
        """Keep vectors of items by their keys; a view's vector that is kept already is replaced by another, not by NaN.

        Args:
            keys: (M,) int64, each once.
            vectors: (M, W) float32, as `joined` gives them; items without any are left out.
        """
        kept = ~vectors.isnan().all(1)
        keys, vectors = keys[kept], vectors[kept]
        vectors = vectors.where(~vectors.isnan(), self.recall(keys))
        others = ~torch.isin(self.keys, keys)
        every = torch.cat([self.keys[others], keys])
        order = every.argsort()
        self.keys, self.vectors = every[order], torch.cat([self.vectors[others], vectors])[order]

    def recall(self, keys: Tensor) -> Tensor:
        """Return the vectors of items: (N, W), NaN where none are kept."""
        found = torch.full((len(keys), len(self.means)), torch.nan)
        if len(self.keys):
            place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
            known = self.keys[place] == keys
            found[known] = self.vectors[place[known]]
        return found


def _variance(rows: Tensor) -> Tensor:
    rows = rows.double()
    return (rows - rows.mean(0)).square().sum(1).mean()
