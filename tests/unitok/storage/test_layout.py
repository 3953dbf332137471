"""Settings and weights are held together before anything is built of either, for torch and for serving alike."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unitok import Tokenizer, UniTokConfig, serving
from unitok.storage.digest import sealed
from unitok.storage.layout import checked_config
from unitok.storage.pair import SETTINGS, read_pair

LOADERS: dict[str, Callable[[Path], object]] = {"torch": Tokenizer.from_pretrained, "serving": serving.load}
# What the settings are changed to, and what the message names.
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "width of a gigabyte": ({"input_dim": 2**30}, "encoder.0.weight"),
    "codebooks of a gigabyte": ({"config.codebook_size": 2**30}, "quantizer.codebooks"),
    "levels of a gigabyte": ({"config.num_levels": 2**40}, "quantizer.codebooks"),
    "hidden layers": ({"config.encoder_widths": [2**40]}, "encoder.0.weight"),
    "a layer more": ({"config.encoder_widths": [16, 16, 16, 16, 16]}, "encoder."),
    "experts of a gigabyte": ({"router_experts": 2**30}, "router."),
    "one expert more": ({"router_experts": 4}, "router."),
    "no router": ({"router_experts": 0}, "router."),
    "experts as text": ({"router_experts": "3"}, "router_experts"),
    "top_k": ({"config.top_k": 2}, "mean_weights"),
    "top_k over the experts": ({"config.top_k": 9}, "top_k"),
    "another preset": ({"config.preset": "paper"}, ""),
    "expert as text": ({"domains.0.expert": "1"}, "expert"),
    "expert of 30 digits": ({"domains.0.expert": 10**30}, "expert"),
    "expert of the router's": ({"domains.0.expert": 1}, "expert"),
    "expert that isn't there": ({"domains.0.expert": 3}, "expert"),
    "name as a number": ({"domains.0.name": 7}, "name"),
    "no count": ({"domains.0.num_items": None}, "num_items"),
    "familiar null": ({"familiar": None}, "familiar"),
    "familiar of texts": ({"familiar": {"a": {"collision_rate": "no"}}}, "familiar"),
    "embedding as text": ({"embedding": "minilm"}, "embedding"),
    "embedding without model": ({"embedding": {"template": "{text}"}}, "embedding"),
    "history null": ({"history": None}, "history"),
    "domains null": ({"domains": None}, "domains"),
    "width as a float": ({"input_dim": 12.0}, "input_dim"),
    "width as true": ({"input_dim": True}, "input_dim"),
}


@pytest.fixture
def folder(fitted: Callable[..., Tokenizer], tmp_path: Path) -> Path:
    fitted(preset="normalised", top_k=1).save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, changes: dict[str, Any]) -> None:
    """Settings with other values, vouched for by their digest: what a person may have done by hand."""
    settings = json.loads((folder / SETTINGS).read_text())
    del settings["digest"]
    for path, value in changes.items():
        *outer, last = path.split(".")
        place = settings
        for name in outer:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    (folder / SETTINGS).write_text(json.dumps(sealed(settings)))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_settings_are_one_line_and_no_memory(odd: str, loader: str, folder: Path) -> None:
    changes, named = ODD[odd]
    if odd == "another preset":  # as wide as the other: it is not in the shapes, so the digest alone tells
        before = (folder / SETTINGS).read_text()
        (folder / SETTINGS).write_text(before.replace('"normalised"', '"paper"'))
    else:
        change(folder, changes)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"^\w+: directory must hold a whole tokenizer, got [^\n]*\.$") as caught:
        LOADERS[loader](folder)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 100 << 10  # KiB


@pytest.mark.parametrize("loader", LOADERS)
def test_one_flipped_bit_of_the_settings_changes_nothing_in_silence(loader: str, folder: Path) -> None:
    whole = (folder / SETTINGS).read_bytes()
    settings, weights = read_pair("test", folder)
    rng = np.random.default_rng(0)
    said = []
    for place in rng.choice(len(whole), 150, replace=False):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        (folder / SETTINGS).write_bytes(flipped)
        try:
            LOADERS[loader](folder)
        except (ValueError, FileNotFoundError) as error:
            said.append(str(error))
        else:  # white space: the same settings
            assert json.loads(flipped) == json.loads(whole)
    assert len(said) > 100
    assert not any("\n" in line for line in said)
    assert checked_config(settings, weights) == UniTokConfig.from_dict(settings["config"])


def test_settings_of_the_release_before_load_under_their_old_name(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    expected = Tokenizer.from_pretrained(folder).fingerprint()
    del settings["digest"]
    (folder / SETTINGS).unlink()
    (folder / "tokenizer.json").write_text(json.dumps({**settings, "format": 1}))
    for load in LOADERS.values():
        load(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.fingerprint() == expected
    tokenizer.save_pretrained(folder, force=True)
    assert sorted(file.name for file in folder.iterdir()) == ["model.safetensors", SETTINGS]
