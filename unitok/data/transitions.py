"""Vectors of items by what users do: items that follow each other in histories lie near each other."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok_kernels import checks
from unitok_kernels.rules import at_least, fail

_REACH, _DECAY = 5, 0.7  # places that a transition spans at most, and how it counts less with each
_SPARE, _ROUNDS = 16, 4  # of the search for the eigenvectors; more rounds change no ranking by them


class Split(Protocol):
    """Histories that can leave out what is for validation and test, as `unitok.recommender.Histories` can."""

    @property
    def offsets(self) -> Tensor:
        """(U + 1,) int64; the items of user u are offsets[u] .. offsets[u + 1]."""

    @property
    def items(self) -> Tensor:
        """(M,) int64, rows of items, in order of time."""

    def training(self) -> Split:
        """Leave out the last two items of every user."""


def behaviour(histories: Split, num_items: int, *, width: int = 64) -> Tensor:
    """Make vectors of items from the transitions between them in users' histories.

    T[a, b] = sum of .7^(d - 1) over the times that a and b stood d <= 5 places apart, in either order;
    PPMI[a, b] = max(0, log(T[a, b] sum T / (n_a n_b))), n_a = sum_b T[a, b]. An item's vector is its row of PPMI in the
    directions of the `width` eigenvalues that are largest in size, scaled to length 1.

    Only what `histories.training()` keeps counts, so that no vector knows a target of validation or test.

    Args:
        histories: of all users, whole.
        num_items: N.
        width: B, width of the vectors; where there are fewer items, columns of 0 fill it.

    Returns:
        Tensor: (N, B) float32; rows of NaN for items without any transition. Equal histories give equal vectors to the
        bit, on one machine and number of threads.

    Raises:
        TypeError: no histories, or no whole numbers.
        ValueError: histories of other items, or a width below 1.

    Source:
        Levy and Goldberg, "Neural word embedding as implicit matrix factorization", 2014; Halko et al., "Finding
        structure with randomness", 2011, for the eigenvectors.
    """
    if not hasattr(histories, "training"):
        got = type(histories).__name__
        fail("behaviour", "histories", "Histories", got, "Make them with Histories.of.", TypeError)
    checks.whole("behaviour", num_items=num_items, width=width)
    at_least("behaviour", "width", width, 1, "Use 64.")
    kept = histories.training()
    if not num_items and not len(kept.items):
        return torch.zeros(0, width)
    if len(kept.items) and not 0 <= int(kept.items.min()) <= int(kept.items.max()) < num_items:
        rule, got = f"of items in [0, {num_items})", f"{int(kept.items.min())} to {int(kept.items.max())}"
        fail("behaviour", "histories", rule, got, "Pass the number of all items.")
    table = _transitions(kept, num_items)
    met = torch.sparse.sum(table, 1).to_dense()
    found = _main_directions(_ppmi(table, met), min(width, num_items))
    found = F.pad(F.normalize(found, dim=1), (0, width - found.shape[1])).float()
    return found.masked_fill((met == 0)[:, None], torch.nan)


def _matrix(cells: Tensor, values: Tensor, size: int) -> Tensor:
    """A square matrix by its entries, each at row * size + column; those of one cell are added."""
    cell, entry = cells.unique(return_inverse=True)
    total = values.new_zeros(len(cell)).index_add_(0, entry, values)
    places = torch.stack([cell // size, cell % size])
    return torch.sparse_coo_tensor(places, total, (size, size), is_coalesced=True, check_invariants=False)


def _transitions(histories: Split, num_items: int) -> Tensor:
    user = torch.arange(len(histories.offsets) - 1).repeat_interleave(histories.offsets.diff())
    cells, weights = [], []
    for span in range(1, _REACH + 1):
        a, b = histories.items[:-span], histories.items[span:]
        told = (user[span:] == user[:-span]) & (a != b)
        cells += [(a * num_items + b)[told], (b * num_items + a)[told]]
        weights.append(torch.full((2 * int(told.sum()),), _DECAY ** (span - 1), dtype=torch.float64))
    return _matrix(torch.cat(cells), torch.cat(weights), num_items)


def _ppmi(table: Tensor, met: Tensor) -> Tensor:
    (rows, columns), values = table.indices(), table.values()
    found = (values.log() + met.sum().log() - met[rows].log() - met[columns].log()).clamp(min=0)
    return torch.sparse_coo_tensor(table.indices(), found, table.shape, is_coalesced=True, check_invariants=False)


def _main_directions(matrix: Tensor, width: int) -> Tensor:
    """The rows of a symmetric matrix in the directions of its largest eigenvalues in size, each with a fixed sign."""
    generator = torch.Generator().manual_seed(0)
    size = len(matrix)
    basis = torch.randn(size, min(size, width + _SPARE), dtype=torch.float64, generator=generator)
    for _ in range(2 * _ROUNDS):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, basis))[0]
    values, turn = torch.linalg.eigh(basis.T @ torch.sparse.mm(matrix, basis))
    largest = values.abs().argsort(descending=True, stable=True)[:width]
    found = basis @ turn[:, largest] * values[largest]
    return found * found.gather(0, found.abs().argmax(0)[None]).sign()
