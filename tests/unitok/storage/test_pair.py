"""A tokenizer's pair of files, and what is left of it after a crash."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unitok import Tokenizer
from unitok.storage.pair import SETTINGS, WEIGHTS


@pytest.fixture
def pair(fitted: Callable[..., Tokenizer], make_items) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer, and the same with a domain more."""
    old = fitted(preset="normalised", top_k=1)
    new = copy.deepcopy(old)
    new.add_domain("new", make_items(300, seed=11))
    return old, new


@pytest.mark.parametrize("step", ["fsync", "rename", "replace", "link", "unlink"])
def test_a_crash_while_replacing_leaves_one_whole_tokenizer(
    step: str, pair: tuple[Tokenizer, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    old.save_pretrained(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path, force=True)
    monkeypatch.undo()
    found = Tokenizer.from_pretrained(tmp_path)
    assert list(found.domains) == list(old.domains if step in ("fsync", "rename") else new.domains)
    new.save_pretrained(tmp_path, force=True)
    assert list(Tokenizer.from_pretrained(tmp_path).domains) == list(new.domains)
    assert sorted(file.name for file in tmp_path.iterdir()) == [WEIGHTS, SETTINGS]


def test_loading_leaves_the_callers_random_numbers_alone(pair: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    pair[0].save_pretrained(tmp_path)
    before = torch.get_rng_state()
    Tokenizer.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unwritable_folder_is_an_os_error(pair: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    pair[0].save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).mkdir()
    with pytest.raises(OSError, match=rf"{WEIGHTS}: the output must be a file, got a folder"):
        pair[0].save_pretrained(tmp_path, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [WEIGHTS, SETTINGS]
    with pytest.raises(FileExistsError, match="directory must be a folder"):
        pair[0].save_pretrained(tmp_path / SETTINGS)


@pytest.mark.parametrize("preset", ["paper", "normalised", "shared_first"])
def test_an_added_domains_ids_decode_to_what_its_items_were_quantised_to(
    preset: str, fitted: Callable[..., Tokenizer], make_items: Callable[..., Tensor]
) -> None:
    tokenizer = copy.deepcopy(fitted(preset=preset, top_k=2))
    x = make_items(300, seed=11)
    tokenizer.add_domain("new", x)
    ids, _, z_hat = tokenizer.encode(x, "new")
    torch.testing.assert_close(tokenizer.model.latents(ids), z_hat)


def test_the_unnamed_experts_share_of_a_dense_mixture_goes_to_the_named_one(fitted: Callable[..., Tokenizer]) -> None:
    for top_k in (1, 2):
        model = fitted(preset="public_code", top_k=top_k).model
        assert float(model.mean_weights.sum()) == pytest.approx(model.preset.routed_scale)


def test_a_report_refuses_a_domain_that_it_does_not_know(
    fitted: Callable[..., Tokenizer], small_domains: dict[str, Tensor]
) -> None:
    x = next(iter(small_domains.values()))
    with pytest.raises(ValueError, match=r"domain must be one of .*, got 'typo'"):
        fitted(preset="normalised", top_k=1).report(x, "typo")


def test_more_experts_than_items_are_refused(make_config: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"^fit: the number of items must be at least 9, got 8\. "):
        Tokenizer.fit({"a": torch.randn(8, 4)}, make_config(num_experts=9, top_k=1))
