"""A training step of unitok's default preset: the whole step, without quantizer and L_mi, and only these two."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import inputs, peers
from benchmarks.checks import close
from benchmarks.harness import Level, ours
from unitok import UniTokConfig, UniTokModel
from unitok.training.losses import calibration_loss
from unitok.training.trainer import Trainer

DOMAINS, ITEMS, WIDTH = 8, 1024, 384
CASE = f"{DOMAINS} domains, batch 1024, default preset"


def started() -> tuple[Trainer, Tensor]:
    """Make a trainer after initialisation and one step; return it and the rows of its next batch."""
    torch.manual_seed(0)
    config = UniTokConfig(weights=dataclasses.replace(UniTokConfig().weights, commitment=peers.COMMITMENT))
    x = F.normalize(inputs.clusters(DOMAINS * ITEMS, WIDTH, 200), dim=1)
    domains = torch.arange(DOMAINS).repeat_interleave(ITEMS)
    model = UniTokModel(WIDTH, DOMAINS, config)
    trainer = Trainer(model, x, domains, [f"domain {k}" for k in range(DOMAINS)], config)
    trainer._start()
    first, second, *_ = trainer.batches.epoch(0)
    trainer._train(first, warm=True)  # Adam has its moments from now on
    return trainer, second


def test_training_step(race) -> None:
    trainer, rows = started()

    def step(*, warm: bool = True) -> Callable[[], Trainer]:
        own = copy.deepcopy(trainer)  # each level trains its own model from the same state

        def run() -> Trainer:
            own._train(rows, warm=warm)
            return own

        return run

    expected: list[tuple[Tensor, ...]] = []

    def check(level: Level, own: Any) -> None:
        if not level.job:
            # compared with the largest gradient: the router's is only rounding, as its weight is p / p = 1
            gradients = torch.cat([p.grad.flatten() for p in own.model.parameters() if p.grad is not None])
            found = (torch.tensor(own.sums["loss"]), gradients)
            expected.append(expected[0] if expected else found)
            close(level.name, found, expected[0], 1e-3)

    levels = [dataclasses.replace(level, call=step()) for level in ours("moe_residual_encode", step)]
    bare = Level("step without quantizer and L_mi", step(warm=False), job="autoencoder")
    race("training_step", CASE, [*levels, bare], (), check=check)


def test_quantizer_and_calibration(race) -> None:
    trainer, rows = started()
    model, weights = trainer.model, trainer.config.weights
    x, domains = trainer.x[rows], trainer.domains[rows]
    with torch.no_grad():
        z = model.encoder(x)
        _, ids, shares = model.route(model.router(z), z)
    codebooks, shared = model.quantizer.codebooks, model.quantizer.shared_codebooks
    pull = inputs.normal(*z.shape, seed=6) / len(z)  # the gradient that the decoder would send

    def gradients(total: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return total.detach(), *torch.autograd.grad(total, (z, codebooks, shared))

    def fused(x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        z = z.detach().requires_grad_()
        quantized = model.quantizer(z, ids, shares)
        calibrated = calibration_loss(x, z, domains, DOMAINS, beta=weights.beta)
        total = weights.quantisation * quantized.loss + weights.calibration * calibrated.loss
        return gradients(total + (pull * quantized.quantized).sum(), z)

    def eager(x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        z = z.detach().requires_grad_()
        _, quantized, loss = peers.quantised_with_loss(z, shared)
        shared_weight = model.preset.shared_weight
        combined = shared_weight * (quantized + z - z.detach())
        for expert, tables in enumerate(codebooks):
            chosen, slots = (ids == expert).nonzero(as_tuple=True)
            _, quantized, part = peers.quantised_with_loss(z[chosen], tables)
            straight = quantized + z[chosen] - z[chosen].detach()
            combined = combined.index_add(0, chosen, shares[chosen, slots, None] * straight)
            loss = loss + part
        members = [(domains == k).nonzero().squeeze(1) for k in range(DOMAINS)]
        values = torch.stack([peers.hsic_matrix(x[own], z[own]) for own in members])
        calibrated = values.var(correction=0) - weights.beta * values.mean()
        total = weights.quantisation * loss / len(z) + weights.calibration * calibrated
        return gradients(total + (pull * combined).sum(), z)

    expected = eager(x, z)
    race(
        "training_step",
        f"{CASE}, quantizer + L_mi alone",
        [*ours("moe_residual_encode", fused), Level("torch eager", eager)],
        (x, z),
        check=lambda level, found: close(level.name, found, expected, 1e-3),
    )
