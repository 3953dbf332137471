"""Domain-stratified batches that depend only on seed and epoch, so that a resumed run sees the same ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class StratifiedBatches:
    """Splits items into batches that hold rows of every domain.

    An epoch has every training item once, in ceil(N / batch_size) batches, each with the same share of every domain. If
    a domain's share is below `min_domain_rows`, further draws of its items are added. A domain that has no more items
    than that is in every batch as a whole, each item once: an estimate of HSIC on repeated rows would be worthless.

    Args:
        domains: (N,) int64, the domain of each item.
        num_domains: number of domains.
        batch_size: rows per batch, without the added draws.
        min_domain_rows: fewest rows of each domain in a batch, if it has that many.
        validation_fraction: share of each domain's items kept out, rounded down.
        seed: seed of the split and of all batches.

    Attributes:
        train: the training rows of each domain.
        train_rows: the training rows of all domains.
        validation: the rows kept out, of all domains.
    """

    def __init__(
        self,
        domains: Tensor,
        num_domains: int,
        *,
        batch_size: int,
        min_domain_rows: int,
        validation_fraction: float,
        seed: int,
    ) -> None:
        self.seed, self.min_domain_rows = seed, min_domain_rows
        generator = torch.Generator().manual_seed(seed)
        train, validation = [], []
        for domain in range(num_domains):
            rows = (domains == domain).nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            held_out = int(len(rows) * validation_fraction)
            validation.append(rows[:held_out])
            train.append(rows[held_out:])
        self.train, self.train_rows, self.validation = train, torch.cat(train), torch.cat(validation)
        self.steps = math.ceil(sum(map(len, train)) / batch_size)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> list[Tensor]:
        """Draw the batches of an epoch.

        Args:
            epoch: 0, 1, ...

        Returns:
            list[Tensor]: row indices (int64) of each batch.
        """
        generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + epoch)
        parts: list[list[Tensor]] = [[] for _ in range(self.steps)]
        for rows in self.train:
            order = rows[torch.randperm(len(rows), generator=generator)]
            few = len(rows) <= self.min_domain_rows
            for part, share in zip(parts, order.tensor_split(self.steps), strict=True):
                missing = self.min_domain_rows - len(share)
                part.append(order if few else share)
                if missing > 0 and not few:
                    part.append(rows[torch.randint(len(rows), (missing,), generator=generator)])
        return [torch.cat(part) for part in parts]
