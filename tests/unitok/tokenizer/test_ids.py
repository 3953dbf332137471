"""An item's ID hangs on nothing but the item, is the float64 argmin, and comes back from a folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unitok.tokenizer.made import EVERY, LEVELS, SIZE
from unitok import SemanticIds, Tokenizer, UniTokModel
from unitok.config import PRESETS


def test_an_item_has_the_same_id_in_any_batch_and_order(any_tokenizer: Tokenizer, x: Tensor) -> None:
    whole = any_tokenizer.tokenize(x)
    for row in range(0, len(x), 97):
        alone = any_tokenizer.tokenize(x[row : row + 1])
        assert alone.equals(whole[[row]])
        assert torch.equal(alone.last_residual, whole.last_residual[[row]])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert any_tokenizer.tokenize(x[order]).equals(whole[order])
    for size in (7, 255, 257):
        assert SemanticIds.concatenate([any_tokenizer.tokenize(rows) for rows in x.split(size)]).equals(whole)


@pytest.mark.parametrize("widths", [(32,), (70, 33), (96, 64, 17)])
def test_an_item_has_the_same_latent_at_every_place_of_a_block(widths: tuple[int, ...], make_config) -> None:
    torch.manual_seed(0)
    model = UniTokModel(48, 3, make_config(encoder_widths=widths))
    x = torch.randn(256, 48)
    z, logits = model.encode(x)
    for places in range(256):
        moved_z, moved_logits = model.encode(x.roll(places, 0))
        assert torch.equal(moved_z, z.roll(places, 0))
        assert torch.equal(moved_logits, logits.roll(places, 0))
    for rows in (1, 2, 3, 5, 17, 100, 255):  # and with padding in the place of the others
        short_z, short_logits = model.encode(x[-rows:])
        assert torch.equal(short_z, z[-rows:])
        assert torch.equal(short_logits, logits[-rows:])


def test_an_item_has_the_same_id_in_another_process_with_other_threads(fitted, x: Tensor, tmp_path: Path) -> None:
    for preset in PRESETS:
        fitted(preset=preset, top_k=2).save_pretrained(tmp_path / preset)
    np.save(tmp_path / "x.npy", x.numpy())
    script = """
import sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(int(sys.argv[2]))
from unitok import Tokenizer
folder = Path(sys.argv[1])
x = np.load(folder / "x.npy")
for path in sorted(p for p in folder.iterdir() if p.is_dir()):
    tokenizer = Tokenizer.from_pretrained(path)
    halves = [tokenizer.tokenize(part) for part in (x[:301], x[301:])]
    np.save(folder / f"{path.name}.npy", np.concatenate([ids.pack("all_slots") for ids in halves]))
    np.save(folder / f"{path.name}-shared.npy", np.concatenate([ids.pack("top1_shared") for ids in halves]))
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "1"], check=True)
    for preset in PRESETS:
        ids = fitted(preset=preset, top_k=2).tokenize(x)
        assert np.load(tmp_path / f"{preset}.npy").tobytes() == ids.pack("all_slots").tobytes()
        assert np.load(tmp_path / f"{preset}-shared.npy").tobytes() == ids.pack("top1_shared").tobytes()


def test_a_tokenizer_comes_back_from_its_folder(any_tokenizer: Tokenizer, x: Tensor, tmp_path: Path) -> None:
    any_tokenizer.save_pretrained(tmp_path / "new" / "folder")
    loaded = Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    before, after = any_tokenizer.tokenize(x), loaded.tokenize(x)
    assert after.equals(before)
    assert torch.equal(after.last_residual, before.last_residual)
    assert torch.equal(after.last_codebooks, before.last_codebooks)
    assert torch.equal(loaded.decode(after), any_tokenizer.decode(before))
    assert loaded.config == any_tokenizer.config
    assert loaded.domains == any_tokenizer.domains
    assert loaded.history == any_tokenizer.history
    emitted = replace(before, shared_codes=None, slot_codes=None)
    assert torch.equal(loaded.decode(emitted), any_tokenizer.decode(emitted))  # the means are kept as well


def nearest(rows: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One residual chain of each row's own codebooks (N, L, K, D), in float64: codes and what is left."""
    codes = []
    for level in range(codebooks.shape[1]):
        table = codebooks[:, level]
        codes.append(((rows[:, None] - table) ** 2).sum(2).argmin(1))
        rows = rows - table[np.arange(len(rows)), codes[-1]]
    return np.stack(codes, 1), rows


@pytest.mark.parametrize(("preset", "top_k"), [(p, s) for p, s, e in EVERY if e is None and p != "public_code"])
def test_codes_are_the_argmin_in_float64(preset: str, top_k: int, fitted, x: Tensor) -> None:
    tokenizer = fitted(preset=preset, top_k=top_k)
    ids = tokenizer.tokenize(x)
    state = {name: value.double().numpy() for name, value in tokenizer.model.state_dict().items()}
    hidden = x.double().numpy()
    layers = sorted({int(name.split(".")[1]) for name in state if name.startswith("encoder.")})
    for layer in layers:
        hidden = np.maximum(hidden, 0) if layer else hidden
        hidden = hidden @ state[f"encoder.{layer}.weight"].T + state[f"encoder.{layer}.bias"]
    z = hidden.astype(np.float32).astype(np.float64)
    logits = z @ state["router.weight"].T + state["router.bias"]
    experts = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(ids.experts.numpy(), experts)
    everyones = np.broadcast_to(state["quantizer.shared_codebooks"], (len(x), LEVELS, SIZE, z.shape[1]))
    shared, left = nearest(z, everyones)
    np.testing.assert_array_equal(ids.shared_codes.numpy(), shared)
    for slot in range(top_k):
        start = left if preset == "shared_first" else z
        codes, _ = nearest(start, state["quantizer.codebooks"][experts[:, slot]])
        found = ids.codes if slot == 0 else ids.slot_codes[:, slot]
        np.testing.assert_array_equal(found.numpy(), codes)
