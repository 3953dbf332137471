"""A tokenizer under other numbers: its IDs are those that the alignment says, and mean what they meant."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unitok import SemanticIds, Tokenizer
from unitok.ids.versions.alignment import Alignment


def renamed(ids: SemanticIds, found: Alignment) -> SemanticIds:
    """What the IDs are under the new numbers."""
    levels = torch.arange(ids.num_levels)
    slots = None if ids.slot_codes is None else found.codes[ids.experts[:, :, None], levels, ids.slot_codes]
    codes = found.codes[ids.experts[:, :1], levels, ids.codes]
    return replace(ids, codes=codes, experts=found.experts[ids.experts], slot_codes=slots)


def mixed(ids: SemanticIds, routable: int) -> SemanticIds:
    """The IDs that another tokenizer of the same clusters might give, by other numbers."""
    g = torch.Generator().manual_seed(0)
    experts, size, levels = torch.arange(ids.num_experts), ids.codebook_size, torch.arange(ids.num_levels)
    experts[:routable] = experts[:routable].roll(1)
    codes = torch.stack([torch.randperm(size, generator=g) for _ in range(ids.num_experts * ids.num_levels)])
    codes = codes.view(ids.num_experts, ids.num_levels, size)
    return SemanticIds(codes[ids.experts[:, :1], levels, ids.codes], experts[ids.experts[:, :1]], size, ids.num_experts)


def test_the_ids_are_what_the_alignment_says(any_tokenizer: Tokenizer, x: Tensor) -> None:
    tokenizer = copy.deepcopy(any_tokenizer)
    before, routable = tokenizer.tokenize(x), tokenizer.model.routable_experts
    found = tokenizer.align(before, mixed(before, routable))
    assert found.after == (1.0,) * (1 + before.num_levels)
    assert found.before[-1] < 0.1
    after = tokenizer.tokenize(x)
    assert after.equals(renamed(before, found))
    torch.testing.assert_close(tokenizer.decode(after), any_tokenizer.decode(before))
    bare = [replace(ids, shared_codes=None, slot_codes=None) for ids in (before, after)]
    torch.testing.assert_close(tokenizer.decode(bare[1]), any_tokenizer.decode(bare[0]))


def test_added_domains_and_views_keep_their_experts(
    small_domains: dict[str, Tensor], make_config, strangers: Tensor, tmp_path: Path
) -> None:
    vectors = {name: torch.randn(len(small_domains[name]), 6) for name in ("games", "books")}
    tokenizer = Tokenizer.fit(small_domains, make_config(epochs=2, codebook_size=16), views={"behaviour": vectors})
    tokenizer.add_domain("music", strangers)
    other, routable = copy.deepcopy(tokenizer), tokenizer.model.routable_experts

    def tokenized(which: Tokenizer) -> dict[str, SemanticIds]:
        own = {name: which.tokenize(small_domains[name], name, views={"behaviour": vectors[name]}) for name in vectors}
        return {**own, "music": which.tokenize(strangers, "music"), "toys": which.tokenize(small_domains["toys"])}

    before = tokenized(tokenizer)
    every = SemanticIds.concatenate(before.values())
    wanted = mixed(every, routable)
    swapped = torch.arange(every.num_experts)
    swapped[routable:] = swapped[routable:].flip(0)  # the domains' own experts, too
    found = tokenizer.align(every, replace(wanted, experts=swapped[wanted.experts]))
    assert found.after == (1.0,) * (1 + every.num_levels)
    assert [domain.expert for domain in tokenizer.domains.values()] != [
        domain.expert for domain in other.domains.values()
    ]
    tokenizer.save_pretrained(tmp_path)
    for which in (tokenizer, Tokenizer.from_pretrained(tmp_path)):
        after = tokenized(which)
        for name, ids in before.items():
            assert after[name].equals(renamed(ids, found)), name
            torch.testing.assert_close(which.decode(after[name]), other.decode(ids))


def test_ids_of_another_tokenizer_are_refused(tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    ids = tokenizer.tokenize(x)
    state = copy.deepcopy(tokenizer.model.state_dict())
    strange = SemanticIds(ids.codes, ids.experts[:, :1], ids.codebook_size, 9)
    with refuses("align", "ids"):
        tokenizer.align(strange, strange)
    with refuses("align", "earlier"):
        tokenizer.align(ids, ids[:-1])
    with pytest.raises(TypeError):
        tokenizer.align(ids.codes, ids)  # type: ignore[arg-type]
    assert all(torch.equal(value, state[name]) for name, value in tokenizer.model.state_dict().items())
