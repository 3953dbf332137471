"""What a compiled kernel can be expected to take, read off its machine code: predicted, never measured.

The method, for CUDA and Triton alike:

1. Disassemble, cut the code into blocks at labels and branches, and find its natural loops: what leads back to a block
   that every way there passes through. A loop that polls a barrier is none.
2. Count the instructions of each loop that lie in no loop inside it, and multiply by how often it runs. How often is
   the caller's to say (`Trips`), by depth of nesting and by what instructions it holds, from the shape of the call.
   Where the compiler may have unrolled a loop, an instruction whose number a trip is known tells by how much (`Every`).
3. Each instruction of a warp takes one issue slot; a scheduler has one a cycle. So
   time = slots a warp x warps / (units x clock).
   A product of matrices takes one slot too, whatever its size; of one by a warpgroup (wgmma, IGMMA) each of the four
   warps issues its own.
4. The prediction is the largest of that time, the time of the matrix products the kernel makes at the peak rate, which
   is the same for mma.sync and wgmma, and the time of the bytes that have to move at the peak bandwidth.

What it leaves out: latency that too few warps can't hide, pipes narrower than a warp (minima and comparisons go at half
rate, float32 as well on sm_80), bank conflicts, the last wave of programs, the launch, and that matrix units and
schedulers wait for each other. Each of these makes a kernel slower than predicted. Branches past rare code are counted
as not taken, which errs the other way, by little. The share of rows that are searched again is an input: a codebook
with near ties has more of them. So it ranks variants of one kernel; nothing more.

On AMD's CDNA a wave of 64 passes through a unit of 16 lanes in 4 cycles. Only vector instructions count there: scalar,
memory and matrix instructions of other waves issue beside them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """Peaks of a device.

    Attributes:
        name: as on the data sheet.
        units: schedulers, or vector units: multiprocessors x 4.
        clock: Hz that issue is reckoned with.
        cycles: of one instruction of a warp in a unit.
        int8: matrix operations a second, as are tf32 and float32.
        tf32: as int8.
        float32: without matrix units.
        bandwidth: of memory in bytes a second.
    """

    name: str
    units: int
    clock: float
    cycles: int
    int8: float
    tf32: float
    float32: float
    bandwidth: float


# Dense peaks as published. Of the H100, and its 1.7 GHz: this project's reference figures. The A100's and B200's were
# looked up in second-hand tables; the 5090's and MI300X's matrix rates are from memory and unchecked. Clocks: boost
# times 1.7 / 1.98, the H100's share of its boost, which is an assumption for the others.
DEVICES = {
    "sm_80": Device("A100 SXM 80 GB", 108 * 4, 1.21e9, 1, 624e12, 156e12, 19.5e12, 2.04e12),
    "sm_90": Device("H100 SXM", 132 * 4, 1.7e9, 1, 1979e12, 495e12, 67e12, 3.35e12),
    "sm_100": Device("B200", 148 * 4, 1.69e9, 1, 4500e12, 1125e12, 75e12, 8e12),
    "sm_120": Device("RTX 5090", 170 * 4, 2.07e9, 1, 838e12, 104.8e12, 104.8e12, 1.79e12),
    "gfx942": Device("MI300X", 304 * 4, 1.8e9, 4, 2614e12, 653e12, 163e12, 5.3e12),
}


MATRIX = r"MMA|v_mfma"  # kinds of loops, for `Trips`
FLOAT64 = r"^D(ADD|FMA|MUL|SETP)|_f64"


@dataclass(frozen=True)
class Every:
    """Trips of a loop that the compiler may have unrolled.

    Attributes:
        trips: of the loop as it was written.
        instruction: one that each of those trips makes `times` times.
        times: so often.
    """

    trips: float
    instruction: str
    times: int


# By depth of nesting: what an instruction that a loop holds itself has to match -> trips; the first that does counts.
Trips = tuple[dict[str, "float | Every"], ...]


@dataclass
class Loop:
    """A stretch of code that runs again and again; the whole kernel is one that runs once.

    Attributes:
        mix: how many instructions of each name it has outside its inner loops.
        inner: the loops inside.
    """

    mix: Counter[str] = field(default_factory=Counter)
    inner: list[Loop] = field(default_factory=list)

    def all(self) -> Counter[str]:
        """Count the instructions, those of inner loops as well."""
        return sum((loop.all() for loop in self.inner), self.mix.copy())

    def innermost(self) -> Iterator[Loop]:
        """Go through the loops that hold no other."""
        for loop in self.inner:
            yield from loop.innermost() if loop.inner else [loop]


_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)([^;]*);")
_GCN = re.compile(r"^\s+([a-z]\w+)(.*)")
_CONDITIONAL = re.compile(r"/\s+@|BRA\S* !?U?P\d|s_cbranch")
_VECTOR = re.compile(r"v_(?!mfma)")  # what occupies a vector unit of CDNA


def disassembled(cubin: bytes) -> str:
    """List a cubin's machine code, with the tool that comes with Triton."""
    return _tool("nvdisasm", cubin, "-c")


def resources(cubin: bytes) -> dict[str, tuple[int, int, int]]:
    """Give registers and bytes of stack and of shared memory, that of launches left out, of each kernel of a cubin."""
    listing = _tool("cuobjdump", cubin, "--dump-resource-usage")
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", listing)
    return {name: (int(registers), int(stack), int(shared)) for name, registers, stack, shared in found}


def _tool(name: str, cubin: bytes, option: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, option, file.name], capture_output=True, text=True, check=True).stdout


