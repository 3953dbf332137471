"""From IDs back to items: what is rebuilt, what shared codes add, and whose IDs are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unitok import SemanticIds, Tokenizer
from unitok.config import PRESETS


def test_decoding_rebuilds_items(any_tokenizer: Tokenizer, x: Tensor) -> None:
    ids = any_tokenizer.tokenize(x)
    decoded = any_tokenizer.decode(ids)
    assert decoded.shape == x.shape
    assert not decoded.requires_grad
    missed = (x - decoded).square().sum(1).mean()
    assert missed < 0.9 * (x - x.mean(0)).square().sum(1).mean()  # more than the mean item tells
    shuffled = any_tokenizer.decode(ids[torch.arange(len(x)).flip(0)])
    assert missed < (x - shuffled).square().sum(1).mean()
    again = any_tokenizer.decode(ids[[5]])
    torch.testing.assert_close(again, decoded[[5]])


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_shared_codes_bring_latents_closer(preset: str, top_k: int, fitted, x: Tensor) -> None:
    tokenizer = fitted(preset=preset, top_k=top_k)
    ids, _, target = tokenizer.encode(x, None)  # the target is what the decoder was trained on

    def missed(emitted: SemanticIds) -> float:
        return float((tokenizer.model.latents(emitted) - target).square().sum().detach())

    whole, bare = missed(ids), missed(replace(ids, shared_codes=None))
    assert whole < bare
    assert bare <= missed(replace(ids, shared_codes=None, slot_codes=None)) * (1.05 if top_k > 1 else 1)
    if preset in ("normalised", "shared_first"):
        assert whole < 0.2 * target.square().sum()
    if preset == "shared_first":
        error, without = ((x - tokenizer.decode(i)).square().sum() for i in (ids, replace(ids, shared_codes=None)))
        assert error < without


def test_ids_of_another_tokenizer_are_refused(fitted, tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    ids = tokenizer.tokenize(x[:5])
    others = {
        "levels": fitted(num_levels=2, epochs=1),
        "codewords": fitted(codebook_size=8, epochs=1),
        "experts": fitted(num_experts=0),
        "slots": fitted(preset="shared_first", top_k=1),
    }
    for kind, other in others.items():
        with refuses("decode", "ids") as caught:
            other.decode(ids)
        assert kind in str(caught.value)
