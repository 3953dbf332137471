"""Training: it learns, stops, keeps the best, and ends where it would have when it was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from unitok.recommender import (
    CausalRecommender,
    Histories,
    RQRecommender,
    SequenceRecommender,
    T5Recommender,
    TokenTable,
    TrainingConfig,
    evaluate,
    fit,
    gpt2_config,
)
from unitok.recommender.training import BEST, CHECKPOINT

ITEMS = 24


def table() -> TokenTable:
    """Items of three tokens each."""
    rows = torch.arange(ITEMS)
    return TokenTable(torch.stack([2 + rows // 8, 5 + rows % 8 // 2, 9 + rows % 2], 1), 11)


def cycles(users: int = 60) -> Histories:
    """Users who go through the items in order, from where chance puts them: the next item is certain."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (users,), generator=generator)
    starts = torch.randint(ITEMS, (users,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    place = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
    return Histories(offsets, (starts.repeat_interleave(lengths) + place) % ITEMS, torch.arange(users))


def make(kind: str = "causal") -> SequenceRecommender:
    if kind == "t5":
        from transformers import T5Config

        config = T5Config(d_model=32, num_layers=1, num_decoder_layers=1, num_heads=2, d_kv=16, d_ff=64)
        return T5Recommender.create(table(), config, history=5, beam=8)
    if kind == "rq":
        return RQRecommender.create(table(), gpt2_config(32, 1, 2, dropout=0.1), history=5, beam=8)
    return CausalRecommender.create(table(), gpt2_config(32, 1, 2, dropout=0.1), history=5, beam=8)


def settings(**changes: Any) -> TrainingConfig:
    given = {"epochs": 3, "batch_size": 40, "learning_rate": 1e-2, "patience": 0, "validation_users": 30}
    return TrainingConfig(**{**given, **changes})


def weights(recommender: SequenceRecommender) -> list[torch.Tensor]:
    return [value.clone() for value in recommender.model.state_dict().values()]


@pytest.mark.parametrize("kind", ["causal", "rq", "t5"])
def test_it_learns_what_comes_next(kind: str) -> None:
    recommender, histories = make(kind), cycles(300)
    records = fit(recommender, histories, settings(epochs=12))
    assert records[0]["loss"] > 2
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    found = evaluate(recommender, histories.queries("test", most=5))
    assert float(found.values("recall", 5).mean()) > 0.9
    assert not recommender.model.training


def test_the_best_epoch_is_kept_and_training_stops_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from unitok.recommender import training

    scores, kept = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9]), []

    class Found:
        def values(self, *_: object) -> torch.Tensor:
            return torch.tensor([next(scores)])

    def judge(recommender: SequenceRecommender, *_: object, **__: object) -> Found:
        assert recommender.beam == 4
        kept.append(weights(recommender))
        return Found()

    monkeypatch.setattr(training, "evaluate", judge)
    recommender = make()
    records = fit(recommender, cycles(), settings(epochs=20, patience=3, validation_beam=4))
    assert [round(record["ndcg"], 2) for record in records] == [0.1, 0.3, 0.2, 0.3, 0.25]
    assert all(torch.equal(*pair) for pair in zip(weights(recommender), kept[1], strict=True))
    assert recommender.beam == 8


@pytest.mark.parametrize("kind", ["causal", "rq"])
@pytest.mark.parametrize("stop", [3, 7, 10])  # in the first epoch, in the second, and at the end of it
def test_an_interrupted_run_ends_where_it_would_have(kind: str, stop: int, tmp_path: Path) -> None:
    # Every step leaves a checkpoint; five steps are an epoch.
    config, histories = settings(checkpoint_seconds=1e-9), cycles()
    whole = make(kind)
    expected = fit(whole, histories, config)

    def interrupt(done: int, total: int, note: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make(kind), histories, config, directory=tmp_path, progress=interrupt)
    assert (tmp_path / CHECKPOINT).exists()
    torch.manual_seed(9)  # what chance there was before plays no part
    resumed, steps = make(kind), []
    records = fit(resumed, histories, config, directory=tmp_path, progress=lambda *step: steps.append(step[0]))
    assert steps[0] == stop
    assert [{**record, "seconds": 0} for record in records] == [{**record, "seconds": 0} for record in expected]
    assert all(torch.equal(*pair) for pair in zip(weights(resumed), weights(whole), strict=True))
    assert (tmp_path / BEST).exists()


