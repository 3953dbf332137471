"""Run two of every command at once on one folder, with random delays and kills; then readers against writers.

    python -m tests.races --rounds 20 --loads 5000

Each process is forked from one that has imported everything and computed nothing, so that a round takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.races.commands import COMMANDS, SAVE, VARIANTS, Command, key, prepare


def start(work: Callable[[], None], log: Path) -> int:
    """Fork a process that does some work, and give its number; its output goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        work()
        code = 0
    except BaseException as error:  # printed, since the process ends here
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def done(work: Callable[[], None], log: Path) -> bool:
    """Do some work in a process of its own; tell whether it ended well."""
    return os.waitpid(start(work, log), 0)[1] == 0


def told(command: Command, out: Path, log: Path) -> str:
    """Tell the result that is there, in a process of its own; empty if it can't be read."""
    file = log.with_suffix(".told")
    file.unlink(missing_ok=True)
    done(lambda: file.write_text(key(command.told(out))) and None, log)
    return file.read_text() if file.exists() else ""


def race(command: Command, rounds: int, folder: Path, dice: random.Random) -> tuple[Counter[str], list[str]]:
    """Run a command twice at once, many times over; count what was left, and list what must not be."""
    inputs, log = folder / "inputs", folder / "log"
    results, old, seconds = {}, folder / f"{command.name}-old", 0.0
    for variant in (0, *VARIANTS):
        alone = old if not variant else folder / f"{command.name}-{variant}"
        if variant:
            shutil.copytree(old, alone)
        alone.mkdir(exist_ok=True)
        began = time.perf_counter()
        if not done(lambda alone=alone, variant=variant: command.run(inputs, alone, variant), log):
            raise RuntimeError(f"{command.name}, alone: {log.read_text()[-2000:]}")
        seconds = time.perf_counter() - began
        results[told(command, alone, log)] = f"variant {variant}" if variant else "old"
    assert len(results) == 3, f"{command.name}: the variants can't be told apart"
    counts, bad = Counter[str](), []
    out = folder / "out"
    for number in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out)
        log.unlink(missing_ok=True)
        running = []
        for variant in VARIANTS:
            running.append(start(lambda variant=variant: command.run(inputs, out, variant), log))
            time.sleep(dice.random() * seconds * 0.6)
        if dice.random() < 0.5:
            time.sleep(dice.random() * seconds)
            os.kill(dice.choice(running), signal.SIGKILL)
        codes = [os.waitpid(process, 0)[1] for process in running]
        found = results.get(told(command, out, log), "")
        if not found and any(code == signal.SIGKILL for code in codes) and command.name == "demo":
            # A demo writes three things one after another; killed in between, the same command goes on.
            done(lambda: command.run(inputs, out, 1), log)
            found = results.get(told(command, out, log), "") and "went on"
        counts[found or "MIXTURE"] += 1
        refused = log.exists() and "must be free to write to" in log.read_text()
        counts["refused"] += refused
        if not found:
            bad.append(f"{command.name}, round {number}: codes {codes}: {log.read_text()[-600:]}")
    return counts, bad


def readers(loads: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Load a tokenizer, a table, a domain and a recommender again and again while another process replaces them."""
    inputs, out, log = folder / "inputs", folder / "read", folder / "log"
    chosen = [command for command in COMMANDS if command.name in ("import", "tokenize", "add-domain")] + [SAVE]
    results: dict[str, set[str]] = {}
    for command in chosen:
        results[command.name] = set()
        for variant in VARIANTS:
            out.mkdir(exist_ok=True)
            done(lambda command=command, variant=variant: command.run(inputs, out, variant), log)
            results[command.name].add(told(command, out, log))
    told_file, saves = folder / "read.told", folder / "saves"

    def write() -> None:
        while True:
            for variant in VARIANTS:
                for command in chosen:
                    command.run(inputs, out, variant)
                    with saves.open("ab") as count:
                        count.write(b".")

    def read() -> None:
        counts, bad = Counter[str](), []
        for number in range(loads):
            command = chosen[number % len(chosen)]
            try:
                found = key(command.told(out)) in results[command.name]
                counts["whole" if found else "MIXTURE"] += 1
                if not found:
                    bad.append(f"{command.name}: a mixture")
            except Exception as error:  # counted: none must be
                counts["ERROR"] += 1
                bad.append(f"{command.name}: {type(error).__name__}: {error}"[:300])
        told_file.write_text(json.dumps([dict(counts), bad]))

    writer = start(write, log)
    ended = done(read, folder / "readers.log")
    alive = os.waitpid(writer, os.WNOHANG) == (0, 0)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    assert ended, (folder / "readers.log").read_text()[-2000:]
    counts, bad = json.loads(told_file.read_text())
    counts["saves meanwhile"] = saves.stat().st_size if saves.exists() else 0
    if not alive or counts["saves meanwhile"] < loads // 100:
        bad.append(f"readers: the writer must go on, got {counts['saves meanwhile']} saves: {log.read_text()[-600:]}")
    return Counter(counts), bad


def main() -> None:
    """Run all, print a line for each, and fail where something must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of each command")
    parser.add_argument("--loads", type=int, default=5000, help="of the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one command")
    args = parser.parse_args()
    import sentence_transformers  # noqa: F401  (imported once, before the forks)
    import transformers  # noqa: F401

    import unitok.cli.app
    import unitok.recommender.base  # noqa: F401

    os.environ["OMP_NUM_THREADS"] = "1"
    dice, failures = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        if not done(lambda: prepare(folder / "inputs"), folder / "log"):
            raise RuntimeError((folder / "log").read_text()[-2000:])
        for command in COMMANDS if args.rounds else ():
            if args.only in (None, command.name):
                counts, bad = race(command, args.rounds, folder, dice)
                failures += bad
                print(f"{command.name:<16} {dict(counts)}", flush=True)
        if args.loads:
            counts, bad = readers(args.loads, folder)
            failures += bad
            print(f"{'readers':<16} {dict(counts)}", flush=True)
    print(*failures[:20], sep="\n")
    sys.exit(1 if failures else 0)
