"""Training: it learns, stops, keeps the best, and ends where it would have when it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from unitok.recommender import (
    CausalRecommender,
    Histories,
    HybridRecommender,
    Queries,
    RQRecommender,
    SequenceRecommender,
    T5Recommender,
    TokenTable,
    TrainingConfig,
    evaluate,
    fit,
    gpt2_config,
)
from unitok.recommender.evaluation.splits import Split
from unitok.recommender.training import BEST, CHECKPOINT
from unitok.storage.checkpoint import read_progress
from unitok.storage.tensors import read_tensors, write_tensors

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
    if kind == "hybrid":
        content = torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(1))
        parts: dict[str, Any] = {"histories": cycles(), "content": content}
        return HybridRecommender.create(table(), gpt2_config(32, 1, 2, dropout=0.1), history=5, beam=8, **parts)
    return CausalRecommender.create(table(), gpt2_config(32, 1, 2, dropout=0.1), history=5, beam=8)


def settings(**changes: Any) -> TrainingConfig:
    given = {"epochs": 3, "batch_size": 40, "learning_rate": 1e-2, "patience": 0, "validation_users": 30}
    return TrainingConfig(**{**given, **changes})


def weights(recommender: SequenceRecommender) -> list[torch.Tensor]:
    return [value.clone() for value in recommender.model.state_dict().values()]


@pytest.mark.parametrize("kind", ["causal", "rq", "t5", "hybrid"])
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


class Seen(CausalRecommender):
    """Keeps the batches that it is given, and learns nothing."""

    def loss(self, items: torch.Tensor) -> torch.Tensor:
        self.about.setdefault("batches", []).append(items)
        return 0 * next(self.model.parameters()).sum()


def sequences(histories: Histories | Split, **changes: Any) -> list[list[int]]:
    """What is learnt from in an epoch."""
    recommender = Seen.create(table(), gpt2_config(8, 1, 1), history=5, beam=8)
    fit(recommender, histories, settings(epochs=1, batch_size=500, **changes))
    return [[item for item in row if item >= 0] for batch in recommender.about["batches"] for row in batch.tolist()]


WHOLE = [[1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11], [12]]  # what is learnt of each user


def many(users: int = 4) -> Histories:
    return Histories.from_lists([[*WHOLE[user % 4], 20, 21] for user in range(users)])


def test_neither_cut_nor_mixed_every_sequence_is_learnt_whole() -> None:
    assert sorted(sequences(many())) == WHOLE


def test_a_cut_sequence_is_a_piece_of_two_items_or_more_and_any_piece_occurs() -> None:
    cut = sequences(many(800), crop=1)
    assert len(cut) == 800
    for sequence in cut:
        items = next(items for items in WHOLE if sequence[0] in items)
        at = items.index(sequence[0])
        assert sequence == items[at : at + len(sequence)]
        assert len(sequence) >= min(2, len(items))
    assert len({tuple(sequence) for sequence in cut}) == (4 + 3 + 2 + 1) + (3 + 2 + 1) + 1 + 1
    # Half of those of 5 and of 4 items are left alone; and of the others 1 in 4 and 1 in 3 stay whole.
    whole = [sum(sequence == items for sequence in sequences(many(800), crop=0.5)) for items in WHOLE]
    assert whole == [pytest.approx(200 * share, abs=30) for share in (5 / 8, 4 / 6, 1, 1)]


def test_a_mixed_sequence_keeps_its_items_and_any_order_occurs() -> None:
    for share in (0.5, 1.0):
        mixed = sequences(many(800), shuffle=share)
        assert sorted(map(sorted, mixed)) == sorted(WHOLE * 200)
        assert sum(s == WHOLE[0] for s in mixed) == pytest.approx(200 * (1 - share * 119 / 120), abs=30)
    assert len({tuple(s) for s in mixed if len(s) == 2}) == 2
    assert len({tuple(s) for s in mixed if len(s) == 4}) == 24


def test_a_split_says_what_is_learnt_and_what_validates() -> None:
    queries = Queries(torch.tensor([[0, 1], [3, 2]]), torch.tensor([2, 1]), torch.tensor([0, 1]))
    one = Histories.from_lists([[0, 1, 2, 3], [], [7, 8]])
    split = Split(one, queries, Queries(queries.histories, torch.tensor([9, 9]), queries.users), {"kind": "mine"})
    assert sorted(sequences(split)) == [[0, 1, 2, 3], [7, 8]]
    recommender = make()
    records = fit(recommender, split, settings(epochs=2))
    best = max(records, key=lambda record: record["ndcg"])
    assert best["ndcg"] == pytest.approx(float(evaluate(recommender, queries).values("ndcg").mean()))


def test_whole_histories_are_learnt_as_their_leave_one_out_split() -> None:
    first, second = make(), make()
    records = fit(first, cycles(), settings())
    again = fit(second, Split.leave_one_out(cycles(), most=5), settings())
    assert [{**record, "seconds": 0} for record in records] == [{**record, "seconds": 0} for record in again]
    assert all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_best_epoch_is_chosen_with_or_without_seen_items(exclude_seen: bool) -> None:
    recommender, histories = make(), cycles()
    record = fit(recommender, histories, settings(epochs=1, validation_users=100, exclude_seen=exclude_seen))[0]
    found = evaluate(recommender, histories.queries(most=5), exclude_seen=exclude_seen)
    other = evaluate(recommender, histories.queries(most=5), exclude_seen=not exclude_seen)
    assert record["ndcg"] == float(found.values("ndcg").mean()) != float(other.values("ndcg").mean())


def test_a_run_begun_before_seen_items_were_left_out_ends_as_it_would_have(
    tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    expected = fit(make(), cycles(), settings(exclude_seen=False))

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 7:
            raise KeyboardInterrupt

    before = settings(exclude_seen=False, checkpoint_seconds=1e-9)
    with pytest.raises(KeyboardInterrupt):
        fit(make(), cycles(), before, directory=tmp_path, progress=interrupt)
    path = tmp_path / CHECKPOINT
    progress, tensors = read_progress(path), read_tensors(path)
    for name in ("exclude_seen", "crop", "shuffle"):
        del progress["settings"][name]
    write_tensors(path, tensors, {"progress": json.dumps(progress)})
    now = settings(checkpoint_seconds=1e-9)
    with refuses("fit", "directory"):
        fit(make(), cycles(), settings(checkpoint_seconds=1e-9, crop=0.5), directory=tmp_path)
    for _ in range(2):  # what it leaves is gone on with in the same way
        records = fit(make(), cycles(), now, directory=tmp_path)
        assert [record["ndcg"] for record in records] == [record["ndcg"] for record in expected]
    assert "exclude_seen" not in read_progress(path)["settings"]


@pytest.mark.parametrize("kind", ["causal", "rq", "hybrid"])
@pytest.mark.parametrize("stop", [3, 7, 10])  # in the first epoch, in the second, and at the end of it
def test_an_interrupted_run_ends_where_it_would_have(kind: str, stop: int, tmp_path: Path) -> None:
    # Every step leaves a checkpoint; five steps are an epoch.
    mixed = 0.0 if kind == "hybrid" else 0.3  # which knows what came after what
    config, histories = settings(checkpoint_seconds=1e-9, crop=0.3, shuffle=mixed), cycles()
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


def test_a_memory_of_the_order_is_not_trained_on_shuffled_items(refuses: Callable[..., Any]) -> None:
    with refuses("fit", "shuffle"):
        fit(make("hybrid"), cycles(), settings(shuffle=0.1))


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
    for name, value in (
        ("epochs", 2.5),
        ("patience", None),
        ("learning_rate", "fast"),
        ("precision", 32),
        ("exclude_seen", 1),
        ("crop", True),
    ):
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
        ("crop", 1.1),
        ("shuffle", -0.1),
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
