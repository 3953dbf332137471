"""Damage every kind of file, thousands of times: `python -m tests.mutations --count 5000`.

Each loader runs in a process of its own, so that a crash or a file that takes all memory is seen. Counted are: refused
in one line, read as it was written, and what must not be: read as something else, any other error, memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from tests.mutations.mutate import mutated
from tests.mutations.samples import SAMPLES, Sample, make

MOST_MEMORY = 300 << 10  # KiB over a plain load
MOST_SECONDS = 60.0  # of one load
BAD = ("other content", "error", "memory", "crash", "hang")


def outcome(sample: Sample, folder: Path, expected: object) -> tuple[str, str]:
    """Load, and say how it went."""
    try:
        found = sample.load(folder)
    except (ValueError, OSError) as error:
        said = str(error)
        good = "\n" not in said and 0 < len(said) < 2000
        return ("refused", said) if good else ("error", f"{len(said)} characters: {said[:200]!r}")
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"[:300]
    return ("as written", "") if found == expected or not sample.vouched else ("other content", str(found)[:200])


def _work(number: int, folder: Path, seeds: range, told: Connection) -> None:
    sample = SAMPLES[number]
    file = folder / sample.file
    whole = file.read_bytes()
    expected = sample.load(folder)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        how, damaged = mutated(whole, seed)
        told.send((seed, how, None, ""))
        file.write_bytes(damaged)
        result, said = outcome(sample, folder, expected)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
        if grown > MOST_MEMORY:
            result, said = "memory", f"{grown >> 10} MiB more"
            used += grown
        told.send((seed, how, result, said))
    file.write_bytes(whole)


def run(number: int, folder: Path, seeds: range) -> list[tuple[int, str, str, str]]:
    """Damage the file of a sample once for each seed; give the seed, the damage, the outcome and what was said."""
    context = multiprocessing.get_context("spawn")
    found = []
    file = folder / SAMPLES[number].file
    whole = file.read_bytes()
    while seeds:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(number, folder, seeds, there))
        process.start()
        there.close()
        last, done = seeds.start, False
        how = ""
        try:
            while True:
                if not here.poll(MOST_SECONDS):
                    found.append((last, how, "hang", ""))
                    process.kill()
                    break
                seed, how, result, said = here.recv()
                last = seed
                if result is not None:
                    found.append((seed, how, result, said))
                    done = seed == seeds[-1]
        except EOFError:
            process.join()
            if not done:
                found.append((last, how, "crash", f"exit code {process.exitcode}"))
        process.join()
        file.write_bytes(whole)
        seeds = range(last + 1, seeds.stop)
    return found


def main() -> None:
    """Run all, print a table, and fail where something must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="mutations over all kinds of files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    each = -(-args.count // len(SAMPLES))
    began, bad, total = time.perf_counter(), [], Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        for number, sample in enumerate(SAMPLES):
            start = args.seed + number * each
            results = run(number, folder, range(start, start + each))
            counts = Counter(result for _, _, result, _ in results)
            total += counts
            label = f"{sample.file} by {sample.load.__name__.strip('_<>')}"
            print(f"{label:<52} " + "  ".join(f"{what} {count}" for what, count in sorted(counts.items())), flush=True)
            bad += [(label, *result) for result in results if result[2] in BAD]
    print(f"{sum(total.values())} mutations in {time.perf_counter() - began:.0f} s: {dict(total)}")
    for label, seed, how, result, said in bad[:40]:
        print(f"  {label}, seed {seed}, {how}: {result}: {said}")
    sys.exit(1 if bad else 0)
