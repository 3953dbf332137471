"""Training: the same seed gives the same weights to the bit, also after a kill; what goes wrong is said."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import unitok.training.trainer
from unitok import Tokenizer, UniTokConfig, UniTokModel
from unitok.storage.checkpoint import read_progress
from unitok.storage.whole import BusyError
from unitok.training.batches import StratifiedBatches
from unitok.training.trainer import CHECKPOINT, HISTORY, Trainer

STEPS = 18  # 3 epochs of 6 steps: one of warm-up, two together


class KilledError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture
def domains(small_domains: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: rows[: len(rows) // 2] for name, rows in small_domains.items()}


@pytest.fixture
def config(make_config) -> UniTokConfig:
    return make_config(epochs=3, batch_size=64, top_k=2, preset="shared_first")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every four steps, for runs this short."""
    monkeypatch.setattr(unitok.training.trainer, "CHECKPOINT_STEPS", 4)


def weights(tokenizer: Tokenizer) -> dict[str, Tensor]:
    return dict(tokenizer.model.state_dict())


def equal(a: Tokenizer, b: Tokenizer) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def timeless(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def kept(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / HISTORY).read_text().splitlines()]


def test_equal_seeds_give_equal_weights_whatever_else_is_random(domains, config, make_config) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = Tokenizer.fit(domains, config)
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the caller's randomness alone
    torch.manual_seed(2)
    two = Tokenizer.fit(domains, config)
    assert equal(one, two)
    assert timeless(one.history) == timeless(two.history)
    other = Tokenizer.fit(domains, make_config(**{**config.to_dict(), "seed": 1}))
    assert not any(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize("killed_at", [3, 5, 6, 7, 10, 12, STEPS])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    killed_at: int, domains, config, tmp_path: Path, often: None
) -> None:
    # in the warm-up before and after a checkpoint; in its last step; right after the start; mid-epoch; at the end
    def kill(done: int, _: int, __: str) -> None:
        if done == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        Tokenizer.fit(domains, config, directory=tmp_path, progress=kill)
    assert read_progress(tmp_path / CHECKPOINT)["step"] < killed_at
    steps: list[int] = []
    resumed = Tokenizer.fit(domains, config, directory=tmp_path, progress=lambda done, *_: steps.append(done))
    whole = Tokenizer.fit(domains, config, directory=tmp_path / "whole")
    assert steps[0] <= killed_at
    assert steps == list(range(steps[0], STEPS + 1))
    assert killed_at - steps[0] < 4 + 1
    assert equal(resumed, whole)
    assert timeless(resumed.history) == timeless(whole.history) == timeless(kept(tmp_path))


def test_a_run_may_be_killed_time_and_again(domains, config, tmp_path: Path, often: None) -> None:
    def kill(done: int, _: int, __: str) -> None:
        if done in due:
            due.remove(done)
            raise KilledError

    def kill_after_epoch(record: dict) -> None:
        if record["epoch"] in epochs:
            epochs.remove(record["epoch"])
            raise KilledError

    due, epochs, runs = {2, 6, 9, 13, 17}, {0, 1, 2}, 0
    while True:
        runs += 1
        try:
            resumed = Tokenizer.fit(domains, config, directory=tmp_path, progress=kill, on_epoch=kill_after_epoch)
            break
        except KilledError:
            with (tmp_path / HISTORY).open("a") as file:
                file.write('{"epoch": 7, "los')  # what a kill in the middle of a line leaves
    assert runs == 9
    whole = Tokenizer.fit(domains, config)
    assert equal(resumed, whole)
    assert timeless(kept(tmp_path)) == timeless(whole.history)


def test_a_process_that_is_killed_resumes(domains, config, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{name: rows.numpy() for name, rows in domains.items()})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    script = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(2)
import unitok.training.trainer
from unitok import Tokenizer, UniTokConfig
unitok.training.trainer.CHECKPOINT_STEPS = 4
folder = Path(sys.argv[1])
data = np.load(folder / "data.npz")
def progress(done, total, line):
    print(done, flush=True)
    time.sleep(0.5 if done > 9 else 0)  # so that the signal comes before the end
config = UniTokConfig.from_dict(json.loads((folder / "config.json").read_text()))
Tokenizer.fit({name: data[name] for name in data}, config, directory=folder / "run", progress=progress)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "11":
            child.send_signal(signal.SIGKILL)
            break
    child.stdout.close()
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert 8 <= read_progress(tmp_path / "run" / CHECKPOINT)["step"] < STEPS
    resumed = Tokenizer.fit(domains, config, directory=tmp_path / "run")
    whole = Tokenizer.fit(domains, config)
    assert equal(resumed, whole)
    assert timeless(resumed.history) == timeless(whole.history)