def test_chance_elsewhere_is_left_alone_and_seeds_differ() -> None:
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    runs = [make() for _ in range(3)]
    for recommender, seed in zip(runs, (0, 0, 1), strict=True):
        fit(recommender, cycles(), settings(epochs=1, seed=seed))
    assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(*pair) for pair in zip(weights(runs[0]), weights(runs[1]), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(weights(runs[0]), weights(runs[2]), strict=True))


def test_a_run_of_others_is_not_gone_on_with(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    fit(make(), cycles(), settings(epochs=1), directory=tmp_path)
    for args in ((cycles(), settings(epochs=2)), (cycles(50), settings(epochs=1))):
        with refuses("fit", "directory"):
            fit(make(), *args, directory=tmp_path)


def test_a_flipped_bit_in_what_a_run_left_is_noticed(tmp_path: Path) -> None:
    fit(make(), cycles(), settings(epochs=1), directory=tmp_path)
    for name in (BEST, CHECKPOINT):
        whole = (tmp_path / name).read_bytes()
        for place in (3, 40, len(whole) // 3, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=rf"^fit: [^\n]*{name} must be [^\n]+, got [^\n]+\. [A-Z][^\n]+\.$"):
                fit(make(), cycles(), settings(epochs=1), directory=tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert len(fit(make(), cycles(), settings(epochs=1), directory=tmp_path)) == 1
    (tmp_path / BEST).unlink()
    with pytest.raises(ValueError, match=r"best\.safetensors must be as it was written"):
        fit(make(), cycles(), settings(epochs=1), directory=tmp_path)


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    from tests.unitok.recommender.test_saving import held

    with held(tmp_path):
        with refuses("fit", str(tmp_path), OSError) as caught:
            fit(make(), cycles(), settings(epochs=1), directory=tmp_path)
        assert "got process " in str(caught.value)
        assert not (tmp_path / CHECKPOINT).exists()

    def second(_: dict[str, Any]) -> None:  # from another thread, while the first is at it
        with ThreadPoolExecutor(1) as pool, refuses("fit", str(tmp_path), OSError):
            pool.submit(fit, make(), cycles(), settings(epochs=2), directory=tmp_path).result()

    records = fit(make(), cycles(), settings(epochs=2), directory=tmp_path, on_epoch=second)
    assert [record["epoch"] for record in records] == [0, 1]


def test_tables_and_weights_are_kept_however_they_lie(tmp_path: Path) -> None:
    from tests.unitok.recommender.test_saving import strided

    def made() -> SequenceRecommender:
        recommender = RQRecommender.create(strided(table()), gpt2_config(32, 1, 2), history=5, beam=8)
        weight = recommender.model.items.weight
        weight.data = weight.data.t().contiguous().t()
        return recommender

    records = fit(first := made(), cycles(), settings(epochs=1), directory=tmp_path)
    assert fit(again := made(), cycles(), settings(epochs=1), directory=tmp_path) == records
    assert all(torch.equal(*pair) for pair in zip(weights(first), weights(again), strict=True))


def test_odd_types_are_refused(refuses: Callable[..., Any]) -> None:
    for name, value in (("epochs", 2.5), ("patience", None), ("learning_rate", "fast"), ("precision", 32)):
        with refuses("TrainingConfig", name, TypeError):
            TrainingConfig(**{name: value})
    for argument, args in (
        ("recommender", (make().model, cycles())),
        ("histories", (make(), [[0, 1, 2]])),
        ("config", (make(), cycles(), {"epochs": 1})),
    ):
        with refuses("fit", argument, TypeError):
            fit(*args)
    with refuses("fit", "directory", TypeError):
        fit(make(), cycles(), directory=3)  # type: ignore[arg-type]


def test_half_precision_learns_too() -> None:
    records = fit(make(), cycles(), settings(epochs=3, precision="bfloat16"))
    assert records[-1]["loss"] < records[0]["loss"]


def test_what_does_not_fit_is_refused(refuses: Callable[..., Any]) -> None:
    for name, value in (
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("warmup", 1.0),
    ):
        with refuses("TrainingConfig", name):
            TrainingConfig(**{name: value})
    with refuses("TrainingConfig", "precision"):
        TrainingConfig(precision="float16")
    few = Histories(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([7]))
    strange = Histories(torch.tensor([0, 3]), torch.tensor([0, 1, ITEMS]), torch.tensor([7]))
    for histories in (few, strange):
        with refuses("fit", "histories"):
            fit(make(), histories)
    with pytest.raises(RuntimeError, match="the loss became nan in epoch"):
        fit(make(), cycles(), settings(learning_rate=1e30))
