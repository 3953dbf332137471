"""A short fit on the two smallest real domains ends well. Skips where the data are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unitok import Tokenizer
from unitok.data import read_catalogue

NAMES = ["grocery_and_gourmet_food", "office_products"]

pytestmark = pytest.mark.data


@pytest.mark.parametrize("preset", ["normalised", "shared_first"])
def test_a_short_fit_ends_well(preset: str, real_catalogue: Path, make_config) -> None:
    domains = {name: domain.embeddings for name, domain in read_catalogue(real_catalogue, NAMES).items()}
    config = make_config(
        preset=preset,
        epochs=3,
        batch_size=256,
        num_levels=4,
        codebook_size=64,
        codebook_dim=16,
        encoder_widths=(128, 64),
        learning_rate=5e-3,
    )
    tokenizer = Tokenizer.fit(domains, config)
    assert [record["alarms"] for record in tokenizer.history] == [[], [], []]
    report = tokenizer.report(domains)
    assert report.overall.items == 4211
    assert report.overall.indistinguishable_rate <= report.overall.collision_rate < 0.04
    assert report.overall.resolved_collision_rate == 0
    assert report.overall.error_of_latents < 0.02
    assert report.redundant_levels == {}
    assert min(report.level_entropy_given_expert) > 4.5
    for figures in report.domains.values():
        assert figures.own_expert > 0.95
        assert figures.reconstruction < 0.75  # of 1, the length of every embedding
    row = torch.from_numpy(domains["office_products"][41:42].copy())
    assert tokenizer.tokenize(row).equals(tokenizer.tokenize(domains["office_products"])[[41]])
