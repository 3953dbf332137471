"""Tokenize a folder of shards into a folder of tables of IDs, with memory for some rows, and resumable at any shard.

First every shard's codes are found and kept, a few bytes an item; then the suffixes, which hang on all of them; then
the tables are written. What is finished stays when the work is interrupted, and the tables come out the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unitok.data.files import fault
from unitok.ids.table_files import NOTE, SOURCE_ID
from unitok.ids.text import letters
from unitok.serving import ServingTokenizer
from unitok.sharded.shards import Shards
from unitok.sharded.suffixes import Packed, hashed, repeated, suffixes
from unitok.storage.lock import only_writer
from unitok.storage.parquet import write_parquet
from unitok.storage.whole import whole_file
from unitok_kernels.rules import fail

ROWS_AT_ONCE = 2**14
UNFINISHED = ".unitok-unfinished"  # a folder in the output, until all is done
_RUN = "run.json"
_CODES, _NAMES = "codes", "names"

Progress = Callable[[int, int, str], None]


def tokenize_shards(
    tokenizer: ServingTokenizer,
    shards: Shards,
    out: Path,
    *,
    domain: str,
    force: bool = False,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress = lambda *_: None,
) -> dict[str, int]:
    """Give every item of some shards its semantic ID, with a suffix where items of any shard share one.

    Args:
        tokenizer: the tokenizer.
        shards: the items.
        out: the folder of the tables, one for each shard and of its name; made where it is missing. What an interrupted
            call of the same tokenizer and domain left there is taken over, but for shards that have changed since.
        domain: the items' domain; if the tokenizer doesn't know it, its router decides.
        force: replace tables that are there, each when its successor is whole, and begin anew.
        rows_at_once: how many embeddings are read at a time; two blocks are in memory, and what a row group takes.
        progress: called with the rows done, their total, and what is being done.

    Returns:
        items: how many there are; shared: how many have an ID with a suffix above 0.

    Raises:
        CatalogueError: a shard can't be read, holds something else, or embeddings that aren't finite; or a name is
            there twice.
        ValueError: embeddings of another width; a domain that was fitted with views, which shards don't have.
        FileExistsError: tables are there already, or the unfinished work of another tokenizer or domain.
        BusyError: another process works on the folder.
    """
    if domain in tokenizer.views:
        step = "Tokenize it as a catalogue, with the vectors that the tokenizer keeps."
        fail("tokenize", "domain", "one that was fitted without views", repr(domain), step)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer("tokenize", out):
        work, total = _begun(tokenizer, shards, out, domain, force), sum(shards.rows)
        for place in range(len(shards.files)):
            _encode(tokenizer, shards, place, domain, work, rows_at_once, progress)
        packed, hashes = (
            [np.load(work / f"{file.name}.{kind}.npy", mmap_mode="r") for file in shards.files]
            for kind in (_CODES, _NAMES)
        )
        progress(total, total, "telling apart")
        _check_names(shards, hashes)
        suffix = suffixes(packed, shards.names)
        note = {"tokenizer": _identity(tokenizer), "resolver": "suffix"}
        first = 0
        for place, file in enumerate(shards.files):
            if not (done := work / f"{file.name}.written").exists():
                table = _table(domain, first, packed[place], suffix[place], shards.names(place))
                with whole_file(out / file.name) as partial:
                    write_parquet(table.replace_schema_metadata({NOTE: json.dumps(note)}), partial)
                with whole_file(done) as partial:
                    partial.touch()
            first += shards.rows[place]
            progress(first, total, "writing")
        (work / _RUN).unlink()
        shutil.rmtree(work)
    return {"items": total, "shared": sum(int((each > 0).sum()) for each in suffix)}


def _begun(tokenizer: ServingTokenizer, shards: Shards, out: Path, domain: str, force: bool) -> Path:
    """Make the folder of what isn't finished, or take over that of an interrupted call."""
    for file in shards.files:
        if (out / file.name).exists() and (out / file.name).samefile(file):
            raise fault(out, "the output must be another folder than that of the shards", "the same", "Name another")
    work = out / UNFINISHED
    whose = {"tokenizer": _identity(tokenizer), "domain": domain}
    stamps = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in shards.files}
    before = None if force or not (work / _RUN).exists() else json.loads((work / _RUN).read_text(encoding="utf-8"))
    if before is None:
        there = next((file for file in sorted(out.glob("[!.]*.parquet"))), None)
        if there is not None and not force:
            raise FileExistsError(f"{there}: a table is there already. Choose another folder, or pass --force.")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    elif {name: before[name] for name in whose} != whose:
        step = "Choose another folder, or pass --force to begin anew."
        raise FileExistsError(f"{out}: the unfinished work of another tokenizer or domain is there. {step}")
    elif before["shards"] != stamps:  # what was told of all shards together may be wrong now
        same = {name for name, stamp in stamps.items() if before["shards"].get(name) == stamp}
        for kept in work.glob("*.*"):
            if kept.name != _RUN and (kept.suffix != ".npy" or kept.name.rsplit(".", 2)[0] not in same):
                kept.unlink()
    with whole_file(work / _RUN) as partial:
        partial.write_text(json.dumps({**whose, "shards": stamps}), encoding="utf-8")
    return work