def kernels(listing: str) -> dict[str, Loop]:
    """Find the loops of each kernel in a listing, by `disassembled` or of AMD's assembler."""
    is_sass = ".text." in listing
    found: dict[str, Loop] = {}
    lines: list[str] = []
    name = None
    for line in listing.splitlines():
        if start := re.match(r"\.text\.(\S+):" if is_sass else r"(\w+):\s+; @", line):
            if name:
                found[name] = _nest(lines, is_sass)
            name, lines = start.group(1), []
        elif not is_sass and line.startswith(".Lfunc_end"):
            if name:
                found[name] = _nest(lines, is_sass)
            name = None
        elif name:
            lines.append(line)
    if name:
        found[name] = _nest(lines, is_sass)
    return found


def _nest(lines: list[str], is_sass: bool) -> Loop:
    blocks, after = _graph(lines, is_sass)
    reached = _reached(after)  # the others are for warps that don't go in step
    bodies = _natural_loops(after, reached)
    loops = {first: Loop() for first in bodies}
    whole = Loop()
    for number in reached:
        holders = [first for first, body in bodies.items() if number in body]
        holder = min(holders, key=lambda first: len(bodies[first]), default=None)
        (whole if holder is None else loops[holder]).mix.update(blocks[number])
    for first in bodies:
        outer = [other for other in bodies if other != first and first in bodies[other]]
        holder = min(outer, key=lambda other: len(bodies[other]), default=None)
        parent = whole if holder is None else loops[holder]
        if _polls(loops[first]):
            parent.mix.update(loops[first].mix)
        else:
            parent.inner.append(loops[first])
    return whole


def _polls(loop: Loop) -> bool:
    return sum(loop.mix.values()) < 12 and ("SYNCS" in loop.mix or "NANOSLEEP" in loop.mix)


def _graph(lines: list[str], is_sass: bool) -> tuple[list[list[str]], list[set[int]]]:
    """Cut code into blocks, and tell which blocks may follow each."""
    blocks: list[list[str]] = [[]]
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    ends: set[int] = set()  # blocks that never go on to the next one
    for line in lines:
        if label := re.match(r"(\.L\w+):", line):
            if blocks[-1]:
                blocks.append([])
            labels[label.group(1)] = len(blocks) - 1
        elif instruction := (_SASS if is_sass else _GCN).match(line):
            name, rest = instruction.groups()
            blocks[-1].append(name)
            target = re.search(r"\.L\w+", rest)
            leaves = name in ("EXIT", "RET", "s_endpgm")
            jumps_on = target and re.match(r"BRA|CALL|s_c?branch", name) and not rest.startswith(".DIV")
            if leaves or jumps_on:
                if target and not leaves:
                    jumps.append((len(blocks) - 1, target.group()))
                if not _CONDITIONAL.search(line):
                    ends.add(len(blocks) - 1)
                blocks.append([])
    after: list[set[int]] = [set() if n in ends or n + 1 == len(blocks) else {n + 1} for n in range(len(blocks))]
    for place, name in jumps:
        if name in labels:
            after[place].add(labels[name])
    return blocks, after


def _reached(after: list[set[int]]) -> set[int]:
    reached, waiting = {0}, [0]
    while waiting:
        new = after[waiting.pop()] - reached
        reached |= new
        waiting.extend(new)
    return reached


def _natural_loops(after: list[set[int]], reached: set[int]) -> dict[int, set[int]]:
    """Give the blocks of each loop by its first: what leads back to a block that every way there passes through."""
    before: list[set[int]] = [set() for _ in after]
    for place in reached:
        for other in after[place]:
            before[other].add(place)
    everything = set(range(len(after)))
    over = [everything for _ in after]  # the blocks that every way to a block passes through
    over[0] = {0}
    changed = True
    while changed:
        changed = False
        for place in sorted(reached - {0}):
            new = set.intersection(*(over[other] for other in before[place])) | {place}
            if new != over[place]:
                over[place], changed = new, True
    bodies: dict[int, set[int]] = {}
    for place in sorted(reached):
        for first in after[place] & over[place]:
            body = bodies.setdefault(first, {first})
            waiting = [place]
            while waiting:
                if (block := waiting.pop()) not in body:
                    body.add(block)
                    waiting.extend(before[block])
    return bodies


def slots(kernel: Loop, trips: Trips) -> float:
    """Count the issue slots of a warp.

    Raises:
        ValueError: loops are nested more deeply than trips are given, or of a kind that has none.
    """
    return _issued(kernel.mix) + sum(_slots(loop, trips) for loop in kernel.inner)


def _slots(loop: Loop, trips: Trips) -> float:
    kinds = trips[0] if trips else {}
    found = [trip for kind, trip in kinds.items() if not kind or any(re.search(kind, name) for name in loop.mix)]
    if not found:
        raise ValueError(f"no trips are given for a loop of {dict(loop.mix.most_common(6))}.")
    trip = found[0]
    count = trip.trips * trip.times / loop.all()[trip.instruction] if isinstance(trip, Every) else trip
    return count * (_issued(loop.mix) + sum(_slots(inner, trips[1:]) for inner in loop.inner))


def _issued(mix: Counter[str]) -> int:
    if any(name.startswith("s_") for name in mix):
        return sum(count for name, count in mix.items() if _VECTOR.match(name))
    return sum(mix.values())


def issue_seconds(slots_a_warp: float, warps: float, device: Device) -> float:
    """Give the time in which a device can issue so much."""
    return slots_a_warp * warps * device.cycles / (device.units * device.clock)
