"""Rows through a chain of codebooks, in training and evaluation: what all the drop-in layers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unitok_kernels import backends
from unitok_kernels.nn import distributed, search
from unitok_kernels.nn.codebook import Codebook, unit
from unitok_kernels.nn.config import CodebookOptions
from unitok_kernels.ops.common import wide
from unitok_kernels.ops.residual_straight_through import residual_straight_through

_STEPPING = backends.having("residual_straight_through")


class ChainOutput(NamedTuple):
    """Rows after their chain.

    Attributes:
        quantized: (N, D).
        codes: (N, L), -1 if the level was dropped or the row is padding.
        level_error: (L,) mean squared error per level, with gradients; zeros in evaluation without a beam.
    """

    quantized: Tensor
    codes: Tensor
    level_error: Tensor


@dataclass(frozen=True)
class Call:
    """The settings of one forward call.

    Attributes:
        training: whether the layer is in training.
        valid: (N,) bool, the rows that aren't padding; None means all.
        temperature: temperature of drawn codes; None takes the nearest.
        beam: chains that a beam search keeps; None or 1 means no beam search.
        weights: weights of the levels in a beam's score.
        cut: the last level that isn't dropped, as a tensor () or a number; None drops none.
        is_frozen: whether the codebooks stay as they are.
    """

    training: bool
    valid: Tensor | None = None
    temperature: float | None = None
    beam: int | None = None
    weights: tuple[float, ...] = ()
    cut: Tensor | int | None = None
    is_frozen: bool = False


class Chain:
    """The codebooks of a chain, level by level; several levels may share one.

    Args:
        books: the levels' codebooks.
        options: the layer's options.
        head: which codeword table of each to use.
    """

    def __init__(self, books: Sequence[Codebook], options: CodebookOptions, head: int = 0) -> None:
        self.books, self.options, self.head = books, options, head
        self.sizes = tuple(book.codebook_size for book in books)
        self.is_shared = len(books) > 1 and books[0] is books[1]

    def tables(self, again: bool = False) -> Tensor:
        """Copy the codebooks into one tensor (L, K, D); `again` takes those that the last step began with.

        Smaller ones are padded with copies of their first codeword: among ties, the first one is taken.
        """
        tables = [book.table(self.head, again) for book in self.books]
        if len({*self.sizes}) > 1:
            most = max(self.sizes)
            tables = [torch.cat((table, table[:1].expand(most - len(table), -1))) for table in tables]
        return torch.stack(tables)

    def __call__(self, rows: Tensor, call: Call) -> ChainOutput:
        """Quantise rows (N, D)."""
        rows = rows if call.valid is None else torch.where(call.valid[:, None], rows, 0)
        if not all(book.is_started() for book in self.books):
            with torch.no_grad():
                self._start(rows, call.valid)
        options, again = self.options, _is_recomputed()
        tables = self.tables(again)
        moves = call.training and not call.is_frozen and (options.updates_ema or options.threshold_ema_dead_code > 0)
        if not again and not torch.compiler.is_compiling():
            for book, table in zip(self.books, tables.detach(), strict=True):
                book.remember(self.head, table if moves else None)
        if not call.training:
            return self._evaluated(rows, tables, call)
        with torch.no_grad():
            codes = self._codes(rows, tables, call)
        step = residual_straight_through(
            rows,
            codes,
            tables if options.learns_by_gradient and not call.is_frozen else tables.detach(),
            estimator=options.estimator if rows.requires_grad else "none",
            cosine=options.use_cosine_sim,
            statistics=moves and not again,
            backend=options.backend if options.backend in _STEPPING else None,  # others have no kernels for it
        )
        if moves:
            numbers = self._numbers(tables, synced=distributed.is_synced(options.sync_codebook) and not again)
            if not again:
                with torch.no_grad():
                    self._learn(rows, codes, tables, step.sums, step.counts, numbers, call)
        return ChainOutput(step.quantized, codes, step.level_error)

    def _evaluated(self, rows: Tensor, tables: Tensor, call: Call) -> ChainOutput:
        is_greedy = call.beam is None or call.beam == 1
        if is_greedy and call.valid is None and not tables.requires_grad:
            found = search.nearest(rows.detach(), tables, self.options)
            return ChainOutput(found.quantized, found.codes, _zeros(rows, len(self.books)))
        with torch.no_grad():
            codes = self._codes(rows, tables, call)
        cosine = self.options.use_cosine_sim
        step = residual_straight_through(rows.detach(), codes, tables, estimator="none", cosine=cosine)
        # A beam was chosen by its errors: they are also reported in evaluation.
        errors = _zeros(rows, len(self.books)) if is_greedy else step.level_error
        return ChainOutput(step.quantized, codes, errors)

    def _codes(self, rows: Tensor, tables: Tensor, call: Call) -> Tensor:
        """Find the codes (N, L) that the call asks for; -1 for padding and dropped levels."""
        options, cosine = self.options, self.options.use_cosine_sim
        levels = len(self.books)
        draws = call.training and options.stochastic_sample_codes
        temperature = call.temperature if draws else None
        if call.beam is not None and call.beam > 1:
            best = search.beam(rows, tables, self.sizes, call.beam, call.weights, cosine, temperature)
            last = levels - 1 if call.cut is None else call.cut
            # the host would read a tensor that is used as an index
            codes = best.index_select(0, last.view(1))[0] if isinstance(last, Tensor) else best[last]
        elif temperature:
            codes = search.drawn(rows, tables, self.sizes, temperature, cosine)
        else:
            codes = search.nearest(rows, tables, options).codes
        if call.cut is not None:
            codes = torch.where(torch.arange(levels, device=rows.device) <= call.cut, codes, -1)
        return codes if call.valid is None else torch.where(call.valid[:, None], codes, -1)

    def _start(self, rows: Tensor, valid: Tensor | None) -> None:
        """Start the codebooks that k-means starts, each on the residuals of the levels before it."""
        options, residual = self.options, wide(rows)
        synced = distributed.is_synced(options.sync_codebook)
        for book in self.books:
            x = unit(residual) if options.use_cosine_sim else residual
            if not book.is_started():
                book.start(self.head, x, valid, synced)
            codes = search.nearest(x, book.embed.detach()[self.head][None], options).codes[:, 0]
            residual = residual - search.codeword_of(wide(book.embed.detach()[self.head]), codes)

    def _numbers(self, tables: Tensor, synced: bool) -> Tensor | None:
        """Draw the random numbers for a revival, (L + 1, K) between 0 and 1.

        A checkpoint's second forward also draws them, without using them: so draws after the layer stay the same.
        """
        if self.options.threshold_ema_dead_code <= 0:
            return None
        levels, size, _ = tables.shape
        return distributed.uniform((levels + 1, size), tables.device, synced)

    def _learn(
        self,
        rows: Tensor,
        codes: Tensor,
        tables: Tensor,
        sums: Tensor,
        counts: Tensor,
        numbers: Tensor | None,
        call: Call,
    ) -> None:
        """Move every codebook by the step's statistics, and revive codewords that hardly any row chooses."""
        options, levels = self.options, len(self.books)
        synced = distributed.is_synced(options.sync_codebook)
        sums, counts = distributed.summed(sums, synced), distributed.summed(counts, synced)
        active: Sequence[Tensor | None] = [None] * levels
        if call.cut is not None:
            active = (torch.arange(levels, device=rows.device) <= call.cut).unbind()
        for level, (book, size) in enumerate(zip(self.books, self.sizes, strict=True)):
            book.track(self.head, sums[level, :size], counts[level, :size], active[level])
            if options.updates_ema and not self.is_shared:
                book.follow(self.head, active[level])
        if options.updates_ema and self.is_shared:
            self.books[0].follow(self.head)
        if numbers is None:
            return
        x, found = self._proposals(rows, codes, tables, numbers, call.valid, synced)
        if self.is_shared:  # each codeword takes its row from one of the levels
            place = torch.arange(self.sizes[0], device=rows.device)
            self.books[0].revive(self.head, x[place % levels, place], found[place % levels, place], None)
            return
        for level, (book, size) in enumerate(zip(self.books, self.sizes, strict=True)):
            book.revive(self.head, x[level, :size], found[level, :size], active[level])

    def _proposals(
        self, rows: Tensor, codes: Tensor, tables: Tensor, numbers: Tensor, valid: Tensor | None, synced: bool
    ) -> tuple[Tensor, Tensor]:
        """Choose a row for each codeword: the inputs of its level (L, K, D), and whether there was a row (L, K)."""
        draw = distributed.draw_rows(numbers[0], rows.shape[0], valid, synced)
        residual = distributed.gathered(wide(rows), draw, synced)
        chosen = distributed.gathered(codes + 1, draw, synced) - 1  # zeros from the other ranks add nothing
        inputs = []
        for level in range(len(tables)):
            inputs.append(unit(residual) if self.options.use_cosine_sim else residual)
            residual = residual - search.codeword_of(wide(tables[level]), chosen[:, level])
        order = numbers[1:].argsort(1)  # levels share the rows, but assign them to different codewords
        return torch.stack([x[place] for x, place in zip(inputs, order, strict=True)]), draw.found[order]


def _is_recomputed() -> bool:
    """Tell whether this forward is an activation checkpoint's second one, which runs inside a backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _zeros(rows: Tensor, levels: int) -> Tensor:
    return torch.zeros(levels, device=rows.device)
