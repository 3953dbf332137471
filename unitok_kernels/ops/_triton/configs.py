"""Tile sizes of the Triton kernels: a rule for each kind of kernel, and a table of searches by architecture.

All figures are powers of two. They were chosen by what the compiler reports (`python -m tools.aot`) and by
prediction; those of a search on sm_90 were tried on an H100, among sizes that compile without spills.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache

import torch


@dataclass(frozen=True)
class Target:
    """What a kernel is compiled for.

    Attributes:
        backend: "cuda" | "hip" | "interpreted".
        arch: for CUDA the compute capability times ten, such as 90; for HIP the name; "" for the interpreter.
        warp_size: threads that run in lockstep.
    """

    backend: str
    arch: int | str
    warp_size: int


INTERPRETED = Target("interpreted", "", 1)
TARGETS = {
    "sm_80": Target("cuda", 80, 32),
    "sm_90": Target("cuda", 90, 32),
    "sm_100": Target("cuda", 100, 32),
    "sm_120": Target("cuda", 120, 32),
    "gfx942": Target("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Config:
    """How a kernel's work is divided.

    Attributes:
        block_rows: rows per program.
        block_columns: codewords, or whatever else a kernel loops over, that are taken together.
        num_warps: warps per program.
        num_stages: stages of the loops that are pipelined.
    """

    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int


# For a nearest-codeword search: up to 32 columns, and up to 128.
_SEARCH: dict[int | str, tuple[Config, Config]] = {
    80: (Config(64, 32, 4, 2), Config(64, 64, 8, 2)),
    90: (Config(64, 64, 4, 3), Config(64, 64, 8, 3)),
    100: (Config(64, 64, 4, 3), Config(64, 64, 8, 3)),
    120: (Config(64, 64, 4, 3), Config(32, 64, 8, 2)),
    "gfx942": (Config(64, 64, 4, 2), Config(32, 64, 4, 2)),
}
SUMS = Config(1024, 1, 4, 1)  # for sums over what a kernel's programs have written


@cache
def device_target(device: torch.device) -> Target:
    """Tell what kernels on a device are compiled for; interpreted ones have no device."""
    if device.type != "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return INTERPRETED
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Target("hip", properties.gcnArchName.split(":")[0], 64)
    return Target("cuda", 10 * properties.major + properties.minor, 32)


def search(target: Target, width: int) -> Config:
    """Give the tiles of a nearest-codeword search over rows of `width` columns."""
    padded = power_of_two(width)
    if target == INTERPRETED:  # a step costs the same whatever its size
        return Config(128, 256, 1, 1)
    known = [arch for arch in _SEARCH if isinstance(arch, int) and isinstance(target.arch, int) and arch <= target.arch]
    narrow, wide = _SEARCH[max(known, default="gfx942" if target.backend == "hip" else 80)]
    if padded <= 32:
        return narrow
    rows, columns = (max(size * 128 // max(padded, 128), 16) for size in (wide.block_rows, wide.block_columns))
    return Config(rows, columns, wide.num_warps, wide.num_stages)


def mixture(target: Target, width: int) -> Config:
    """Give the tiles of a search by several experts, which keeps more in registers: on sm_80 too much for 128 rows."""
    config = search(target, width)
    return replace(config, block_rows=min(config.block_rows, 64), num_stages=2) if target.arch == 80 else config


def packing(target: Target, width: int) -> Config:
    """Give how many codewords a program packs at a time."""
    if target == INTERPRETED:
        return Config(256, 1, 1, 1)
    return Config(max(8192 // power_of_two(width, 32), 1), 1, 16, 1)


def rowwise(target: Target, width: int) -> Config:
    """Give the rows per program of a kernel that takes each row by itself."""
    if target == INTERPRETED:
        return Config(128, 128, 1, 1)
    return Config(min(max(4096 // power_of_two(width), 4), 128), 64, 4, 2)


def segments(target: Target, width: int) -> Config:
    """Give the tile in which rows of a group are summed: rows, and columns."""
    columns = min(power_of_two(width, 1), 128)
    if target == INTERPRETED:
        return Config(512, columns, 1, 1)
    return Config(min(2048 // columns, 512), columns, 4, 2)  # a thread holds 16 sums in float64


def gathering(target: Target, width: int) -> Config:
    """Give the rows of a program that also gathers others for its rows: fewer, since registers are short."""
    config = rowwise(target, width)
    return config if target == INTERPRETED else replace(config, block_rows=min(config.block_rows, 32))


def paths(target: Target, nodes: int) -> Config:
    """Give the tiles of the program that sends rows along paths: edges into all nodes, and rows per step."""
    if target == INTERPRETED:
        return Config(min(nodes, 64), 512, 1, 1)
    warps = 8 if target.arch == 80 else 4  # with these swapped, the assembler spills a few registers
    return Config(min(max(2048 // nodes, 1), nodes), 1024, warps, 1)


def linear(target: Target) -> Config:
    """Give the tiles of a linear layer in double precision, rows against outputs."""
    if target == INTERPRETED:  # where a fused multiply-add is slow
        return Config(64, 64, 1, 1)
    return Config(32, 64, 4, 1)


def distances(target: Target, rows: int, columns: int) -> Config:
    """Give the tiles of a kernel that keeps one tile of distances in double precision."""
    if target == INTERPRETED:
        return Config(min(power_of_two(rows), 2048), min(power_of_two(columns), 128), 1, 1)
    most = 32 if target.arch == 120 else 64  # sm_120 has no matrix unit for doubles, and needs more registers
    return Config(32, min(power_of_two(columns), most), 4, 1)


def streamed(target: Target, rows: int, columns: int) -> Config:
    """Give the tiles of a search that reads its rows repeatedly; on sm_80, more codewords would spill."""
    config = distances(target, rows, columns)
    return replace(config, block_columns=min(config.block_columns, 32)) if target.arch == 80 else config


def combining(target: Target, width: int) -> Config:
    """Give the rows of a program that combines rows too wide for the other kernels."""
    return rowwise(target, width) if target == INTERPRETED else Config(1, 64, 4, 2)


def kernel_matrices(target: Target, rows: int) -> Config:
    """Give the tiles of a kernel that keeps two tiles of kernel matrices in double precision."""
    if target == INTERPRETED:
        size = min(power_of_two(rows), 128)
        return Config(size, size, 1, 1)
    return Config(32, 32, 8, 1)


def depth(target: Target, width: int) -> int:
    """Give how many columns a product in double precision takes at a time."""
    return min(power_of_two(width), 16 if target.arch == 120 else 32)  # sm_120 would spill its registers


def power_of_two(count: int, least: int = 16) -> int:
    """Round up to a power of two, by default at least to what a matrix product needs."""
    return max(least, 1 << (count - 1).bit_length())
