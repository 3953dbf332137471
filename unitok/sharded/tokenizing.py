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
from unitok.sharded.suffixes import Packed, suffixes
from unitok.storage.lock import only_writer
from unitok.storage.parquet import write_parquet
from unitok.storage.whole import whole_file

ROWS_AT_ONCE = 2**14
UNFINISHED = ".unitok-unfinished"  # a folder in the output, until all is done
_RUN = "run.json"

Progress = Callable[[int, int, str], None]


def tokenize_shards(
    tokenizer: ServingTokenizer,
    shards: Shards,
    out: Path,
    *,
    domain: str,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress = lambda *_: None,
) -> dict[str, int]:
    """Give every item of some shards its semantic ID, with a suffix where items of any shard share one.

    Args:
        tokenizer: the tokenizer.
        shards: the items.
        out: the folder of the tables, one for each shard and of its name; made where it is missing. What an interrupted
            call of the same arguments left there is taken over.
        domain: the items' domain; if the tokenizer doesn't know it, its router decides.
        rows_at_once: how many embeddings are read at a time; two blocks are in memory.
        progress: called with the rows done, their total, and what is being done.

    Returns:
        items: how many there are; shared: how many have an ID with a suffix above 0.

    Raises:
        CatalogueError: a shard can't be read, or holds something else.
        ValueError: embeddings of another width or not finite (with shard and row); names that repeat.
        FileExistsError: a table is there already, of a finished call or another one.
        BusyError: another process works on the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_writer("tokenize", out):
        work = _begun(tokenizer, shards, out, domain)
        packed = []
        for place, file in enumerate(shards.files):
            kept = work / f"{file.stem}.npy"
            if not kept.exists():
                blocks = _codes(tokenizer, shards, place, domain, rows_at_once)
                found = _gathered(blocks, tokenizer.config.num_levels + 1, shards, place, progress)
                with whole_file(kept) as partial, partial.open("wb") as stream:
                    np.save(stream, found)
            packed.append(np.load(kept, mmap_mode="r"))
        progress(sum(shards.rows), sum(shards.rows), "telling apart")
        suffix = suffixes(packed, shards.names)
        note = {"tokenizer": _identity(tokenizer), "resolver": "suffix"}
        first = 0
        for place, file in enumerate(shards.files):
            if not (out / file.name).exists():
                table = _table(domain, first, packed[place], suffix[place], shards.names(place))
                with whole_file(out / file.name) as partial:
                    write_parquet(table.replace_schema_metadata({NOTE: json.dumps(note)}), partial)
            first += shards.rows[place]
            progress(first, sum(shards.rows), "writing")
        shutil.rmtree(work)
    return {"items": first, "shared": sum(int((each > 0).sum()) for each in suffix)}


def _begun(tokenizer: ServingTokenizer, shards: Shards, out: Path, domain: str) -> Path:
    """Make the folder of what isn't finished, or take over that of an interrupted call of the same arguments."""
    work = out / UNFINISHED
    stats = [file.stat() for file in shards.files]
    files = [[file.name, each.st_size, each.st_mtime_ns] for file, each in zip(shards.files, stats, strict=True)]
    run = {"tokenizer": _identity(tokenizer), "domain": domain, "shards": files}
    if (work / _RUN).exists():
        if json.loads((work / _RUN).read_text(encoding="utf-8")) != run:
            rule = "the folder must hold the unfinished work of the same tokenizer, domain and shards"
            raise fault(work, rule, "that of others", "Delete it, or choose another folder")
        return work
    if there := next((name for name in (file.name for file in shards.files) if (out / name).exists()), None):
        raise FileExistsError(f"{out / there}: a table is there already. Choose another folder, or delete it.")
    work.mkdir(exist_ok=True)
    with whole_file(work / _RUN) as partial:
        partial.write_text(json.dumps(run), encoding="utf-8")
    return work


def _identity(tokenizer: ServingTokenizer) -> dict[str, Any]:
    found = tokenizer.fingerprint()
    return {"base": found["base"], "experts": found["experts"]}


def _codes(
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
                where = f"{shards.files[place]}, the block from row {done} on"
                raise ValueError(f"{where}: {str(error).partition(': ')[2]}") from error
            done += len(block)
            yield np.concatenate([found.codes, found.experts[:, :1]], axis=1)


def _gathered(
    blocks: Iterator[NDArray[np.int64]], width: int, shards: Shards, place: int, progress: Progress
) -> Packed:
    """Put the tokens of a shard's items into one array, as small as they allow."""
    before, done, parts = sum(shards.rows[:place]), 0, [np.zeros((0, width), np.uint8)]
    for block in blocks:
        parts.append(block.astype(np.uint8 if block.max(initial=0) < 2**8 else np.uint16))
        done += len(block)
        progress(before + done, sum(shards.rows), "encoding")
    return np.concatenate(parts)


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
    return pa.table({**columns, **codes, "expert": tokens[-2], "suffix": tokens[-1], SOURCE_ID: names})
