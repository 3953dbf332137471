"""A codebook that learns by moving averages: its buffers, k-means start, updates and revival."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unitok_kernels as uk
from unitok_kernels import checks
from unitok_kernels.nn import distributed
from unitok_kernels.nn.config import CodebookOptions
from unitok_kernels.ops.common import wide
from unitok_kernels.ops.residual_straight_through.reference import SHORTEST


def unit(x: Tensor) -> Tensor:
    """Scale each row to length 1."""
    return F.normalize(x, dim=-1, eps=SHORTEST)


class Codebook(nn.Module):
    """Codewords of one level, or of each head, with vector-quantize-pytorch's buffers.

    embed (H, K, D) holds the codewords; embed_avg (H, K, D) and cluster_size (H, K) the moving averages of the sums and
    counts of their rows; initted () is true after a k-means start, or if none was asked for.

    Args:
        options: the layer's options.
        codebook_size: K.
        num_codebooks: H.
    """

    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(self, options: CodebookOptions, codebook_size: int, num_codebooks: int = 1) -> None:
        super().__init__()
        self.options, self.codebook_size = options, codebook_size
        embed = torch.zeros(num_codebooks, codebook_size, options.width)
        if not options.kmeans_init:
            nn.init.kaiming_uniform_(embed)
            embed = unit(embed) if options.use_cosine_sim else embed
        self.register_buffer("initted", torch.tensor(not options.kmeans_init))
        self.register_buffer("cluster_size", torch.ones(num_codebooks, codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        if options.learns_by_gradient or options.orthogonal_reg_weight > 0:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)
        self._is_started = not options.kmeans_init  # saves reading the buffer, which would wait for a device
        self._before: dict[int, Tensor] = {}  # codewords of each head before they last moved, for checkpoints

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a step under way: copies and files don't need it."""
        return {**self.__dict__, "_before": {}}

    def table(self, head: int, again: bool) -> Tensor:
        """Give a head's codewords (K, D); `again` gives a checkpoint's second forward the values of its first."""
        table, before = self.embed[head], self._before.get(head) if again else None
        return table if before is None else before[: self.codebook_size] + (table - table.detach())

    def remember(self, head: int, table: Tensor | None) -> None:
        """Keep the codewords that a forward begins with; None if it doesn't move them."""
        if table is None:
            self._before.pop(head, None)
        else:
            self._before[head] = table

    def is_started(self) -> bool:
        """Tell whether the codewords have been started; the buffer is read until it says so."""
        if not self._is_started and not torch.compiler.is_compiling():
            self._is_started = bool(self.initted)
        if not self._is_started and torch.compiler.is_exporting():
            step = "Run a batch through the layer, so that k-means starts its codebook, and then export."
            checks.fail(self.options.layer, "kmeans_init", "done before an export", "an empty codebook", step)
        return self._is_started

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._is_started = not self.initted.is_meta and bool(self.initted)

    @torch.no_grad()
    def start(self, head: int, x: Tensor, valid: Tensor | None, synced: bool) -> None:
        """Start the codewords by k-means over the rows of all ranks; a codeword without rows stays where it is.

        A codebook that has been started is left as it is: a graph contains this call, whatever `initted` says when it
        runs. Without any row, the next batch is waited for.

        Args:
            head: which codebook.
            x: (N, D) float32, the rows.
            valid: (N,) bool, the rows that count; None means all.
            synced: whether there are other ranks.
        """
        options, size = self.options, self.codebook_size
        draw = distributed.draw_rows(distributed.uniform((size,), x.device, synced), x.shape[0], valid, synced)
        means, counts = distributed.gathered(x, draw, synced), self.cluster_size[head]
        for _ in range(options.kmeans_iters):
            codes = uk.nearest_codeword(x, means, check_finite=options.check_finite, backend=options.backend).codes
            codes = codes if valid is None else torch.where(valid, codes, -1)
            sums, counts = uk.codeword_statistics(x, codes, size, check_finite=False, backend=options.backend)
            sums, counts = distributed.summed(sums, synced), distributed.summed(counts, synced)
            moved = sums / counts[:, None].clamp(min=1)
            means = torch.where(counts[:, None] > 0, unit(moved) if options.use_cosine_sim else moved, means)
        sums, counts = means * counts[:, None], counts.to(self.cluster_size)
        self.embed_avg[head].copy_(torch.where(self.initted, self.embed_avg[head], sums.to(self.embed_avg)))
        self.cluster_size[head].copy_(torch.where(self.initted, self.cluster_size[head], counts))
        self.follow(head, ~self.initted)
        if head == len(self.embed) - 1:
            self.initted.logical_or_(counts.sum() > 0)
            # A graph can't ask: it assumes that a batch with rows, perhaps another rank's, has started the codebook.
            self._is_started = synced or x.shape[0] > 0 if torch.compiler.is_compiling() else bool(self.initted)

    @torch.no_grad()
    def track(self, head: int, sums: Tensor, counts: Tensor, active: Tensor | None) -> None:
        """Move the averages towards a batch's sums (K, D) and counts (K,); `active` () False keeps them."""
        weight = torch.full((), 1 - self.options.decay, device=sums.device)
        weight = weight if active is None else weight * active
        self.cluster_size[head].lerp_(counts.to(self.cluster_size.dtype), weight.to(self.cluster_size.dtype))
        self.embed_avg[head].lerp_(sums.to(self.embed_avg.dtype), weight.to(self.embed_avg.dtype))

    @torch.no_grad()
    def follow(self, head: int, active: Tensor | None = None) -> None:
        """Move the codewords to their averages; counts are smoothed so that nothing is divided by zero."""
        size, eps = wide(self.cluster_size[head]), self.options.eps
        total = size.sum()  # 0 if no row has ever counted, or none does now and decay is 0: then nothing moves
        active = total > 0 if active is None else active & (total > 0)
        smoothed = (size + eps) / (total + self.codebook_size * eps) * total
        embed = wide(self.embed_avg[head]) / smoothed[:, None]
        self._write(head, unit(embed) if self.options.use_cosine_sim else embed, active)

    @torch.no_grad()
    def revive(self, head: int, x: Tensor, found: Tensor, active: Tensor | None) -> None:
        """Move codewords that too few rows choose to rows x (K, D) of the batch, if it has one for them."""
        dead = (self.cluster_size[head] < self.options.threshold_ema_dead_code) & found
        dead = dead if active is None else dead & active
        self._write(head, x, dead[:, None])
        reset = self.options.threshold_ema_dead_code
        self.cluster_size[head].copy_(torch.where(dead, reset, self.cluster_size[head]))
        self.embed_avg[head].copy_(torch.where(dead[:, None], (reset * x).to(self.embed_avg), self.embed_avg[head]))

    def _write(self, head: int, embed: Tensor, where: Tensor | None) -> None:
        own = self.embed.detach()[head]
        own.copy_(embed if where is None else torch.where(where, embed.to(own), own))
