"""The page of predicted times that `python -m tools.aot --page` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tools.aot import cuda, prediction
from tools.aot.cases import RESCORED, Case

if TYPE_CHECKING:
    from tools.aot.budgets import Figures

_OPENING = """# Predicted times on GPUs

**Predicted.** Everything here is read off compiled code and published peaks. What was measured on an H100 stands in
[gpu.md](gpu.md), and the measured figures count: devices take two to three times as long. Of the first search in Triton
551 us were predicted for 1M x 32, K=256, L=4 on sm_90, and an H100 took 1,770. So these figures rank variants of one
kernel, and say nothing of one backend against the other.

Written by `python -m tools.aot --target all --page docs/results/gpu-predicted.md`.

## The method
"""

_CHECK = """
## What it was checked against

Three hand-written CUDA kernels for 10^6 rows, D=32, K=256, L=4, compiled by nvcc 13.0 for sm_90, of which earlier
counts of the innermost loop exist. The same loop, found and counted by the predictor:

| kernel | instructions of the loop | for | earlier count, ms | predictor, ms |
|---|---|---|---|---|
| a thread a row | 98 | 32 rows x 2 codewords | 1.75 | 1.747 |
| mma.sync, tf32 | 156 | 16 rows x 16 codewords | 0.70 | 0.695 |
| mma.sync, codebook rounded beforehand | 123 | 16 rows x 16 codewords | 0.55 | 0.548 |

So it counts what was counted before; that a device takes this long is not shown by it.

## Devices

The peaks of the H100 are its maker's; those of the A100 and the B200 come from tables at second hand, the matrix rates
of the RTX 5090 and the MI300X and all clocks but the H100's are assumed.

| target | device | multiprocessors | GHz | int8, TOP/s | tf32, TFLOP/s | float32 | TB/s |
|---|---|---|---|---|---|---|---|
"""


_STANDING = """
## What stands in the way

The aim for 1M x 32, K=256, L=4 on sm_90 is 2.5 x the tf32 floor of 139 us. A device is farther from it than the
prediction. Where the time of the CUDA kernel goes was sampled on an H100: a little less than half is the loop over
codewords, in which warps wait for one product after the other, and the rest is what a level costs outside it: the
rows' step and digits, the runner-up, the gather. By the instruction mix of the kernel in Triton:

- A score costs three instructions (a multiply-add and two minima), which alone is the epilogue floor.
- A thread also makes each codeword's bias, a load and a multiplication, for its two rows only.
- A level costs as much outside the loop over codewords as four of its trips: the residual's digits, maxima and sums
  that all warps of a program wait for, the search for the column, and the gather.
- Registers leave two or three programs of four warps on a multiprocessor, which hide little of what each waits for.

Three products of int8 take 0.75 x the time of one in tf32: on sm_80, at D=128, they are nearly all of it.

The CUDA kernels multiply rows of 65 to 128 columns by wgmma on sm_90a, all others by mma.sync. It is one kernel but
for that: 64 codewords take 3 instructions for 32 columns, not 24, and none to load them, so that the loop takes 145
instructions for them, not 246. Of these 92 are biases and minima, which both ways have, as they have the rest of a
level. Reckoned in the same way, in microseconds on sm_90:

| case | mma.sync | wgmma | less by |
|---|---|---|---|
| 150k x 128, K=1024, L=8 | 648 | 509 | 22 % |
| 150k x 128, K=1024, a single level | 114 | 95 | 17 % |
| 150k x 128, K=512, L=8 | 405 | 333 | 18 % |
| 150k x 128, K=256, L=8 | 283 | 245 | 13 % |
| 150k x 128, K=4096, L=8 | 2110 | 1907 | 10 % |
| 150k x 64, K=1024, L=8 | 506 | 429 | 15 % |
| 1M x 64, K=256, L=4 | 808 | 739 | 9 % |
| 1M x 32, K=256, L=4 | 627 | 611 | 3 % |

