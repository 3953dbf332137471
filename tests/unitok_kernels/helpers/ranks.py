"""What a process of a distributed run does; `test_layers_distributed` starts them."""

from __future__ import annotations

import datetime
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unitok_kernels.nn import ResidualVQ

WIDTH, STEPS = 8, 50


def model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    chain = {"dim": WIDTH, "num_quantizers": 2, "codebook_size": 16, "rotation_trick": False, **options}
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), ResidualVQ(**chain))


def batches(steps: int, rows: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(rows, WIDTH, generator=generator) for _ in range(steps)]


def train(made: nn.Module, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Train on a rank's batches; gives the state at the end."""
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-2)
    for x in inputs:
        quantized, _, losses = made(x)
        optimizer.zero_grad()
        ((quantized - 1).square().sum() / max(x.numel(), 1) + losses.sum()).backward()
        optimizer.step()
    return made.state_dict()


def run(rank: int, world: int, folder: str, case: str) -> None:
    """Train on this rank's share and save the state."""
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world, timeout=timeout)
    try:
        if case == "uneven":
            made = model(kmeans_init=True, threshold_ema_dead_code=2, quantize_dropout=True)
            inputs = [x[: (0 if step % 5 == 1 else 11) if rank else 37] for step, x in enumerate(batches(STEPS))]
        else:
            made = model(kmeans_init=case == "halves", threshold_ema_dead_code=2)
            inputs = [x.chunk(world)[rank] for x in batches(20)]
        torch.manual_seed(0 if rank == 0 else 1 + rank)  # a rank that drew for itself would show
        if case == "compiled":
            layer: Any = torch.compile(made[1], fullgraph=True, backend="aot_eager")
            for x in inputs[:2]:
                layer(x)
        else:
            train(DistributedDataParallel(made, broadcast_buffers=False), inputs)
        torch.save(made.state_dict(), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
