"""nearest_codeword: one codebook."""

from __future__ import annotations

from typing import Any

import pytest

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import MARGIN, PEERS_MARGIN, SameCodes, close, near_truth, truth
from benchmarks.harness import Level, ours

SHAPES = {  # N, D, K
    "1k x 32, K=256": (inputs.ROWS["1k"], 32, 256),
    "64k x 32, K=256": (inputs.ROWS["64k"], 32, 256),
    "16k x 128, K=1024": (inputs.ROWS["16k"], 128, 1024),
}


@pytest.mark.parametrize("case", SHAPES)
def test_nearest_codeword(race, case: str) -> None:
    rows, width, size = SHAPES[case]
    x, codebook = inputs.normal(rows, width), inputs.normal(size, width, seed=1)
    right, same = truth(x, codebook[None]), SameCodes()

    def check(level: Level, result: Any) -> None:
        codes, margin = (result[0], MARGIN) if level.name.startswith("ours") else (result, PEERS_MARGIN)
        same(level, codes)
        near_truth(level.name, codes[:, None], x, codebook[None], right, margin)
        if margin == MARGIN:
            close(level.name, result[1], (x.double() - codebook.double()[codes]).square().sum(1), 1e-5)

    race(
        "nearest_codeword",
        case,
        [*ours("nearest_codeword", uk.nearest_codeword), *peers.searches()],
        (x, codebook),
        small=(x[:200], codebook),
        check=check,
        flops=2.0 * rows * size * width,
    )
