"""moe_residual_encode: routed experts and a shared one, against one plain chain and the dense formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import MARGIN, PEERS_MARGIN, SameCodes, WrongResultError, close, near_truth, truth
from benchmarks.harness import Level, ours
from unitok.config import PRESETS

ROWS, D, K, L = inputs.ROWS["64k"], 32, 256, 4
CASES = {  # experts, slots, shared
    "64k x 32, E=8, top-1 + shared": (8, 1, True),
    "64k x 32, E=8, top-2": (8, 2, False),
    "64k x 32, E=10, top-1 + shared": (10, 1, True),
    "64k x 32, E=10, top-2": (10, 2, False),
}


class MixtureCheck:
    """Each expert's codes must agree with the float64 search of its codebooks; `combined` must be the weighted sum."""

    def __init__(self, z: Tensor, codebooks: Tensor, ids: Tensor, weights: Tensor, shared: Tensor | None) -> None:
        self.chains = [(rows, slots, codebooks[e]) for e in range(len(codebooks)) for rows, slots in [_where(ids, e)]]
        self.z, self.codebooks, self.ids, self.weights, self.shared = z, codebooks, ids, weights, shared
        self.right = [truth(z[rows], tables) for rows, _, tables in self.chains]
        self.same = SameCodes()
        self.shared_right = None if shared is None else truth(z, shared)

    def __call__(self, level: Level, result: Any) -> None:
        if level.job:
            return
        codes, combined, shared_codes = result
        self.same(level, codes)
        margin = MARGIN if level.name.startswith("ours") else PEERS_MARGIN
        total = torch.zeros_like(self.z, dtype=torch.float64)
        for (rows, slots, tables), right in zip(self.chains, self.right, strict=True):
            found = codes[rows, slots]
            near_truth(level.name, found, self.z[rows], tables, right, margin)
            part = self.weights[rows, slots, None].double() * peers.decoded(found, tables.double())
            total.index_add_(0, rows, part)
        if self.shared is not None:
            near_truth(level.name, shared_codes, self.z, self.shared, self.shared_right, margin)
            total += SHARED_WEIGHT * peers.decoded(shared_codes, self.shared.double())
        close(level.name, combined, total, 1e-6)


SHARED_WEIGHT = PRESETS["normalised"].shared_weight


def _where(ids: Tensor, expert: int) -> tuple[Tensor, Tensor]:
    return (ids == expert).nonzero(as_tuple=True)


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if "E=10" in c else ()) for c in CASES])
def test_moe_residual_encode(race, case: str) -> None:
    experts, slots, with_shared = CASES[case]
    z, codebooks = inputs.normal(ROWS, D), inputs.codebooks(experts, L, K, D)
    shared = inputs.codebooks(L, K, D, seed=4) if with_shared else None
    router = 0.5 * inputs.normal(experts, D, seed=5)

    def route(z: Tensor) -> tuple[Tensor, Tensor]:
        probs = F.softmax(router @ z.T, 0)  # (E, N): with rows of 8 values torch's softmax takes five times as long
        top, ids = probs.max(0, keepdim=True) if slots == 1 else probs.topk(slots, 0)
        return ids.T, 0.5 * (top / top.sum(0)).T

    def encode(z: Tensor, codebooks: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        found = uk.moe_residual_encode(z, codebooks, ids, weights, shared, SHARED_WEIGHT)
        return found.codes, found.combined, found.shared_codes

    def eager(z: Tensor, codebooks: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return peers.routed(z, codebooks, ids, weights, shared, SHARED_WEIGHT)

    ids, weights = route(z)
    flops = 2.0 * ROWS * K * D * L * (slots + with_shared)
    levels = [
        *ours("moe_residual_encode", encode, flops=flops),
        Level("ours, with the router", lambda z, codebooks, *_: encode(z, codebooks, *route(z))),
        Level("one residual_encode", lambda z, codebooks, *_: uk.residual_encode(z, codebooks[0]), job="one chain"),
        Level("torch eager, a loop over experts", eager),
    ]
    if shared is not None:
        levels.append(dense(z, codebooks, F.softmax(z @ router.T, 1), shared))
    race(
        "moe_residual_encode",
        case,
        levels,
        (z, codebooks, ids, weights),
        small=(z[:200], codebooks, ids[:200], weights[:200]),
        check=MixtureCheck(z, codebooks, ids, weights, shared),
        flops=flops,
    )


def dense(z: Tensor, codebooks: Tensor, probs: Tensor, shared: Tensor) -> Level:
    """Make a level of the dense formula, checked against itself in float64, except for a few near ties."""
    preset = PRESETS["public_code"]

    def run(z: Tensor, codebooks: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return peers.dense_mixture(z, codebooks, probs[: len(z)], shared, preset.routed_scale, preset.shared_weight)

    some = slice(0, 2048)
    exact = peers.dense_mixture(
        z[some].double(), codebooks.double(), probs[some].double(), shared.double(), preset.routed_scale,
        preset.shared_weight,
    )  # fmt: skip
    found = run(z[some], codebooks)
    for a, b in ((found[0], exact[0]), (found[2], exact[2])):
        if (a != b).float().mean() > 1e-3:
            raise WrongResultError("torch, dense formula: codes differ from those in float64")
    return Level("torch, dense formula", run, budget=30, job="dense formula")
