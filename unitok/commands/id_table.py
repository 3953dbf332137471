"""Semantic IDs in a parquet file: a row an item, with its ID as text and as numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from unitok import SemanticIds, Tokenizer
from unitok.data import CatalogueError
from unitok.data.files import fault, integers, read_table

_NOTE = b"unitok"
_OF_EXPERTS = ("quantizer.codebooks", "mean_shared")  # the weights that have a row an expert
_OTHERS = ("domain", "item_id", "semantic_id", "expert", "suffix")  # the columns that are no codes


@dataclass(frozen=True, eq=False)
class IdTable:
    """Items and their IDs, as a file holds them.

    Attributes:
        table: columns domain, item_id, semantic_id, c0 .. c(L-1), expert, suffix (null under resolver none).
        codebook_size: K of the tokenizer.
        num_experts: E of the tokenizer.
    """

    table: pa.Table
    codebook_size: int
    num_experts: int

    @cached_property
    def ids(self) -> SemanticIds:
        """The IDs of the rows."""
        numbers = self.table.drop_columns(list(_OTHERS[:3]))
        if numbers["suffix"].null_count == len(numbers):
            numbers = numbers.drop_columns("suffix")
        columns = [column.fill_null(0).to_numpy().astype(np.int64) for column in numbers.columns]
        return SemanticIds.from_tokens(
            torch.from_numpy(np.stack(columns, 1)),
            num_levels=self.table.num_columns - len(_OTHERS),
            codebook_size=self.codebook_size,
            num_experts=self.num_experts,
        )

    @cached_property
    def keys(self) -> list[str]:
        """Each item's key, `domain:item_id`: what `SemanticIds.assign` tells items apart by."""
        return item_keys(self.table["domain"].to_pylist(), self.table["item_id"].to_pylist())

    @classmethod
    def build(cls, domains: list[str], items: NDArray[np.int64], ids: SemanticIds) -> IdTable:
        """Lay out items and their IDs, one row each."""
        columns: dict[str, Any] = {
            "domain": pa.array(domains, pa.string()),
            "item_id": pa.array(items, pa.int64()),
            "semantic_id": pa.array(ids.to_text(), pa.string()),
        }
        columns |= {f"c{level}": _small(codes) for level, codes in enumerate(ids.codes.unbind(1))}
        columns["expert"] = _small(ids.experts[:, 0])
        columns["suffix"] = pa.nulls(len(ids), pa.int32()) if ids.suffix is None else _small(ids.suffix)
        return cls(pa.table(columns), ids.codebook_size, ids.num_experts)

    def write(self, file: Path, tokenizer: Tokenizer, resolver: str) -> None:
        """Write the file, with a note of what made it."""
        note = {"tokenizer": _fingerprint(tokenizer), "resolver": resolver}
        pq.write_table(self.table.replace_schema_metadata({_NOTE: json.dumps(note)}), file)

    @classmethod
    def read(cls, file: Path, tokenizer: Tokenizer, resolver: str | None = None) -> IdTable:
        """Read what `write` wrote, or a table of the same columns.

        Args:
            file: the parquet file.
            tokenizer: the one that made the IDs, or one that domains were added to since.
            resolver: the one that they must have been resolved by; None for any.

        Returns:
            IdTable: with the columns above; others are left out.

        Raises:
            CatalogueError: the file is broken, or of another tokenizer or resolver.
            ValueError: a code, expert or suffix is out of range.
        """
        levels = tokenizer.config.num_levels
        table = read_table(file, _names(levels))
        _check_note(file, (table.schema.metadata or {}).get(_NOTE), tokenizer, resolver)
        if f"c{levels}" in table.column_names:
            rule = f"IDs must have {levels} levels, as the tokenizer's"
            raise fault(file, rule, "more", "Use the tokenizer that made them")
        read = cls._checked(file, table, levels, tokenizer.config.codebook_size, tokenizer.model.num_experts)
        if resolver not in (None, "none"):
            integers(file, table, "suffix")
        return read

    @classmethod
    def read_alone(cls, file: Path) -> IdTable:
        """Read IDs without their tokenizer, for what needs no more of it than how they are written.

        Args:
            file: the parquet file.

        Returns:
            IdTable: with sizes that hold the codes and experts that there are.

        Raises:
            CatalogueError: the file is broken.
        """
        table = read_table(file, _names(1))
        levels = next(level for level in range(1, table.num_columns + 1) if f"c{level}" not in table.column_names)
        experts, *codes = (integers(file, table, name) for name in ("expert", *_names(levels)[3:-2]))
        sizes = (
            1 + max((int(column.max()) for column in columns if column.size), default=0)
            for columns in (codes, [experts])
        )
        return cls._checked(file, table, levels, *sizes)

    @classmethod
    def _checked(cls, file: Path, table: Any, levels: int, codebook_size: int, num_experts: int) -> IdTable:
        """Take a table whose columns are there, if their values are of the right kinds."""
        for name in ("domain", "semantic_id"):
            column = table[name]
            if not pa.types.is_string(column.type) or column.null_count:
                got = f"{column.null_count} nulls" if column.null_count else column.type
                raise fault(file, f"{name} must be text in every row", got, "Write the column again")
        for name in ("item_id", *_names(levels)[3:-1]):
            integers(file, table, name)
        if not pa.types.is_integer(table["suffix"].type):
            got = table["suffix"].type
            raise fault(file, "suffix must be an integer or null in every row", got, "Write the column again")
        read = cls(table.select(_names(levels)), codebook_size, num_experts)
        try:
            _ = read.ids
        except ValueError as error:
            raise CatalogueError(f"{file}: {error}") from error
        return read


