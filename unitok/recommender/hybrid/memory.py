"""The memory of a recommender: which item came after which, and how often, as a sparse matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from unitok.recommender.histories import Histories


def count_transitions(
    histories: Histories, num_items: int, reach: int, learn: float, new: int | None = None
) -> tuple[Tensor, Tensor]:
    """Count how often an item came after another; nearer ones count more.

    T[a, b] = sum of learn^(d - 1) over the times that b came d <= reach places after a.

    Args:
        histories: the users' items.
        num_items: N.
        reach: how many places a transition spans at most.
        learn: decay of a transition with its span, in (0, 1].
        new: count only transitions to the last `new` items of each user; None counts all.

    Returns:
        The cells a N + b that aren't 0, ascending, (E,) int64; and T there, (E,) float64.
    """
    items, lengths = histories.items, histories.lengths
    user = torch.arange(len(lengths)).repeat_interleave(lengths)
    to_end = histories.offsets[1:][user] - torch.arange(len(items))  # 1 for a user's last item
    counted = torch.ones_like(user, dtype=torch.bool) if new is None else to_end <= new
    cells, weights = [items[:0]], [torch.zeros(0, dtype=torch.float64)]
    for span in range(1, min(reach, len(items) - 1) + 1):
        pairs = (user[span:] == user[:-span]) & counted[span:]
        cells.append(items[:-span][pairs] * num_items + items[span:][pairs])
        weights.append(torch.full(cells[-1].shape, learn ** (span - 1), dtype=torch.float64))
    cell, entry = torch.cat(cells).unique(return_inverse=True)
    return cell, torch.zeros(len(cell), dtype=torch.float64).index_add_(0, entry, torch.cat(weights))


class TransitionMemory(nn.Module):
    """The transitions between N items; it learns by counting, not by gradients.

    m(b) = sum_j .7^(j - 1) T[h_j, b] / sum_b T[h_j, b], h_j being the j-th item from the end of a history, and
    T[a, b] = sum of .7^(d - 1) over the times that b came d <= 5 places after a.

    Only pairs of items that occurred are kept, 12 bytes each. The tensors are buffers: they move, are copied and are
    saved as a model's weights are. None of them is changed: more events or items make another memory, so that what
    ranks meanwhile reads one of the two.

    Args:
        num_items: N.
    """

    reach: ClassVar[int] = 5
    learn: ClassVar[float] = 0.7
    query: ClassVar[float] = 0.7
    offsets: Tensor  # (N + 1,) int64: what came after item a is in places offsets[a] .. offsets[a + 1]
    items: Tensor  # (E,) int32, the item that came
    value: Tensor  # (E,) float64, T
    mass: Tensor  # (N,) float64, what T sums to after each item

    def __init__(self, num_items: int) -> None:
        super().__init__()
        nothing = torch.zeros(num_items + 1, dtype=torch.int64)
        self._hold(nothing, torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.float64))

    @classmethod
    def of(cls, offsets: Tensor, items: Tensor, value: Tensor) -> Self:
        """Make it of the tensors that another one held, if they fit each other."""
        kinds = [(tensor.ndim, tensor.dtype) for tensor in (offsets, items, value)]
        if kinds != [(1, torch.int64), (1, torch.int32), (1, torch.float64)] or not len(offsets):
            raise ValueError("the tensors of the transitions aren't of their types")
        num_items, fits = len(offsets) - 1, offsets[0] == 0 and len(items) == len(value) == offsets[-1]
        if not fits or bool((offsets.diff() < 0).any()) or bool(((items < 0) | (items >= num_items)).any()):
            raise ValueError("the transitions aren't between the items")
        if not bool((value.isfinite() & (value > 0)).all()):
            raise ValueError("the transitions aren't counts")
        source = torch.arange(num_items).repeat_interleave(offsets.diff())
        if bool(((source * num_items + items).diff() <= 0).any()):
            raise ValueError("the transitions aren't in order, each once")
        made = cls(num_items)
        made._hold(offsets, items, value)
        return made

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def observed(self, histories: Histories, new: int | None = None) -> Self:
        """Add what users did.

        Args:
            histories: the users' items.
            new: how many of each user's last items are new: the others are known already, and transitions between them
                are not counted again. None counts all.

        Returns:
            A memory of both.
        """
        cell, value = count_transitions(histories, self.num_items, self.reach, self.learn, new)
        cells, entry = torch.cat([self._cells(self.num_items), cell]).unique(return_inverse=True)
        total = torch.zeros(len(cells), dtype=torch.float64)
        return self._made(cells, total.index_add_(0, entry, torch.cat([self.value.cpu(), value])), self.num_items)

    def grown(self, num_items: int) -> Self:
        """Make room for more items, which nothing has led to yet."""
        return self._made(self._cells(num_items), self.value.cpu(), num_items)

    def _cells(self, num_items: int) -> Tensor:
        """Where T isn't 0, as cells of a matrix of so many items."""
        source = torch.arange(self.num_items).repeat_interleave(self.offsets.cpu().diff())
        return source * num_items + self.items.cpu()

    def _made(self, cells: Tensor, value: Tensor, num_items: int) -> Self:
        source = cells // max(num_items, 1)
        offsets = F.pad(torch.bincount(source, minlength=num_items).cumsum(0), (1, 0))
        made = type(self)(num_items)
        made._hold(offsets, (cells % max(num_items, 1)).int(), value)
        return made.to(self.offsets.device)

    def _hold(self, offsets: Tensor, items: Tensor, value: Tensor) -> None:
        sums = F.pad(value.cumsum(0), (1, 0))
        for name, tensor in (("offsets", offsets), ("items", items), ("value", value)):
            self.register_buffer(name, tensor)
        self.register_buffer("mass", sums[offsets[1:]] - sums[offsets[:-1]], persistent=False)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._hold(self.offsets, self.items, self.value)  # the sums are of what was loaded

    def after(self, items: Tensor) -> Tensor:
        """Recall what came after whole histories.

        Args:
            items: (B, H) int64, padded on the right with -1.

        Returns:
            m, (B, N) float32.
        """
        there = items >= 0
        last = there.sum(1, keepdim=True) - 1
        decay = self.query ** (last - torch.arange(items.shape[1], device=items.device)).double()
        query, place = there.nonzero(as_tuple=True)
        source = items[query, place]
        row, edge = self._edges(source)
        weight = (decay[query, place] / self.mass[source].clamp(min=_LEAST))[row] * self.value[edge]
        found = torch.zeros(len(items) * self.num_items, dtype=torch.float64, device=items.device)
        found.index_add_(0, query[row] * self.num_items + self.items[edge], weight)
        return found.view(len(items), -1).float()

    def before_each(self, items: Tensor, among: Tensor | None = None) -> Tensor:
        """Recall what came after the items before each item of histories, the histories' own transitions left out.

        A history that was learnt would give its own next items away: in training, a user's memory is that of others.
        Of a user whose items are parted into several histories, the transitions of the other parts stay.

        Args:
            items: (B, H) int64, padded on the right with -1.
            among: (I,) int64, the items that may be recalled, each once; None recalls all N.

        Returns:
            m before the first item, which is 0, then after the first one, the first two, ..., (B, H, I) float32.
        """
        batch, length = items.shape
        width = self.num_items if among is None else len(among)
        column = torch.arange(self.num_items, device=items.device)
        if among is not None:
            column = torch.full_like(column, -1).index_put_((among,), column[:width])
        found = torch.zeros(batch * length * width, device=items.device)

        def add(row: Tensor, came: Tensor, value: Tensor) -> None:
            at = column[came]
            kept = at >= 0
            found.index_add_(0, row[kept] * width + at[kept], value[kept].float())

        there, read = items >= 0, items[:, :-1]
        mass = self.mass[read.clamp(min=0)]
        alike = (read[:, :, None] == items[:, None]) & there[:, None]  # an item that is met twice has both transitions
        given = []  # of the history alone: (row of `found`, the item that came after, the mass's place, T)
        for span in range(1, min(self.reach, length - 1) + 1):
            query, place, other = (alike[:, :, :-span] & there[:, None, span:]).nonzero(as_tuple=True)
            own = self.learn ** (span - 1)
            mass.index_put_((query, place), mass.new_tensor(-own), accumulate=True)
            given.append((query * length + place + 1, items[query, other + span], (query, place), own))
        mass = mass.where(mass > _LEAST, torch.inf)  # nobody else's
        query, place = (read >= 0).nonzero(as_tuple=True)
        row, edge = self._edges(read[query, place])
        value = self.value[edge] / mass[query, place][row]
        add((query * length + place + 1)[row], self.items[edge].long(), value)
        for row, came, source, own in given:
            add(row, came, -own / mass[source])
        each = found.view(batch, length, width).clamp_(min=0)
        for last in range(2, length):
            each[:, last] += self.query * each[:, last - 1]
        return each

    def _edges(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The places of what came after each source: (row of source, place) of each."""
        count = self.offsets[source + 1] - self.offsets[source]
        row = torch.arange(len(source), device=source.device).repeat_interleave(count)
        first = self.offsets[source] - (count.cumsum(0) - count)
        return row, torch.arange(len(row), device=source.device) + first[row]


_LEAST = 1e-6  # a sum of transitions below it is the rounding of none
