"""Several processes leave equal codebooks, and learn what one would of all their rows."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist

from tests.unitok_kernels.helpers import ranks
from tests.unitok_kernels.helpers.oracle import normal
from unitok_kernels.nn.distributed import draw_rows, gathered

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")


def states(tmp_path, case):
    torch.multiprocessing.spawn(ranks.run, (2, str(tmp_path), case), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]


def test_uneven_and_empty_batches_leave_equal_codebooks(tmp_path):
    first, second = states(tmp_path, "uneven")
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert all(value.isfinite().all() for value in first.values())


def test_two_processes_learn_what_one_does(tmp_path):
    first, second = states(tmp_path, "halves")
    assert all(torch.equal(second[name], value) for name, value in first.items())
    whole = ranks.model(kmeans_init=True, threshold_ema_dead_code=2)
    torch.manual_seed(0)
    alone = ranks.train(whole, ranks.batches(20))
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_one_graph_agrees_with_the_other_rank(tmp_path):
    first, second = states(tmp_path, "compiled")
    assert all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize("rows", [0, 3, 16, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_no_row_is_drawn_twice_and_no_padding(rows, masked):
    numbers = torch.rand(16, generator=torch.Generator().manual_seed(rows))
    valid = torch.arange(rows) % 3 == 0 if masked else None
    kept = int(valid.sum()) if masked else rows
    draw = draw_rows(numbers, rows, valid, synced=False)
    drawn = draw.row[draw.found]
    assert len(drawn) == min(kept, 16)
    assert len(drawn.unique()) == len(drawn)
    assert not masked or bool(valid[drawn].all())
    x = normal(rows, 4)
    assert torch.equal(gathered(x, draw, synced=False)[draw.found], x[drawn])


def test_every_row_is_drawn_alike_often():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_rows(torch.rand(7, generator=generator), 20, None, synced=False).row for _ in range(4000)]
    share = torch.bincount(torch.cat(draws), minlength=20) / 4000
    assert bool(((share > 0.3) & (share < 0.4) | (share > 0.45) & (share < 0.55)).all())  # strata of 2 and 3 rows