def test_a_finished_run_is_not_trained_again(domains, config, tmp_path: Path) -> None:
    first = Tokenizer.fit(domains, config, directory=tmp_path)
    steps: list[int] = []
    again = Tokenizer.fit(domains, config, directory=tmp_path, progress=lambda done, *_: steps.append(done))
    assert steps == []
    assert equal(first, again)
    assert first.history == again.history
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CHECKPOINT, HISTORY])


@pytest.mark.parametrize("other", ["settings", "domains", "embeddings"])
def test_another_runs_checkpoint_is_refused(other: str, domains, config, make_config, tmp_path: Path, refuses) -> None:
    with pytest.raises(KilledError):
        Tokenizer.fit(domains, config, directory=tmp_path, progress=_kill)
    before = (tmp_path / CHECKPOINT).read_bytes()
    if other == "settings":
        config = make_config(**{**config.to_dict(), "learning_rate": 1e-4})
    elif other == "domains":
        domains = {name.title(): rows for name, rows in domains.items()}
    else:
        domains = {name: rows.clone() for name, rows in domains.items()}
        domains["toys"][17, 3] += 1e-6
    with refuses("fit", str(tmp_path)) as caught:
        Tokenizer.fit(domains, config, directory=tmp_path)
    assert f"the same {other}" in str(caught.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def _kill(*_: object) -> None:
    raise KilledError


def test_a_broken_checkpoint_is_refused(domains, config, tmp_path: Path, refuses) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not this")
    with refuses("fit", str(tmp_path / CHECKPOINT)):
        Tokenizer.fit(domains, config, directory=tmp_path)


def test_the_history_says_everything_of_every_epoch(domains, config, tmp_path: Path) -> None:
    told: list[dict] = []
    Tokenizer.fit(domains, config, directory=tmp_path, on_epoch=told.append)
    history = kept(tmp_path)
    assert history == json.loads(json.dumps(told))
    assert [record["epoch"] for record in history] == [0, 1, 2]
    assert [record["step"] for record in history] == [6, 12, 18]
    everywhere = {"loss", "reconstruction", "validation_reconstruction", "seconds", "alarms"}
    for record in history:
        assert everywhere <= record.keys()
    levels, experts = 3, 3
    for record in history[1:]:
        assert {"quantisation", "calibration", "hsic_variance", "collision_rate", "redundant_levels"} <= record.keys()
        for name in ("hsic", "equal_hsic", "router_entropy"):
            assert set(record[name]) == set(domains)
        assert len(record["expert_load"]) == experts
        assert sum(record["expert_load"]) == pytest.approx(1)
        for name in ("utilisation", "perplexity"):
            assert np.array(record[name]).shape == (experts, levels)
        assert len(record["dead_codes"]) == len(record["level_entropy"]) == levels
        assert 0 < record["collision_rate"] < 1
        total = record["reconstruction"] + record["quantisation"] + 0.03 * record["calibration"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
    assert "quantisation" not in history[0]
    assert history[1]["revived"] >= 0
    assert "revived" not in history[2]  # nothing is moved after the last step


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_a_loss_that_is_not_finite_ends_the_run_with_advice(
    warmup_epochs: int, domains, config, make_config, tmp_path: Path
) -> None:
    wild = make_config(**{**config.to_dict(), "learning_rate": 1e30, "warmup_epochs": warmup_epochs})
    message = r"^fit: (the loss|latents) became NaN or infinite at step 1\. Lower learning_rate"
    with pytest.raises(RuntimeError, match=message):
        Tokenizer.fit(domains, wild, directory=tmp_path)
    assert read_progress(tmp_path / CHECKPOINT)["step"] == 0


def test_embeddings_of_another_scale_are_named_in_place_of_the_learning_rate(domains, config) -> None:
    with pytest.raises(RuntimeError, match=r"Scale the embeddings, whose largest value is \de\+\d\d,"):
        Tokenizer.fit({name: 1e18 * x for name, x in domains.items()}, config)


def test_a_second_fit_in_the_folder_is_refused_and_leaves_it_as_it_is(domains, config, tmp_path: Path) -> None:
    said = []

    def on_epoch(record: dict[str, object]) -> None:
        if record["epoch"] == 1:
            other = threading.Thread(target=try_it)
            other.start()
            other.join()

    def try_it() -> None:
        with pytest.raises(BusyError) as caught:
            Tokenizer.fit(domains, config, directory=tmp_path)
        said.append(str(caught.value))

    history = Tokenizer.fit(domains, config, directory=tmp_path, on_epoch=on_epoch).history
    assert len(said) == 1
    assert said[0].startswith(f"fit: {tmp_path} must be free to write to, got process {os.getpid()} on")
    assert (tmp_path / HISTORY).read_text().splitlines() == [json.dumps(record) for record in history]


@pytest.mark.parametrize("what", [CHECKPOINT, HISTORY])
def test_a_flipped_bit_in_what_a_run_left_is_refused(what: str, domains, config, tmp_path: Path) -> None:
    Tokenizer.fit(domains, config, directory=tmp_path)
    damaged = bytearray((tmp_path / what).read_bytes())
    damaged[len(damaged) * 2 // 3] ^= 1
    (tmp_path / what).write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"^fit: .*{what} must "):
        Tokenizer.fit(domains, config, directory=tmp_path)


def test_the_loss_falls(fitted) -> None:
    history = fitted(epochs=8).history
    assert history[-1]["loss"] < 0.9 * history[1]["loss"]
    assert history[-1]["reconstruction"] < 0.85 * history[0]["reconstruction"]
    assert history[-1]["validation_reconstruction"] < 0.95 * history[0]["validation_reconstruction"]
    assert history[-1]["alarms"] == []


def test_training_starts_from_means_and_kmeans(domains, make_config) -> None:
    still = make_config(epochs=1, learning_rate=1e-30, weight_decay=0.0, preset="shared_first")
    report = Tokenizer.fit(domains, still).report(domains)
    assert report.overall.own_expert > 0.9
    assert report.overall.error_of_latents < 0.05
    assert min(min(levels) for levels in report.utilisation) > 0.5


@pytest.mark.parametrize(("top_k", "placed"), [(1, True), (2, False)])
def test_a_router_without_gradient_is_kept_at_the_domains_means(
    top_k: int, placed: bool, domains, make_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []
    place = unitok.training.trainer.place_router
    monkeypatch.setattr(unitok.training.trainer, "place_router", lambda *args: (times.append(1), place(*args)))
    Tokenizer.fit(domains, make_config(epochs=4, top_k=top_k, preset="normalised"))
    assert len(times) == (3 if placed else 1)  # at the start, and after every epoch but the last


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_the_learning_rate_falls_by_a_cosine(final: float, domains, make_config) -> None:
    config = make_config(epochs=2, learning_rate=1e-3, final_learning_rate=final)
    x, rates = torch.cat(list(domains.values())), []
    labels = torch.repeat_interleave(torch.tensor([len(rows) for rows in domains.values()]))
    trainer = Trainer(UniTokModel(x.shape[1], 3, config), x, labels, list(domains), config)
    trainer.progress = lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"])
    trainer.run()
    expected = [final + (1 - final) * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
    assert rates == pytest.approx([1e-3 * share for share in expected])


def test_the_gradient_is_clipped(domains, make_config) -> None:
    start = Tokenizer.fit(domains, make_config(epochs=1, learning_rate=1e-30, weight_decay=0.0))
    moved = {}
    for clip in (1e-12, 1.0):
        end = Tokenizer.fit(domains, make_config(epochs=2, gradient_clip=clip, weight_decay=0.0))
        pairs = zip(start.model.encoder.parameters(), end.model.encoder.parameters(), strict=True)
        moved[clip] = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert moved[1.0] > 1e-3
    assert moved[1e-12] < 1e-2 * moved[1.0]  # under AdamW's epsilon, steps shrink with the gradient


def test_matrices_decay_and_codebooks_do_not(domains, make_config) -> None:
    config = make_config(epochs=1, learning_rate=1e-6, weight_decay=1e5)
    still = make_config(epochs=1, learning_rate=1e-6, weight_decay=0.0)
    decayed, kept_still = Tokenizer.fit(domains, config), Tokenizer.fit(domains, still)
    pairs = zip(decayed.model.named_parameters(), kept_still.model.parameters(), strict=True)
    for (name, a), b in pairs:
        shrunk = float(a.detach().norm() / b.detach().norm())
        if a.dim() == 2:
            assert shrunk < 0.98, name
        elif "codebooks" in name:
            assert shrunk > 0.999, name


def test_validation_items_teach_nothing(domains, make_config) -> None:
    config = make_config(epochs=3, batch_size=64, validation_fraction=0.2, preset="shared_first")
    labels = torch.repeat_interleave(torch.tensor([len(rows) for rows in domains.values()]))
    batches = StratifiedBatches(labels, 3, batch_size=64, min_domain_rows=16, validation_fraction=0.2, seed=config.seed)
    x = torch.cat(list(domains.values()))
    x[batches.validation] = torch.randn(len(batches.validation), x.shape[1])
    other = dict(zip(domains, x.split([len(rows) for rows in domains.values()]), strict=True))
    one, two = Tokenizer.fit(domains, config), Tokenizer.fit(other, config)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.history[-1]["validation_reconstruction"] < two.history[-1]["validation_reconstruction"]


def test_a_domain_of_few_items_is_dropped_from_the_calibration_and_said(domains, make_config) -> None:
    config = make_config(epochs=2)
    tokenizer = Tokenizer.fit(domains | {"rare": domains["toys"][:3]}, config)
    record = tokenizer.history[-1]
    assert record["hsic"]["rare"] is None
    assert all(record["hsic"][name] > 0 for name in domains)
    assert any(alarm.startswith("domain dropped: too few rows of rare") for alarm in record["alarms"])
