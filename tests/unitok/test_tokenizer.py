"""The front door: an item's ID hangs on nothing but the item, comes back from a file, and outlives new domains."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unitok import SemanticIds, Tokenizer, UniTokModel
from unitok.config import PRESETS
from unitok.data import EmbeddingInfo
from unitok.storage import SETTINGS, WEIGHTS

EVERY = [(preset, top_k, None) for preset in PRESETS for top_k in (1, 2)] + [("normalised", 1, 0)]
WIDTH, LEVELS, SIZE = 32, 3, 16
MADE_BY = EmbeddingInfo("a-model", "{title} . Category: {category}")


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


def bytes_of(ids: SemanticIds) -> dict[str, bytes]:
    layouts = ["top1"]
    layouts += ["top1_shared"] if ids.shared_codes is not None else []
    layouts += ["all_slots"] if ids.slot_codes is not None else []
    return {layout: ids.pack(layout).tobytes() for layout in layouts}


# ---- the same item, the same ID


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


# ---- what goes in


def test_inputs_of_every_kind_give_the_same_ids(tokenizer: Tokenizer, x: Tensor, tmp_path: Path) -> None:
    half = x.half()
    expected = tokenizer.tokenize(half.float())
    rows = half.numpy()
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert not mapped.flags.writeable
    wide = torch.zeros(len(x), 2 * WIDTH, dtype=torch.float16)
    wide[:, ::2] = half
    kinds = {
        "float16": half,
        "float32": half.float(),
        "float64": half.double(),
        "numpy float16": rows,
        "numpy float32": rows.astype(np.float32),
        "numpy float64": rows.astype(np.float64),
        "other byte order": rows.astype(">f4"),
        "memory-mapped": mapped,
        "memory-mapped slice": mapped[:],
        "every second column": wide[:, ::2],
        "transposed": half.T.contiguous().T,
        "numpy, every second column": wide.numpy()[:, ::2],
        "numpy, Fortran order": np.asfortranarray(rows),
        "numpy, backwards": rows[::-1][::-1],
        "with a gradient": half.float().requires_grad_(),
    }
    for kind, value in kinds.items():
        assert tokenizer.tokenize(value).equals(expected), kind
    assert np.array_equal(mapped, rows)
    bfloat = x.bfloat16()
    assert tokenizer.tokenize(bfloat).equals(tokenizer.tokenize(bfloat.float()))


def test_no_items_work(any_tokenizer: Tokenizer) -> None:
    ids = any_tokenizer.tokenize(torch.empty(0, WIDTH))
    assert ids.codes.shape == (0, LEVELS)
    assert ids.experts.shape == (0, any_tokenizer.config.top_k)
    assert any_tokenizer.decode(ids).shape == (0, WIDTH)
    assert len(ids.assign([])) == 0


def test_ids_have_the_fields_of_the_contract(any_tokenizer: Tokenizer, x: Tensor) -> None:
    ids, config = any_tokenizer.tokenize(x), any_tokenizer.config
    assert ids.codes.shape == (len(x), LEVELS)
    assert ids.experts.shape == (len(x), config.top_k)
    assert (ids.codebook_size, ids.num_experts) == (SIZE, 1 if config.num_experts == 0 else 3)
    if config.num_experts == 0:
        assert ids.shared_codes is None
        assert not ids.experts.any()
    else:
        assert ids.shared_codes.shape == (len(x), LEVELS)
        assert len(ids.experts[:, 0].unique()) == 3
    if config.top_k == 1:
        assert ids.slot_codes is None
    else:
        assert ids.slot_codes.shape == (len(x), 2, LEVELS)
        assert torch.equal(ids.slot_codes[:, 0], ids.codes)
        assert (ids.experts[:, 0] != ids.experts[:, 1]).all()


@pytest.mark.parametrize("resolver", ["suffix", "reassign"])
def test_ids_are_told_apart(any_tokenizer: Tokenizer, x: Tensor, resolver: str) -> None:
    ids = any_tokenizer.tokenize(x)
    nearest = (ids.last_residual[:, None] - ids.last_codebooks[ids.experts[:, 0]]).square().sum(2).argmin(1)
    assert (nearest == ids.codes[:, -1]).all()  # `reassign` starts from the right residual
    told = ids.assign(range(len(x)), resolver)
    assert len({tuple(row) for row in ids.tokens().tolist()}) < len(x)
    assert len({tuple(row) for row in told.tokens().tolist()}) == len(x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_named(bad: float, tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    broken = x.clone()
    broken[41, 3] = bad
    for call in (
        lambda: tokenizer.tokenize(broken),
        lambda: tokenizer.add_domain("new", broken),
        lambda: tokenizer.report(broken),
    ):
        with pytest.raises(ValueError, match=r"x must be finite, got -?(nan|inf) at row 41\. "):
            call()
    with refuses("tokenize", "x"):
        tokenizer.tokenize(torch.full((2, WIDTH), 1e300, dtype=torch.float64))
    assert set(tokenizer.domains) == {"books", "games", "toys"}


def test_what_is_no_matrix_of_items_is_refused(tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    for value in ([[0.0] * WIDTH], None, x.long(), x.long().numpy(), np.array([["a"]]), np.array([[object()]])):
        with refuses("tokenize", "x", TypeError):
            tokenizer.tokenize(value)
    for value in (x[0], x[None], x[:, :-1], torch.zeros(3, WIDTH + 1)):
        with refuses("tokenize", "x"):
            tokenizer.tokenize(value)


def test_an_unknown_domain_is_refused(tokenizer: Tokenizer, x: Tensor, refuses) -> None:
    with refuses("tokenize", "domain") as caught:
        tokenizer.tokenize(x, "boks")
    assert "books, games, toys" in str(caught.value)
    assert tokenizer.tokenize(x, "games").equals(tokenizer.tokenize(x))


def test_embeddings_of_another_model_are_refused(
    small_domains, make_config, x: Tensor, tmp_path: Path, refuses
) -> None:
    tokenizer = Tokenizer.fit(small_domains, make_config(epochs=1), embedding=MADE_BY)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.embedding == MADE_BY
    equal = EmbeddingInfo(MADE_BY.model, MADE_BY.template)
    assert tokenizer.tokenize(x, embedding=equal).equals(tokenizer.tokenize(x))
    for other in (EmbeddingInfo("b-model", MADE_BY.template), EmbeddingInfo(MADE_BY.model, "{title}")):
        with refuses("tokenize", "embedding"):
            tokenizer.tokenize(x, embedding=other)
        with refuses("add_domain", "embedding"):
            tokenizer.add_domain("new", x, embedding=other)
    tokenizer.add_domain("new", x, embedding=equal)


def test_a_fit_refuses_what_it_cannot_be_fitted_on(small_domains, make_config, refuses) -> None:
    config, books = make_config(epochs=1), small_domains["books"]
    with refuses("fit", "domains"):
        Tokenizer.fit({}, config)
    with refuses("fit", "domains['empty']'s rows"):
        Tokenizer.fit({"books": books, "empty": books[:0]}, config)
    with refuses("fit", "domains['narrow']"):
        Tokenizer.fit({"books": books, "narrow": books[:, :-1]}, config)
    with refuses("fit", "domains['list']", TypeError):
        Tokenizer.fit({"list": [[1.0]]}, config)
    broken = books.clone()
    broken[7, 0] = torch.nan
    with refuses("fit", "domains['books']") as caught:
        Tokenizer.fit({"books": broken}, config)
    assert "row 7" in str(caught.value)
    with refuses("UniTokModel", "top_k"):
        Tokenizer.fit({"books": books}, make_config(epochs=1, top_k=2))


# ---- the codes are right


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


# ---- and back again


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


# ---- new domains


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


# ---- files


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
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | changes))


def reseal(folder: Path, state: dict[str, Tensor]) -> None:
    """Weights that settings vouch for, whatever they are."""
    save_file(state, folder / WEIGHTS)
    change(folder, weights=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def _without_history(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    del settings["history"]
    (folder / SETTINGS).write_text(json.dumps(settings))


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
    "settings: later format": lambda f: change(f, format=2),
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
