"""The faults that public code of this field has: one test each that would find it in ours.

Trap 2, metrics that match token strings instead of items, is in test_ranking.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk
from unitok import LossWeights, Tokenizer, UniTokConfig, UniTokModel
from unitok.training.losses import losses
from unitok.training.monitor import alarms, describe, snapshot


def test_trap_1_the_calibration_is_not_zero_and_moves_the_encoder(
    small_domains: dict[str, Tensor], make_config: Callable[..., UniTokConfig]
) -> None:
    torch.manual_seed(0)
    model = UniTokModel(32, 3, make_config(weights=LossWeights(0.0, 0.0, calibration=1.0, beta=1.0)))
    x = torch.cat([rows[:40] for rows in small_domains.values()])
    domains = torch.arange(3).repeat_interleave(40)
    found = losses(x, model(x), domains, 3, model.config)
    assert found.calibration.loss.abs() > 1e-3
    assert found.calibration.values.gt(0).all()
    weights = [p for p in model.encoder.parameters() if p.dim() == 2]
    for gradient in torch.autograd.grad(found.total, weights):
        assert gradient.abs().max() > 1e-6

    lone = losses(x[::40], model(x[::40]), domains[::40], 3, model.config)  # one row a domain: 0/0 is not 0
    assert lone.calibration.values.isnan().all()
    assert lone.total.isfinite()

    last = []
    for weight in (0.0, 3.0):  # of CKA, which a few steps can move
        config = make_config(epochs=2, weights=LossWeights(calibration=weight, beta=1.0), normalised_hsic=True)
        last.append(Tokenizer.fit(small_domains, config).history[-1])
    assert all(last[1]["hsic"][name] > last[0]["hsic"][name] + 0.01 for name in small_domains)


def test_trap_3_a_level_that_says_nothing_new_is_found(fitted, small_domains) -> None:
    sound: Tokenizer = fitted(preset="normalised", top_k=1)
    assert sound.report(small_domains).redundant_levels == {}
    tokenizer = copy.deepcopy(sound)
    with torch.no_grad():
        tokenizer.model.quantizer.codebooks[:, 2] = 0.0  # its code is the same for all items of an expert
    report = tokenizer.report(small_domains)
    assert set(report.redundant_levels) == {2}
    assert any("redundant level 2" in line for line in report.summary())
    x = torch.cat(list(small_domains.values()))
    labels = torch.repeat_interleave(torch.tensor([len(rows) for rows in small_domains.values()]))
    seen = snapshot(tokenizer.model, x)
    found = alarms(describe(seen, labels, list(small_domains), 3, 16))
    assert [alarm for alarm in found if alarm.startswith("redundant level: level 2")]
    seen.quantized.codes[:, 0, 2] = (seen.quantized.codes[:, 0, 1] + 5) % 16  # or it repeats the level before
    found = alarms(describe(seen, labels, list(small_domains), 3, 16))
    assert [alarm for alarm in found if alarm.startswith("redundant level: level 2 (repeats level 1")]


@pytest.mark.parametrize("preset", ["normalised", "public_code"])
def test_trap_4_neighbours_do_not_change_an_id(preset: str, fitted, small_domains) -> None:
    tokenizer, x = fitted(preset=preset), small_domains["books"]
    alone = tokenizer.tokenize(x[:1])
    crowds = {
        "copies": x[:1].repeat(500, 1),
        "others": x,
        "huge": torch.cat([x[:1], 1e6 * torch.randn(300, 32)]),
        "tiny": torch.cat([x[:1], 1e-6 * torch.randn(300, 32)]),
    }
    for kind, crowd in crowds.items():
        assert tokenizer.tokenize(crowd)[:1].equals(alone), kind


@pytest.mark.parametrize(
    "sizes",
    [
        {"only": 90},
        {"b": 40, "a": 130},
        {"toys": 50, "toys count": 60, "hsic toys": 20, "": 30, "Spielzeug & mehr 🎲": 45, "1": 33, "loss": 21},
    ],
)
def test_trap_5_no_domain_count_name_or_length_is_written_into_the_code(
    sizes: dict[str, int], make_items, make_config, tmp_path
) -> None:
    width = 19
    domains = {name: make_items(rows, seed=seed, width=width) for seed, (name, rows) in enumerate(sizes.items())}
    tokenizer = Tokenizer.fit(domains, make_config(epochs=2, codebook_dim=5, num_levels=2, codebook_size=7))
    assert list(tokenizer.history[-1]["hsic"]) == list(domains)
    assert all(0 < value < 1 for value in tokenizer.history[-1]["hsic"].values())
    assert tokenizer.model.num_experts == len(domains)
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    for name, rows in domains.items():
        ids = loaded.tokenize(rows, name)
        assert ids.equals(tokenizer.tokenize(rows))
        assert ids.vocabulary_sizes() == [7, 7, len(domains)]
    assert list(loaded.report(domains).domains) == list(domains)


def test_trap_5_hsic_is_each_domains_own_whatever_the_names(small_domains, make_config) -> None:
    books, toys = small_domains["books"], small_domains["toys"]
    plain = Tokenizer.fit({"x": books, "y": toys}, make_config(epochs=2))
    odd = Tokenizer.fit({"toys": books, "toys count": toys}, make_config(epochs=2))
    assert list(plain.history[-1]["hsic"].values()) == list(odd.history[-1]["hsic"].values())


@pytest.mark.parametrize("num_experts", [1, 2, 5])
def test_trap_5_experts_may_be_fewer_or_more_than_domains(num_experts: int, small_domains, make_config) -> None:
    tokenizer = Tokenizer.fit(small_domains, make_config(epochs=2, num_experts=num_experts))
    report = tokenizer.report(small_domains)
    assert len(report.expert_load) == num_experts
    assert min(report.expert_load) > 0
    tokenizer.add_domain("new", small_domains["toys"])
    assert (tokenizer.tokenize(small_domains["toys"], "new").experts == num_experts).all()


@pytest.mark.parametrize("change", ["missing", "further", "reshaped"])
def test_trap_5_weights_are_loaded_strictly(change: str, make_config) -> None:
    model = UniTokModel(32, 3, make_config())
    state = dict(model.state_dict())
    if change == "missing":
        del state["router.bias"]
    elif change == "further":
        state["router.scale"] = torch.ones(())
    else:
        state["mean_weights"] = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"router|mean_weights"):
        model.load_state_dict(state)


def test_trap_5_singletons_do_not_hang(make_items, make_config) -> None:
    one, two = make_items(1, seed=0), make_items(1, seed=1)
    lone = Tokenizer.fit({"a": one, "b": two}, make_config(epochs=2))
    assert [int(lone.tokenize(x).experts[0, 0]) for x in (one, two)] == [0, 1]
    assert lone.decode(lone.tokenize(one)).isfinite().all()
    alike = Tokenizer.fit({"a": one.repeat(70, 1), "b": make_items(80, seed=2)}, make_config(epochs=2))
    assert (alike.tokenize(one.repeat(3, 1)).codes == alike.tokenize(one).codes).all()
    alike.add_domain("c", two)
    assert alike.tokenize(two, "c").experts.tolist() == [[2]]
    assert lone.report({"a": one}).overall.collision_rate == 0


def test_trap_5_empty_codebooks_are_refused(refuses) -> None:
    for name in ("codebook_size", "num_levels", "codebook_dim"):
        with refuses("UniTokConfig", name):
            UniTokConfig(**{name: 0})
    z = torch.zeros(3, 4)
    for shape in ((0, 5, 4), (2, 0, 4)):
        with pytest.raises(ValueError, match="residual_encode: codebooks must be"):
            uk.residual_encode(z, torch.zeros(shape))