def _identity(tokenizer: ServingTokenizer) -> dict[str, Any]:
    found = tokenizer.fingerprint()
    return {"base": found["base"], "experts": found["experts"]}


def _encode(
    tokenizer: ServingTokenizer,
    shards: Shards,
    place: int,
    domain: str,
    work: Path,
    rows_at_once: int,
    progress: Progress,
) -> None:
    """Keep the tokens of a shard's items and hashes of their names, unless they are kept."""
    name, before = shards.files[place].name, sum(shards.rows[:place])
    codes, names = (work / f"{name}.{kind}.npy" for kind in (_CODES, _NAMES))
    if not names.exists():
        _keep(names, hashed(shards.names(place)))
    if not codes.exists():
        progress(before, sum(shards.rows), "encoding")
        done, parts = 0, [np.zeros((0, tokenizer.config.num_levels + 1), np.uint8)]
        for block in _tokens(tokenizer, shards, place, domain, rows_at_once):
            parts.append(
                block.astype(np.uint8 if block.max(initial=0) < 2**8 else np.uint16)
            )  # the smallest that holds
            done += len(block)
            progress(before + done, sum(shards.rows), "encoding")
        _keep(codes, np.concatenate(parts))


def _keep(file: Path, found: NDArray[Any]) -> None:
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, found)


def _tokens(
    tokenizer: ServingTokenizer, shards: Shards, place: int, domain: str, rows_at_once: int
) -> Iterator[NDArray[np.int64]]:
    """The tokens of a shard's items, block by block; the next block is read meanwhile."""
    known = domain if domain in tokenizer.domains else None
    blocks, done = shards.blocks(place, rows_at_once), 0
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, blocks, None)
        while (block := waiting.result()) is not None:
            waiting = reader.submit(next, blocks, None)
            try:
                found = tokenizer.tokenize(block, known)
            except ValueError as error:
                bad, file = np.flatnonzero(~np.isfinite(block).all(1)), shards.files[place]
                if len(bad):
                    got = f"NaN or infinity in row {done + bad[0]}"
                    raise fault(file, "embeddings must be finite", got, "Embed that item again") from error
                raise ValueError(f"{file}, block from row {done} on: {str(error).partition(': ')[2]}") from error
            done += len(block)
            yield np.concatenate([found.codes, found.experts[:, :1]], axis=1)


def _check_names(shards: Shards, hashes: list[NDArray[np.uint64]]) -> None:
    """Refuse a name that two items have."""
    if (twice := repeated(hashes, shards.names)) is not None:
        name, where = twice
        got = " and ".join(f"{shards.files[place].name}, row {row}" for place, row in where)
        raise fault(shards.files[where[0][0]], f"{SOURCE_ID} must be distinct", f"{name!r} in {got}", "Leave one out")


def _table(domain: str, first: int, packed: Packed, suffix: NDArray[np.int32], names: pa.Array) -> pa.Table:
    """The table of a shard, in the columns that `IdTable` reads; items are numbered through all shards."""
    tokens = [pa.array(column.astype(np.int32)) for column in (*packed.T, suffix)]
    pieces: list[Any] = []
    for column, numbers in enumerate(tokens):
        pieces += [f"{'>' if column else ''}<{letters(column)}_", numbers.cast(pa.string())]
    codes = {f"c{level}": column for level, column in enumerate(tokens[:-2])}
    columns = {
        "domain": pa.array([domain]).take(pa.array(np.zeros(len(packed), np.int8))),
        "item_id": pa.array(first + np.arange(len(packed))),
        "semantic_id": pc.binary_join_element_wise(*pieces, ">", ""),
    }
    return pa.table(
        {**columns, **codes, "expert": tokens[-2], "suffix": tokens[-1], SOURCE_ID: names.cast(pa.string())}
    )
