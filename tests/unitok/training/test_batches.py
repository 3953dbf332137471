"""Batches: every item once an epoch, every domain in every batch, the same ones for the same seed and epoch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from unitok.training.batches import StratifiedBatches

SIZES = (200, 61, 40, 3, 1)


def labels(sizes: tuple[int, ...] = SIZES) -> Tensor:
    domains = torch.repeat_interleave(torch.tensor(sizes))
    return domains[torch.randperm(len(domains), generator=torch.Generator().manual_seed(9))]


def make(domains: Tensor, num_domains: int = len(SIZES), **changes) -> StratifiedBatches:
    settings = {"batch_size": 50, "min_domain_rows": 0, "validation_fraction": 0.1, "seed": 0, **changes}
    return StratifiedBatches(domains, num_domains, **settings)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 305, 10_000])
def test_an_epoch_shows_every_training_item_once(batch_size: int) -> None:
    domains = labels()
    batches = make(domains, batch_size=batch_size)
    assert len(batches) == -(-len(batches.train_rows) // batch_size)
    for epoch in (0, 1):
        drawn = batches.epoch(epoch)
        assert len(drawn) == len(batches)
        assert sorted(torch.cat(drawn).tolist()) == sorted(batches.train_rows.tolist())
        assert max(map(len, drawn)) <= batch_size + len(SIZES)


def test_every_batch_holds_its_share_of_every_domain() -> None:
    domains = labels((600, 300, 100))
    for rows in make(domains, 3, batch_size=100).epoch(0):
        assert torch.bincount(domains[rows], minlength=3).tolist() == pytest.approx([60, 30, 10], abs=1.1)


def test_small_domains_are_topped_up_in_every_batch() -> None:
    domains = labels()
    batches = make(domains, min_domain_rows=16)
    seen: Counter[int] = Counter()
    for rows in batches.epoch(3):
        counts = torch.bincount(domains[rows], minlength=len(SIZES)).tolist()
        assert all(count >= min(16, len(own)) for count, own in zip(counts, batches.train, strict=True))
        assert counts[0] < 40  # nothing is added where nothing is missing
        seen.update(rows.tolist())
    assert set(seen) == set(batches.train_rows.tolist())
    assert all(seen[row] == 1 for row in batches.train[0].tolist())


def test_domains_of_one_to_three_items_are_whole_in_every_batch_and_never_repeated_in_one() -> None:
    domains = labels()
    batches = make(domains, min_domain_rows=16, validation_fraction=0.3)
    for rows in batches.epoch(0):
        for domain in (3, 4):
            assert sorted(rows[domains[rows] == domain].tolist()) == sorted(batches.train[domain].tolist())
    assert [len(own) for own in batches.train[3:]] == [3, 1]  # a domain is never validation alone


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    domains = labels()
    one, two = make(domains, min_domain_rows=16), make(domains, min_domain_rows=16)
    assert torch.equal(one.validation, two.validation)
    torch.manual_seed(123)
    late = one.epoch(5)
    for epoch in range(5):
        two.epoch(epoch)
    assert all(torch.equal(a, b) for a, b in zip(late, two.epoch(5), strict=True))
    assert not torch.equal(torch.cat(one.epoch(4)), torch.cat(late))
    other = make(domains, min_domain_rows=16, seed=1)
    assert not torch.equal(torch.cat(other.epoch(5)), torch.cat(late))
    assert not torch.equal(other.validation, one.validation)


def test_validation_items_are_kept_out_of_every_domain_and_batch() -> None:
    domains = labels()
    batches = make(domains, min_domain_rows=16, validation_fraction=0.25)
    assert torch.bincount(domains[batches.validation], minlength=5).tolist() == [50, 15, 10, 0, 0]
    trained = {row for epoch in range(3) for rows in batches.epoch(epoch) for row in rows.tolist()}
    assert trained.isdisjoint(batches.validation.tolist())
    assert len(trained) + len(batches.validation) == len(domains)
    assert len(make(domains, validation_fraction=0.0).validation) == 0
