"""A new domain changes no ID that exists, gets an expert of its own, and is saved with the others."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unitok.tokenizer.made import EVERY, bytes_of
from unitok import Tokenizer


@pytest.mark.parametrize(("preset", "top_k"), [(p, s) for p, s, e in EVERY if e is None and p != "public_code"])
def test_a_new_expert_changes_no_id_that_exists(preset: str, top_k: int, fitted, x: Tensor, strangers: Tensor) -> None:
    tokenizer = copy.deepcopy(fitted(preset=preset, top_k=top_k))
    frozen = copy.deepcopy(tokenizer)
    before = {domain: bytes_of(tokenizer.tokenize(x, domain)) for domain in (None, "books", "toys")}
    lost = bytes_of(tokenizer.tokenize(strangers))
    old_decoded = tokenizer.decode(tokenizer.tokenize(x))

    tokenizer.add_domain("music", strangers)
    frozen.add_domain("music", strangers, mode="frozen")
    for domain, packed in before.items():
        ids = tokenizer.tokenize(x, domain)
        assert bytes_of(ids) == packed
        assert (ids.experts < 3).all()
    assert bytes_of(tokenizer.tokenize(strangers)) == lost  # who doesn't name the domain doesn't reach its expert
    assert torch.equal(tokenizer.decode(tokenizer.tokenize(x)), old_decoded)

    own = tokenizer.tokenize(strangers, "music")
    assert (own.experts[:, 0] == 3).all()
    assert (own.experts[:, 1:] < 3).all()
    assert own.num_experts == tokenizer.model.num_experts == 4
    assert bytes_of(frozen.tokenize(strangers, "music")) == lost
    assert frozen.model.num_experts == 3
    alone = tokenizer.tokenize(strangers[:1], "music")
    assert alone.equals(own[:1])
    found = tokenizer.encode(strangers, "music")
    torch.testing.assert_close(found.z_hat, tokenizer.model.latents(own))  # its chain has the weight of all slots

    errors = [t.report({"music": strangers}).domains["music"] for t in (tokenizer, frozen)]
    if preset != "paper":  # whose z_hat is out of scale
        assert errors[0].error_of_latents < 0.7 * errors[1].error_of_latents
    assert errors[0].collision_rate < 0.8 * errors[1].collision_rate


def test_new_domains_are_saved(tokenizer: Tokenizer, x: Tensor, strangers: Tensor, make_items, tmp_path: Path) -> None:
    old = bytes_of(tokenizer.tokenize(x))
    tokenizer.add_domain("music", strangers)
    music = bytes_of(tokenizer.tokenize(strangers, "music"))
    tokenizer.add_domain("films", make_items(5, seed=12).numpy())  # fewer items than codewords
    tokenizer.add_domain("frozen", strangers[:7], mode="frozen")
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert {name: info.expert for name, info in loaded.domains.items()} == {
        "books": None,
        "games": None,
        "toys": None,
        "music": 3,
        "films": 4,
        "frozen": None,
    }
    assert [info.num_items for info in loaded.domains.values()] == [400, 240, 160, 300, 5, 7]
    assert bytes_of(loaded.tokenize(x)) == old
    for t in (tokenizer, loaded):
        ids = t.tokenize(strangers, "music")
        assert bytes_of(ids) == music
        assert t.decode(ids).isfinite().all()
        assert (t.tokenize(strangers, "films").experts[:, 0] == 4).all()
    assert torch.equal(loaded.decode(ids), tokenizer.decode(ids))


def test_a_domain_that_cannot_be_added_is_refused(tokenizer: Tokenizer, fitted, x: Tensor, refuses) -> None:
    with refuses("add_domain", "name"):
        tokenizer.add_domain("toys", x)
    with refuses("add_domain", "mode"):
        tokenizer.add_domain("new", x, mode="new expert")
    with refuses("add_domain", "x's rows"):
        tokenizer.add_domain("new", x[:0])
    with refuses("add_domain", "x"):
        tokenizer.add_domain("new", x[:, 1:])
    assert set(tokenizer.domains) == {"books", "games", "toys"}
    for other in (fitted(preset="public_code", top_k=1), fitted(num_experts=0)):
        other = copy.deepcopy(other)
        with refuses("add_domain", "mode"):
            other.add_domain("new", x)
        other.add_domain("new", x, mode="frozen")
        assert other.tokenize(x, "new").equals(other.tokenize(x))
