"""Train a sequence model on histories: cosine learning rate, early stopping on item-level NDCG, resumable."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitok.recommender.base import SequenceRecommender, Spans
from unitok.recommender.evaluation.item_level import evaluate
from unitok.recommender.evaluation.splits import Split
from unitok.recommender.histories import Histories, Queries, check_is_histories
from unitok.recommender.saving import as_folder
from unitok.storage.checkpoint import load_checkpoint, read_progress, save_checkpoint
from unitok.storage.lock import only_writer
from unitok.storage.tensors import read_model, write_model
from unitok.storage.whole import whole_file
from unitok_kernels import checks
from unitok_kernels.rules import fail, typed

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
_PROGRESS = ("epoch", "step", "sum", "history")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainingConfig:
    """How a sequence model is trained; the defaults suit `RQRecommender`.

    Args:
        epochs: most passes over the histories, at least 1; the learning rate falls over all of them. With `patience`,
            training may stop earlier.
        batch_size: target items per step, at least 1 and approximate. Larger: fewer steps per epoch, and more memory.
        learning_rate: peak step size of AdamW, above 0. It rises over `warmup` and then falls to 0 by a cosine. Higher:
            faster, but training may diverge.
        warmup: share of all steps in which the learning rate rises, at least 0 and below 1.
        weight_decay: decay of AdamW on matrices, at least 0; vectors have none. Higher: smaller weights, which overfit
            less.
        gradient_clip: largest norm of a step's gradient, above 0; a longer gradient is scaled down to it.
        patience: stop after this many epochs without a better NDCG@10; 0 never stops early.
        validation_users: users, at least 1 and drawn by the seed, on whom NDCG@10 is measured after each epoch. More: a
            more reliable choice of the best epoch, but a slower one.
        validation_beam: prefixes that the beam search keeps in that measurement, at least 1. More: more exact, but
            slower.
        precision: "float32", or "bfloat16" for matrix products in bfloat16 (torch.autocast): faster on GPUs.
        checkpoint_seconds: seconds between checkpoints, above 0; there is one at the end of each epoch, too.
        seed: seed of batches, dropout and the sample of users, at least 0; `create` takes the seed of the weights.
        exclude_seen: leave out the items of each user's history when NDCG@10 is measured, as `rank` does.
        crop: share of the sequences that are cut in an epoch, in [0, 1]: each to a piece of random length and place, of
            two items or more. Higher: positions and beginnings vary more, and an epoch has fewer targets.
        shuffle: share of the sequences whose items are put in random order in an epoch, in [0, 1]. Higher: what is
            learnt of an item depends less on the order. It helps where the order of a few items means little.

    Raises:
        TypeError: a setting is of another type.
        ValueError: a setting is out of its range.

    Source: crop and shuffle as in SASRec++ of arXiv 2508.14910.
    """

    epochs: int = 40
    batch_size: int = 512
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    patience: int = 8
    validation_users: int = 2000
    validation_beam: int = 20
    precision: str = "float32"
    checkpoint_seconds: float = 60.0
    seed: int = 0
    exclude_seen: bool = True
    crop: float = 0.0
    shuffle: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        whole = ("epochs", "batch_size", "patience", "validation_users", "validation_beam", "seed")
        checks.whole("TrainingConfig", **{name: getattr(self, name) for name in whole})
        real = ("learning_rate", "warmup", "weight_decay", "gradient_clip", "checkpoint_seconds", "crop", "shuffle")
        checks.number("TrainingConfig", **{name: getattr(self, name) for name in real})
        checks.flag("TrainingConfig", exclude_seen=self.exclude_seen)
        typed("TrainingConfig", "precision", self.precision, (str,), "a str")
        for name in ("epochs", "batch_size", "validation_users", "validation_beam"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"TrainingConfig: {name} must be at least 1, got {value}. Raise it.")
        for name in ("learning_rate", "gradient_clip", "checkpoint_seconds"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"TrainingConfig: {name} must be above 0, got {value}. Raise it.")
        for name in ("weight_decay", "patience", "seed"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"TrainingConfig: {name} must be at least 0, got {value}. Raise it.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"TrainingConfig: warmup must be in [0, 1), got {self.warmup}. Use 0.05.")
        for name in ("crop", "shuffle"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"TrainingConfig: {name} must be in [0, 1], got {value}. Use 0.5.")
        if self.precision not in ("float32", "bfloat16"):
            got = repr(self.precision)
            raise ValueError(f"TrainingConfig: precision must be float32 or bfloat16, got {got}. Pick one of them.")


def fit(
    recommender: SequenceRecommender,
    histories: Histories | Split,
    config: TrainingConfig | None = None,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a recommender on the training part of a split; it ends with the weights of the best epoch.

    Last, a `HybridRecommender` chooses on validation how much its parts count, by ranking the validation users some 10
    to 20 times.

    Batches and dropout depend only on the seed and the step. So a run that is killed at any step and resumed ends with
    exactly the same weights (on the same machine and number of threads).

    Args:
        recommender: trained in place, on its model's device.
        histories: a split, whose test is not looked at; or whole histories, and then the last two items of each user
            are left to validation and test.
        config: the settings.
        directory: checkpoint folder; a checkpoint found there is resumed. None writes nothing.
        progress: called after each step with the steps done, their total, and a line about the loss.
        on_epoch: called with each epoch's record.

    Returns:
        One record per epoch: epoch, loss (mean over its steps, nats per item), ndcg (item level, on validation users),
        seconds.

    Raises:
        TypeError: an argument of another type.
        ValueError: a recommender that ranks some items alone, nothing to train on or to validate with, or the directory
            holds a run of other settings or data, or a damaged one.
        BusyError: another process or thread trains in the directory.
        RuntimeError: the loss became NaN or infinite.
    """
    for name, value, kind in (("recommender", recommender, SequenceRecommender), ("config", config, TrainingConfig)):
        if not isinstance(value, kind) and (name, value) != ("config", None):
            fail("fit", name, f"a {kind.__name__}", type(value).__name__, f"Pass a {kind.__name__}.", TypeError)
    if not isinstance(histories, Split):
        check_is_histories("fit", histories)
    folder = None if directory is None else as_folder("fit", directory)
    run = _Run(recommender, histories, config or TrainingConfig(), folder)
    with nullcontext() if folder is None else only_writer("fit", folder):
        return _train(run, progress, on_epoch)


