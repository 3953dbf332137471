"""The training loop: warm-up, initialisation, joint training; deterministic, and resumable at any step."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitok.config import UniTokConfig
from unitok.metrics.dependence import equal_hsic
from unitok.model.network import UniTokModel
from unitok.storage.checkpoint import load_checkpoint, read_progress, save_checkpoint
from unitok.storage.digest import digest
from unitok.storage.lock import only_writer
from unitok.storage.whole import whole_file
from unitok.training.batches import StratifiedBatches
from unitok.training.initialisation import place_router, revive_codewords, start_codebooks
from unitok.training.losses import losses, reconstruction_loss
from unitok.training.monitor import alarms, describe, snapshot

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
CHECKPOINT_STEPS = 50  # after so many a checkpoint is written, besides the one that ends an epoch
_LARGEST = 1e4  # of embeddings; models give far smaller values, and the squares of far larger ones overflow

Progress = Callable[[int, int, str], None]


class Trainer:
    """Fits a model to items of several domains.

    The first `warmup_epochs` train only encoder and decoder. Then the router is initialised from the domains' means and
    the codebooks by k-means, and all train together. Batches depend only on seed and epoch. So a run that is killed at
    any step and resumed ends with exactly the same weights (on the same machine and number of threads).

    Args:
        model: the model; trained in place.
        x: (N, D_in) float32.
        domains: (N,) int64, the domain of each item.
        names: names of the domains.
        config: the settings.
        directory: folder for checkpoint and history; a checkpoint found there is resumed. None writes nothing.
        progress: called after each step with the steps done, their total, and a line about the losses.
        on_epoch: called with each epoch's record.

    Raises:
        ValueError: `directory` holds a checkpoint of other settings or other data.
    """

    def __init__(
        self,
        model: UniTokModel,
        x: Tensor,
        domains: Tensor,
        names: list[str],
        config: UniTokConfig,
        *,
        directory: Path | None = None,
        progress: Progress | None = None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.model, self.x, self.domains, self.names, self.config = model, x, domains, names, config
        self.directory, self.progress, self.on_epoch = directory, progress, on_epoch
        self.batches = StratifiedBatches(
            domains,
            len(names),
            batch_size=config.batch_size,
            min_domain_rows=config.min_domain_rows,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
        )
        self.total_steps = config.epochs * len(self.batches)
        decayed = [p for n, p in model.named_parameters() if p.dim() == 2]
        others = [p for n, p in model.named_parameters() if p.dim() != 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.step = 0
        self.sums: dict[str, list[float]] = {}  # (sum, count) over the current epoch, kept in the checkpoint
        self.history: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Train to the end, starting from the directory's checkpoint if there is one.

        Returns:
            list[dict]: one record per epoch: losses, HSIC per domain (mean over the batches, with its variance, and on
            equally many rows), router entropy, expert load, utilisation, perplexity, dead codes, collisions, alarms.

        Raises:
            ValueError: the checkpoint belongs to other settings or data.
            RuntimeError: the loss or the latents became NaN or infinite.
            BusyError: another process or thread fits in the directory.
        """
        with nullcontext() if self.directory is None else only_writer("fit", self.directory):
            return self._run()

    def _run(self) -> list[dict[str, Any]]:
        self._resume()
        while self.step < self.total_steps:
            epoch, offset = divmod(self.step, len(self.batches))
            if offset == 0 and epoch == self._start_epoch():
                self._start()
            began = time.perf_counter()
            for rows in self.batches.epoch(epoch)[offset:]:
                self._train(rows, warm=epoch >= self._start_epoch())
                self.step += 1
                if self.step % CHECKPOINT_STEPS == 0 and self.step % len(self.batches):
                    self._checkpoint()
            self._end_epoch(epoch, time.perf_counter() - began)
        return self.history

    def _learning_rate(self) -> float:
        least = self.config.final_learning_rate
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.total_steps))
        return self.config.learning_rate * (least + (1 - least) * cosine)

    def _start_epoch(self) -> int:
        return min(self.config.warmup_epochs, self.config.epochs - 1)

    @torch.no_grad()
    def _start(self) -> None:
        rows = self.batches.train_rows
        z = torch.cat([self.model.encoder(x) for x in self.x[rows].split(4096)])
        with self._diverging(self.x):
            self._place_router(z, None)
            start_codebooks(self.model, z, self.config.seed)

    def _place_router(self, z: Tensor, experts: Tensor | None) -> None:
        domains = self.domains[self.batches.train_rows]
        place_router(self.model, z, domains, len(self.names), self.config.seed, experts)

    def _router_follows(self) -> bool:
        """Whether the router is kept at the domains' means: with a weight of p / p = 1 it gets no gradient."""
        return self.model.preset.renormalise and self.config.top_k == 1

    def _train(self, rows: Tensor, warm: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        x = self.x[rows]
        if warm:
            with self._diverging(x):
                parts = losses(x, self.model(x), self.domains[rows], len(self.names), self.config)
            total = parts.total
            self._add("quantisation", parts.quantisation)
            self._add("calibration", parts.calibration.loss)
            self._add("hsic_variance", parts.calibration.variance)
            for name, value in zip(self.names, parts.calibration.values.tolist(), strict=True):
                if not math.isnan(value):
                    self._add(f"hsic {name}", value)
            reconstruction = parts.reconstruction
        else:
            total = reconstruction = reconstruction_loss(x, self.model.decoder(self.model.encoder(x)))
        self._add("reconstruction", reconstruction)
        if not math.isfinite(loss := self._add("loss", total)):
            raise self._diverged("the loss")
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.progress:
            self.progress(self.step + 1, self.total_steps, f"loss {loss:.4f}")

    def _diverged(self, what: str) -> RuntimeError:
        largest = float(self.x.abs().max())
        advice = "Lower learning_rate"
        if largest > _LARGEST:
            advice = f"Scale the embeddings, whose largest value is {largest:.1g}, such as to rows of length 1"
        kept = "; the last checkpoint is unchanged" if self.directory else ""
        return RuntimeError(f"fit: {what} became NaN or infinite at step {self.step}. {advice}{kept}.")

    @contextmanager
    def _diverging(self, x: Tensor) -> Iterator[None]:
        """Report divergence if an operation refuses latents that are NaN or infinite: the items are finite."""
        try:
            yield
        except ValueError as error:
            if bool(torch.isfinite(self.model.encoder(x)).all()):
                raise
            raise self._diverged("latents") from error

    def _add(self, name: str, value: Tensor | float) -> float:
        number = float(value.detach()) if isinstance(value, Tensor) else value
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = [total + number, count + 1]
        return number

    @torch.no_grad()
    def _end_epoch(self, epoch: int, seconds: float) -> None:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "seconds": round(seconds, 3)}
        record |= {name: value for name, value in means.items() if not name.startswith("hsic ")}
        warm = epoch >= self._start_epoch()
        if warm:
            with self._diverging(self.x):
                seen = snapshot(self.model, self.x)
        if len(held_out := self.x[self.batches.validation]):
            x_hat = self.model(held_out).x_hat if warm else self.model.decoder(self.model.encoder(held_out))
            record["validation_reconstruction"] = float(reconstruction_loss(held_out, x_hat))
        if warm:
            record["hsic"] = {name: means.get(f"hsic {name}") for name in self.names}
            for key, normalised in (("equal_hsic", False), ("normalised_hsic", True)):
                record[key] = equal_hsic(self.x, seen.z, self.domains, self.names, normalised=normalised)
            size = self.config.codebook_size
            record |= describe(seen, self.domains, self.names, self.model.num_experts, size)
            if epoch + 1 < self.config.epochs:
                trained = seen.select(self.batches.train_rows)
                record["revived"] = revive_codewords(self.model, trained, self.config.seed + epoch)
                if self._router_follows():
                    self._place_router(trained.z, trained.routing.experts[:, 0])
        record["alarms"] = alarms(record)
        self.history.append(record)
        self.sums = {}
        self._write_history()
        self._checkpoint()
        if self.on_epoch:
            self.on_epoch(record)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with this run to be resumed."""
        found = hashlib.sha256(self.x.contiguous().numpy().data)
        found.update(self.domains.numpy().data)
        settings = json.loads(json.dumps(self.config.to_dict()))
        return {"config": settings, "names": self.names, "data": found.hexdigest()}

    def _write_history(self) -> None:
        """Write all records, before the checkpoint that counts their epochs as done."""
        if self.directory:
            with whole_file(self.directory / HISTORY) as partial:
                partial.write_text(_lines(self.history), encoding="utf-8")

    def _checkpoint(self) -> None:
        if self.directory:
            progress = {**self._identity, "step": self.step, "sums": self.sums}
            progress["history"] = digest(_lines(self.history).encode())
            save_checkpoint(self.directory / CHECKPOINT, self.model, self.optimizer, progress)

    def _resume(self) -> None:
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        path, history = self.directory / CHECKPOINT, self.directory / HISTORY
        if not path.exists():
            history.unlink(missing_ok=True)
            self._checkpoint()
            return
        progress = read_progress(path)
        for key, value in self._identity.items():
            if progress.get(key) != value:
                what = {"config": "settings", "names": "domains", "data": "embeddings"}[key]
                raise ValueError(
                    f"fit: {self.directory} must hold a run of the same {what} to be resumed, got another. "
                    "Choose another folder, or empty it to start over."
                )
        load_checkpoint(path, self.model, self.optimizer)
        self.step, self.sums = progress["step"], progress["sums"]
        finished = self.step // len(self.batches)
        self.history = read_history(history, finished, progress.get("history"))
        self._write_history()


def _lines(history: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in history)


def read_history(file: Path, epochs: int, known: str | None) -> list[dict[str, Any]]:
    """Read the records of the first epochs; none where there is no file.

    Args:
        file: the history; what a kill left of later epochs is of no matter.
        epochs: how many to read.
        known: their digest; None in a checkpoint of an older release.

    Returns:
        list[dict]: the records.

    Raises:
        ValueError: they aren't those that were written.
    """
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
        if known not in (None, digest("".join(lines).encode())):
            raise ValueError("other lines than its run wrote")
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        step = "Delete it to go on without the records before"
        raise ValueError(f"fit: {file} must hold a run's records, got {error}. {step}.") from error