def _names(levels: int) -> tuple[str, ...]:
    """The columns of IDs of so many levels."""
    return (*_OTHERS[:3], *(f"c{level}" for level in range(levels)), *_OTHERS[3:])


def item_keys(domains: Iterable[str], items: Iterable[int]) -> list[str]:
    """Give each item a key that is its own among all domains: `domain:item_id`."""
    return [f"{domain}:{item}" for domain, item in zip(domains, items, strict=True)]


def _fingerprint(tokenizer: Tokenizer) -> dict[str, Any]:
    """Name a tokenizer by its weights: a digest of each expert's, to which domains add, and one of all others."""
    base, experts = hashlib.sha256(), [hashlib.sha256() for _ in range(tokenizer.model.num_experts)]
    for name, value in sorted(tokenizer.model.state_dict().items()):
        if name in _OF_EXPERTS:
            for digest, own in zip(experts, value, strict=True):
                digest.update(own.numpy().tobytes())
        else:
            base.update(value.numpy().tobytes())
    return {"base": base.hexdigest()[:16], "experts": [digest.hexdigest()[:16] for digest in experts]}


def _small(column: torch.Tensor) -> pa.Array:
    return pa.array(column.numpy().astype(np.int32))


def _check_note(file: Path, note: bytes | None, tokenizer: Tokenizer, resolver: str | None) -> None:
    """Hold the file to what it says of itself; one written by another program says nothing."""
    if note is None:
        return
    try:
        said = json.loads(note)
        base, experts, resolved_by = said["tokenizer"]["base"], list(said["tokenizer"]["experts"]), said["resolver"]
    except (ValueError, TypeError, KeyError) as error:
        raise fault(file, "the note 'unitok' in its metadata must be whole", repr(note), "Write it again") from error
    own = _fingerprint(tokenizer)
    if base != own["base"] or experts != own["experts"][: len(experts)]:
        got = f"those of {base} with experts {', '.join(map(str, experts))}"
        step = "Use the tokenizer that made them, or one that domains were added to since"
        raise fault(file, f"IDs must be of tokenizer {own['base']} with experts {', '.join(own['experts'])}", got, step)
    if resolver is not None and resolved_by != resolver:
        raise fault(file, f"IDs must be resolved by {resolver}", resolved_by, f"Pass --resolver {resolved_by}")
