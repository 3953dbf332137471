"""What the tokenizer's tests share: one of every kind, one to change at will, its items and those of strangers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.unitok.tokenizer.made import EVERY
from unitok import Tokenizer


@pytest.fixture(params=EVERY, ids=lambda p: f"{p[0]}-top{p[1]}" if p[2] is None else "single-codebook")
def any_tokenizer(request: pytest.FixtureRequest, fitted: Callable[..., Tokenizer]) -> Tokenizer:
    preset, top_k, num_experts = request.param
    return fitted(preset=preset, top_k=top_k, num_experts=num_experts)


@pytest.fixture
def tokenizer(fitted: Callable[..., Tokenizer]) -> Tokenizer:
    """Of two slots and a shared expert; a copy, to be changed at will."""
    return copy.deepcopy(fitted(preset="shared_first", top_k=2))


@pytest.fixture(scope="module")
def x(small_domains: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(small_domains.values()))


@pytest.fixture(scope="module")
def strangers(make_items) -> Tensor:
    """Items of a domain that no tokenizer was fitted on."""
    return make_items(300, seed=11)
