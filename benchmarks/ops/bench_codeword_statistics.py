"""codeword_statistics: the sums and counts of the rows of each codeword."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import unitok_kernels as uk
from benchmarks import inputs
from benchmarks.checks import CloseCheck
from benchmarks.harness import Level, ours

SHAPES = {  # N, D, K
    "1k x 32, K=256": (inputs.ROWS["1k"], 32, 256),
    "64k x 32, K=256": (inputs.ROWS["64k"], 32, 256),
    "1M x 32, K=256": (inputs.ROWS["1M"], 32, 256),
    "16k x 128, K=1024": (inputs.ROWS["16k"], 128, 1024),
}


def by_index_add(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return x.new_zeros(size, x.shape[1]).index_add_(0, codes, x), codes.bincount(minlength=size)


def by_scatter_add(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    places = codes[:, None].expand_as(x)
    return x.new_zeros(size, x.shape[1]).scatter_add_(0, places, x), codes.bincount(minlength=size)


def by_one_hot(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    hot = F.one_hot(codes, size).to(x.dtype)
    return hot.T @ x, hot.sum(0).long()


@pytest.mark.parametrize("case", SHAPES)
def test_codeword_statistics(race, case: str) -> None:
    rows, width, size = SHAPES[case]
    x = inputs.normal(rows, width)
    codes = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(7))
    race(
        "codeword_statistics",
        case,
        [
            *ours("codeword_statistics", uk.codeword_statistics),
            Level("torch eager, index_add_", by_index_add),
            Level("torch eager, scatter_add_", by_scatter_add),
            Level("torch eager, one_hot", by_one_hot),
        ],
        (x, codes, size),
        small=(x[:200], codes[:200], size),
        check=CloseCheck(by_index_add(x.double(), codes, size)),
    )
