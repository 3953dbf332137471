"""`unitok tokenize` of a folder of shards, which is larger than memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from unitok.cli.inputs import counted
from unitok.cli.terminal import Refusal, StepBar, console, print_json, say


def is_shards(data: Path) -> bool:
    """Tell whether a folder holds Parquet files and no domain; refuse one that holds neither."""
    from unitok.data import find_domains

    if not data.is_dir() or find_domains(data):
        return False
    if not any(data.glob("[!.]*.parquet")):
        rule = "must be a catalogue, a domain's folder, or a folder of Parquet shards"
        raise Refusal(f"{data}: {rule}, got a folder without either. Check the path.")
    return True


def tokenize_folder(
    tokenizer: Path, data: Path, out: Path, domain: str | None, *, force: bool, as_json: bool, **others: Any
) -> None:
    """Tokenize shard by shard; `others` are options of `tokenize` and what they must be here."""
    try:
        from unitok import serving
        from unitok.sharded.tokenizing import tokenize_shards
    except ImportError as error:  # the native module isn't built
        raise Refusal(f"shards are tokenized by the native module alone: {error}") from error
    from unitok.sharded.shards import Shards

    for name, (given, only) in others.items():
        if given != only:
            raise Refusal(f"--{name}: of shards it must be {only or 'left out'}, got {given}. Leave it out.")
    if out.exists() and not out.is_dir():
        raise Refusal(f"{out}: of shards the output must be a folder, got a file. Name a folder.")
    began, shards, known = time.perf_counter(), Shards.of(data), serving.load(tokenizer)
    name = Path(os.path.abspath(data)).name if domain is None else domain  # a link keeps its own name
    if domain is not None and domain not in known.domains:
        step = f"It knows {', '.join(known.domains)}; leave --domain out to let the router decide."
        raise Refusal(f"--domain: the tokenizer must know it, got {domain!r}. {step}")
    if name not in known.domains:
        say(f"not among the tokenizer's domains, so left to its router: {name}")
    with StepBar("tokenizing", "items") as bar:
        first = iter([True])

        def progress(done: int, total: int, what: str) -> None:
            if next(first, False) and done:
                bar.say(f"going on at item {done:,} of {total:,}")
            bar(done, total, what)

        found = tokenize_shards(known, shards, out, domain=name, force=force, progress=progress)
    summary = {"out": str(out), "shards": len(shards.files), "domain": name, **found}
    if as_json:
        print_json({**summary, "seconds": round(time.perf_counter() - began, 3)})
        return
    share = found["shared"] / max(1, found["items"])
    for line in (
        f"{counted(found['items'], 'item')} of {counted(len(shards.files), 'shard')}: {share:.2%} need a suffix",
        f"written to {out}",
    ):
        console().print(line, markup=False, soft_wrap=True)