At K=4096 the products are all of it, at a peak that both ways are given alike. At D=32 and D=64 the kernel would
spill, for less: there it isn't built. Not counted is that the four warps of a group go in step, so that a search among
one warp's candidates keeps the others waiting. **No device has run wgmma yet.** gpu.md has times of mma.sync alone;
Triton's kernel, which has wgmma, took 2.23 ms in a trial on an H100, where ours took 2.29 by mma.sync.
So mma.sync is the default, and `UNITOK_WGMMA=1` takes wgmma.
"""


_CUDA = """
## The CUDA kernels

Microseconds; `csrc/cuda` by nvcc, read in the same way. A score is three products of int8 and no float. The floors are
those products, at twice the rate of bfloat16, four times on sm_120 (from memory and unchecked), and memory. The code
for every type of rows is counted, though a call runs that of one. Spills are instructions that move registers to
memory and back, wherever they stand; the loop is the innermost one, for 16 rows of a warp and 32 codewords, or 64 by
wgmma (IGMMA).

| target | kernel | case | predicted | 3 x int8 | memory | registers | spills | stack | loop | matrix unit |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(found: Sequence[Figures], cases: Sequence[Case]) -> str:
    """Write the page."""
    method = (prediction.__doc__ or "").split("\n\n", 1)[1]
    parts = [_OPENING, method, _CHECK]
    for target, d in prediction.DEVICES.items():
        peaks = " | ".join(f"{x / 1e12:g}" for x in (d.int8, d.tf32, d.float32, d.bandwidth))
        parts.append(f"| {target} | {d.name} | {d.units // 4} | {d.clock / 1e9:g} | {peaks} |\n")
    shares = ", ".join(f"{share:.2%} at D={D}, K={K}" for (D, K), share in RESCORED.items())
    parts.append(
        "\nRows that are searched again, a level: "
        f"{shares}; counted in torch, by no kernel: normal rows and codewords, the same scores and the same margin.\n"
    )
    for case in cases:
        if case.shape is None:
            continue
        parts.append(
            f"\n## {case.name}\n\nMicroseconds. The ratio is to the largest of the three floors, for one product in "
            "tf32, three instructions a score, and memory.\n\n"
            "| target | predicted | tf32 | epilogue | memory | ratio | registers | shared | loop | matrix unit |\n"
            "|---|---|---|---|---|---|---|---|---|---|\n"
        )
        for f in found:
            if f.case == case.name and f.predicted is not None:
                floors = {name: 1e6 * seconds for name, seconds in case.floors(f.target).items()}
                figures = " | ".join(f"{floor:.0f}" for floor in floors.values())
                parts.append(
                    f"| {f.target} | {f.predicted:.0f} | {figures} | {f.predicted / max(floors.values()):.1f} | "
                    f"{f.registers} | {f.shared} | {f.loop} | {f.matrix} |\n"
                )
    parts.append(_STANDING)
    parts.append(_by_nvcc(found))
    parts.append(_others(found))
    return "".join(parts)


def _by_nvcc(found: Sequence[Figures]) -> str:
    parts = [_CUDA]
    for f in found:
        if f.by_nvcc and f.predicted is not None:
            shape = cuda.PREDICTED[f.kernel]
            case = f"{shape.N}x{shape.D} K={shape.K} L={shape.L}"
            figures = " | ".join(f"{1e6 * floor:.0f}" for floor in cuda.floors(shape, f.target).values())
            parts.append(
                f"| {f.target} | {f.kernel} | {case} | {f.predicted:.0f} | {figures} | "
                f"{f.registers} | {f.spills} | {f.stack} | {f.loop} | {f.matrix} |\n"
            )
    return "".join(parts)


def _others(found: Sequence[Figures]) -> str:
    rows = [f for f in found if f.predicted is None]
    lines = [f"| {f.target} | {f.key} | {f.registers} | {f.shared} | {f.loop} | {f.matrix or '-'} |\n" for f in rows]
    return (
        "\n## Kernels without a prediction\n\nTheir loops' trips are not stated.\n\n"
        "| target | kernel | registers | shared, bytes | innermost loop | matrix unit |\n|---|---|---|---|---|---|\n"
        + "".join(lines)
    )
