"""A tokenizer's folder: no pickle, no overwriting, and whatever is broken is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unitok.tokenizer.made import WIDTH, bytes_of
from unitok import Tokenizer
from unitok.storage.digest import sealed
from unitok.storage.pair import SETTINGS, WEIGHTS


def test_files_hold_no_pickle_and_are_not_overwritten(
    tokenizer: Tokenizer, x: Tensor, strangers: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, SETTINGS])
    json.loads((tmp_path / SETTINGS).read_text())
    length = int.from_bytes((tmp_path / WEIGHTS).read_bytes()[:8], "little")
    header = json.loads((tmp_path / WEIGHTS).read_bytes()[8 : 8 + length])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}

    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ids = bytes_of(tokenizer.tokenize(x))
    tokenizer.add_domain("music", strangers)
    with pytest.raises(FileExistsError, match=r"^save_pretrained: directory must .+, got .+\. .+force=True\.$"):
        tokenizer.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    tokenizer.save_pretrained(tmp_path, force=True)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert bytes_of(loaded.tokenize(x)) == ids
    assert "music" in loaded.domains


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_a_missing_file_is_named(name: str, tokenizer: Tokenizer, tmp_path: Path, refuses) -> None:
    with refuses("from_pretrained", "directory", FileNotFoundError):
        Tokenizer.from_pretrained(tmp_path / "nothing")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with refuses("from_pretrained", "directory", FileNotFoundError) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert name in str(caught.value)


def change(folder: Path, **changes: object) -> None:
    """Settings that their digest vouches for, whatever they are."""
    settings = json.loads((folder / SETTINGS).read_text()) | changes
    del settings["digest"]
    (folder / SETTINGS).write_text(json.dumps(sealed(settings)))


def reseal(folder: Path, state: dict[str, Tensor]) -> None:
    """Weights that settings vouch for, whatever they are."""
    save_file(state, folder / WEIGHTS)
    change(folder, weights=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def _without_history(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    del settings["history"], settings["digest"]
    (folder / SETTINGS).write_text(json.dumps(sealed(settings)))


def _flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def _other_levels(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    reseal(folder, state | {"quantizer.codebooks": state["quantizer.codebooks"][:, :-1].contiguous()})


def _further(folder: Path) -> None:
    reseal(folder, load_file(folder / WEIGHTS) | {"further": torch.zeros(2)})


def _fewer(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["mean_weights"]
    reseal(folder, state)


BREAKS: dict[str, Callable[[Path], object]] = {
    "settings: empty": lambda f: (f / SETTINGS).write_text(""),
    "settings: truncated": lambda f: (f / SETTINGS).write_text((f / SETTINGS).read_text()[:200]),
    "settings: no object": lambda f: (f / SETTINGS).write_text("[1, 2]"),
    "settings: not text": lambda f: (f / SETTINGS).write_bytes(b"\x80\x04\xff"),
    "settings: foreign": lambda f: (f / SETTINGS).write_text('{"model_type": "bert"}'),
    "settings: no history": _without_history,
    "settings: later format": lambda f: change(f, format=3),
    "settings: unknown setting": lambda f: change(f, config={"presets": "paper"}),
    "settings: wrong setting": lambda f: change(f, config={"preset": "papre"}),
    "settings: wrong domain": lambda f: change(f, domains=[{"title": "books"}]),
    "settings: wrong embedding": lambda f: change(f, embedding={"maker": "me"}),
    "settings: other width": lambda f: change(f, input_dim=WIDTH + 1),
    "settings: other experts": lambda f: change(f, router_experts=2),
    "weights: empty": lambda f: (f / WEIGHTS).write_bytes(b""),
    "weights: truncated": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-10]),
    "weights: a pickle": lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"a": 1})),
    "weights: one bit": _flip,
    "weights: of another": lambda f: save_file({"a": torch.zeros(2)}, f / WEIGHTS),
    "weights: other levels": _other_levels,
    "weights: one more": _further,
    "weights: one fewer": _fewer,
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_folder_is_refused_in_one_line(how: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    BREAKS[how](tmp_path)
    with pytest.raises(ValueError, match=r"^from_pretrained: directory must hold a whole tokenizer, got ") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert type(caught.value) is ValueError
    if "later format" in how:
        assert "later release" in str(caught.value)


def test_a_broken_baseline_is_refused_too(fitted, tmp_path: Path) -> None:
    fitted(num_experts=0).save_pretrained(tmp_path)
    _other_levels(tmp_path)
    with pytest.raises(ValueError, match=r"^from_pretrained: directory must hold a whole tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
