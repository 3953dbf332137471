"""The CUDA kernels of csrc/cuda for `tools.aot`: nvcc compiles them for GPUs that needn't be there.

Triton's tools read the machine code. It is kept in build/cuda_aot, by what it was made of, so that only what has
changed is compiled again.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from tools.aot import prediction
from tools.aot.budgets import Figures, figures_of
from tools.aot.cases import AUDIO, MAIN, Shape
from unitok_kernels import nvcc

CSRC = Path(__file__).parents[2] / "csrc"
KEPT = CSRC.parent / "build/cuda_aot"
PREDICTED = {"encode<32, Warp>": MAIN, "encode<128, Warp>": AUDIO, "encode<128, Warpgroup>": AUDIO}
# Share of rows that are searched again on a level: the bound of csrc/cuda/packed.cuh, held against scores of normal
# rows and codewords in numpy, 16 rows a step.
RESCORED = {32: 0.0095, 128: 0.0186}
_WARPS = {32: 16, 128: 8}  # of a block, as kWarps in room.cuh


def missing() -> str | None:
    """Say what stands in the way of compiling; None if nothing does."""
    if not (CSRC / "cuda").is_dir():
        return f"csrc/cuda is not in {CSRC.parent}; a checkout has it"
    if nvcc.find() is None:
        return f"there is no nvcc in CUDA_HOME, in PATH or from pip; `{nvcc.INSTALL}` brings one"
    return None


def sources() -> list[str]:
    """List the sources, those that take longest first."""
    paths = sorted(sorted((CSRC / "cuda").rglob("*.cu")), key=lambda path: path.stem != "encode")
    return [path.name for path in paths]


def architecture(target: str, source: str) -> str | None:
    """Name what a source is compiled for on a target, such as sm_90a on sm_90; None where it isn't."""
    numbers = nvcc.narrowed([target.removeprefix("sm_")], source)
    return f"sm_{numbers[0]}" if numbers and target.startswith("sm_") else None


def compiled(target: str, source: str) -> bytes:
    """Compile a source for a target, or take what is kept."""
    compiler = nvcc.find()
    assert compiler is not None
    said = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    path = next((CSRC / "cuda").rglob(source))
    texts = [said, *nvcc.FLAGS, *(part.read_text() for part in sorted(read_with(path)))]
    stem = f"{Path(source).stem}-{target}"
    kept = KEPT / f"{stem}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}.cubin"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob(f"{stem}-*"):
            old.unlink(missing_ok=True)
        made = kept.with_suffix(".new")
        flags = [*nvcc.FLAGS, f"-arch={architecture(target, source)}", "-cubin", f"-I{CSRC / 'cuda'}"]
        subprocess.run([compiler, *flags, path, "-o", made], check=True)
        made.rename(kept)
    return kept.read_bytes()


def read_with(source: Path) -> set[Path]:
    """List a source and every file of ours that it includes, directly or not: what its code is made of."""
    found, waiting = {source.resolve()}, [source.resolve()]
    while waiting:
        path = waiting.pop()
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            there = [folder / name for folder in (path.parent, CSRC / "cuda") if (folder / name).is_file()]
            new = {part.resolve() for part in there[:1]} - found
            found |= new
            waiting += new
    return found


def measure(target: str, source: str) -> list[Figures]:
    """Compile a source for a target, and read the figures of its kernels off the code."""
    cubin = compiled(target, source)
    found = []
    kernels = prediction.kernels(prediction.disassembled(cubin))
    names = readable(list(kernels))
    for name, (registers, stack, shared) in prediction.resources(cubin).items():
        loops = kernels[name]
        every = loops.all()
        figures = Figures(
            target=target, case=source, kernel=names[name], registers=registers, spills=every["LDL"] + every["STL"],
            stack=stack, shared=shared, **figures_of(loops),
        )  # fmt: skip
        if (shape := PREDICTED.get(figures.kernel)) is not None:
            figures.predicted = 1e6 * predicted(loops, shape, target)
        found.append(figures)
    return sorted(found, key=lambda figures: figures.kernel)


def readable(names: list[str]) -> dict[str, str]:
    """Write kernels' names as the source does: encode<32>."""
    filtered = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    return dict(zip(names, map(_short, filtered.splitlines()), strict=True))


def _short(signature: str) -> str:
    plain = re.sub(r"unitok::|\(anonymous namespace\)::", "", signature).removeprefix("void ")
    return plain[: plain.index("(")]


def predicted(loops: prediction.Loop, shape: Shape, target: str) -> float:
    """Give the seconds that encoding rows of a shape can be expected to take.

    A trip of the outermost loop takes 16 rows a warp through all levels. Code for every type of rows is counted, and
    of rows that are searched again the search in float32 among eight candidates or fewer.
    """
    device = prediction.DEVICES[target]
    warps = device.units // 4 * _WARPS[shape.D]
    chunks = max(shape.K // 128, 1)
    copies = shape.K * shape.D * 2 / 16 / (32 * _WARPS[shape.D]) / chunks
    resident = shape.K * shape.D * 2 * shape.L <= 128 << 10
    trips: prediction.Trips = (
        {"REDUX": shape.N / 16 / warps, "": 1},
        {"REDUX": shape.L, "FADD": shape.L / 2, "IABS": 0, "": 1},
        {"BAR": chunks, "VOTE": 16 * RESCORED[shape.D], "": 1},
        {"IMMA": prediction.Every(shape.K / chunks / 32, "IMMA", 12 * shape.D // 32),
         "IGMMA": prediction.Every(shape.K / chunks / 64, "IGMMA", 3 * shape.D // 32),
         "F2I": prediction.Every(shape.K / chunks / 32, "F2I", 1),
         "LDGSTS": 0 if resident else copies, "": 1},
        {prediction.FLOAT64: 0, "": 1},
        {"": 1},
    )  # fmt: skip
    issue = prediction.issue_seconds(prediction.slots(loops, trips), warps, device)
    return max(issue, *floors(shape, target).values())


def floors(shape: Shape, target: str) -> dict[str, float]:
    """Give the seconds that three products of int8, and memory, take at least."""
    device = prediction.DEVICES[target]
    operations = 3 * 2.0 * shape.N * shape.D * shape.K * shape.L
    moved = shape.N * (2 * 4 * shape.D + 8 * shape.L)
    return {"3 x int8": operations / device.int8, "memory": moved / device.bandwidth}