def _train(
    run: _Run, progress: Progress | None, on_epoch: Callable[[dict[str, Any]], None] | None
) -> list[dict[str, Any]]:
    device = run.model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run.train(progress or (lambda *_: None), on_epoch or (lambda _: None))


class _Run:
    def __init__(
        self,
        recommender: SequenceRecommender,
        histories: Histories | Split,
        config: TrainingConfig,
        directory: Path | None,
    ) -> None:
        self.recommender, self.model, self.config = recommender, recommender.model, config
        self.directory = directory
        self.exclude_seen = config.exclude_seen
        known = len(recommender.table)
        if recommender.rows is not None:
            rule, got = "recommender must rank all items", f"one within {len(recommender.rows)} of {known}"
            raise ValueError(f"fit: {rule}, got {got}. Train the one that it was made of.")
        if config.shuffle and not recommender.shuffles:
            step = f"Train a {type(recommender).__name__} without shuffle."
            fail("fit", "shuffle", "0 for a recommender that remembers the order", config.shuffle, step)
        if isinstance(histories, Split):
            split, whole = histories, histories.training
            asked = [split.validation.histories, split.validation.targets]
        else:
            split, whole, asked = Split.leave_one_out(histories, most=recommender.history), histories, []
        self.training, self.queries = split.training, _sample(split.validation, config)
        items = torch.cat([whole.items, *(rows.flatten() for rows in asked)])
        if not len(self.queries) or not len(self.training.items) or int(items.max()) >= known:
            rule = f"histories must hold a user of 3 items, or queries, and rows of the table's {known} items alone"
            got = f"{len(self.queries)} queries for validation"
            raise ValueError(f"fit: {rule}, got {got}. Number the items as the table does.")
        decayed = [p for p in self.model.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if p.ndim != 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.epoch, self.step, self.sum = 0, 0, 0.0  # the sum of the epoch's losses so far
        self.history: list[dict[str, Any]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.identity: dict[str, Any] = {  # what a checkpoint must have in common with this run to be resumed
            "settings": asdict(config) | {"history": recommender.history},
            "data": _digest(items, whole.offsets, recommender.table.tokens),
            "model": _digest(*self.model.state_dict().values()),
        }

    def train(self, progress: Progress, on_epoch: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        self._resume()
        told = None
        while self.epoch < self.config.epochs and not self._stops():
            batches = self._batches()
            began = saved = time.perf_counter()
            self.model.train()
            for step in range(self.step, len(batches)):
                self.sum += self._learn(batches[step], step, len(batches))
                self.step = step + 1
                told = self.epoch * len(batches) + self.step, self.config.epochs * len(batches)
                progress(*told, f"loss {self.sum / self.step:.4f}")
                if time.perf_counter() - saved > self.config.checkpoint_seconds:
                    saved = time.perf_counter()
                    self._checkpoint()
            self._end_epoch(time.perf_counter() - began)
            on_epoch(self.history[-1])
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        if told is not None:
            progress(*told, "ranking validation")
        self._judged.finish(self.queries, exclude_seen=self.exclude_seen)
        return self.history

    def _batches(self) -> list[Tensor]:
        """The epoch's batches, (B, H) items each: spans of similar length together, in random order."""
        generator = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_003 + self.epoch)
        spans = self.recommender.spans(self.training, generator)
        if self.config.crop:
            spans = _cropped(spans, self.config.crop, generator)
        mixed = torch.randperm(len(spans.length), generator=generator)
        order = mixed[spans.length[mixed].argsort(stable=True)]
        targets = spans.targets[order].cumsum(0)
        sizes = ((targets - 1) // self.config.batch_size).unique_consecutive(return_counts=True)[1]
        batches = order.split(sizes.tolist())
        chosen = [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]
        return [self._items(spans.first[rows], spans.length[rows], generator) for rows in chosen]

    def _items(self, first: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
        place = torch.arange(int(count.max())).expand(len(count), -1)
        inside = place < count[:, None]
        if self.config.shuffle:
            mixed = torch.rand(place.shape, generator=generator).masked_fill(~inside, 2.0).argsort(1)
            chosen = torch.rand(len(count), 1, generator=generator) < self.config.shuffle
            place = mixed.where(chosen, place)
        return self.training.items[(first[:, None] + place).where(inside, 0)].where(inside, -1)

    def _learn(self, items: Tensor, step: int, steps: int) -> float:
        torch.manual_seed((self.config.seed * 1_000_003 + self.epoch) * 1_000_003 + step)  # of dropout
        done = (self.epoch + step / steps) / self.config.epochs
        rising = (done + 1 / (steps * self.config.epochs)) / self.config.warmup if self.config.warmup else 1.0
        rate = self.config.learning_rate * min(rising, 0.5 * (1 + math.cos(math.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = self.model.device
        halved = self.config.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if halved else nullcontext():
            loss = self.recommender.loss(items.to(device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        if not math.isfinite(value := float(loss.detach())):
            advice = "Lower learning_rate; the last checkpoint is unchanged."
            raise RuntimeError(f"fit: the loss became {value} in epoch {self.epoch}, step {step}. {advice}")
        self.optimizer.step()
        return value

    def _end_epoch(self, seconds: float) -> None:
        score = float(evaluate(self._judged, self.queries, exclude_seen=self.exclude_seen).values("ndcg", 10).mean())
        best = max((record["ndcg"] for record in self.history), default=-1.0)
        record = {"epoch": self.epoch, "loss": self.sum / self.step, "ndcg": score, "seconds": round(seconds, 3)}
        self.history.append(record)
        if score > best:
            self.best_weights = _copy(self.model)
            if self.directory:
                with whole_file(self.directory / BEST) as partial:
                    write_model(partial, self.model)
        self.epoch, self.step, self.sum = self.epoch + 1, 0, 0.0
        self._checkpoint()

    @property
    def _judged(self) -> SequenceRecommender:
        """The recommender, on the same weights, as it is judged on validation."""
        judged = copy.copy(self.recommender)
        judged.beam = self.config.validation_beam
        return judged

    def _stops(self) -> bool:
        scores = [record["ndcg"] for record in self.history]
        patience = self.config.patience
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def _checkpoint(self) -> None:
        if self.directory:
            state = {name: getattr(self, name) for name in _PROGRESS}
            save_checkpoint(self.directory / CHECKPOINT, self.model, self.optimizer, {**self.identity, **state})

    def _resume(self) -> None:
        if self.directory is None:
            return
        if not (self.directory / CHECKPOINT).exists():
            self._checkpoint()
            return
        progress = read_progress(self.directory / CHECKPOINT)
        if isinstance(begun := progress.get("settings"), dict) and "exclude_seen" not in begun:
            # An older release began it: what it didn't know is off, so that the run ends as it would have there.
            self.exclude_seen = False
            for name in ("exclude_seen", *(name for name in ("crop", "shuffle") if not getattr(self.config, name))):
                del self.identity["settings"][name]
        for key, value in self.identity.items():
            if progress.get(key) != value:
                raise ValueError(
                    f"fit: directory must hold a run of the same {key} to be resumed, got another in {self.directory}. "
                    "Choose another folder, or empty it to start over."
                )
        if missing := [name for name in _PROGRESS if name not in progress]:
            raise _damaged(self.directory / CHECKPOINT, f"one without {missing[0]}")
        if progress["history"]:
            try:
                read_model(self.directory / BEST, self.model)
            except (OSError, ValueError, RuntimeError) as error:
                raise _damaged(self.directory / BEST, " ".join(str(error).split())) from error
            self.best_weights = _copy(self.model)
        load_checkpoint(self.directory / CHECKPOINT, self.model, self.optimizer)
        for name in _PROGRESS:
            setattr(self, name, progress[name])


def _damaged(file: Path, got: str) -> ValueError:
    return ValueError(f"fit: {file} must be as it was written, got {got}. Empty the folder to start over.")


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _cropped(spans: Spans, share: float, generator: torch.Generator) -> Spans:
    """Cut some spans to a piece of random length, of two items or more, at a random place."""
    draws = torch.rand(3, len(spans.length), generator=generator, dtype=torch.float64)
    least = spans.length.clamp(max=2)
    length = least + (draws[1] * (spans.length - least + 1)).long()
    length = length.where(draws[0] < share, spans.length)
    first = spans.first + (draws[2] * (spans.length - length + 1)).long()
    return Spans(first, length, spans.targets.minimum(length))


def _sample(queries: Queries, config: TrainingConfig) -> Queries:
    """Draw the users on whom NDCG is measured after each epoch."""
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(queries), generator=generator)[: config.validation_users].sort().values
    return Queries(queries.histories[rows], queries.targets[rows], queries.users[rows])
