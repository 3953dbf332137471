"""Semantic IDs in a parquet file: one row per item, with its ID as text and as numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from unitok.data.catalogue import CatalogueError
from unitok.data.files import fault, integers, read_table
from unitok.ids.collisions import RESOLVERS
from unitok.ids.semantic_ids import SemanticIds
from unitok.storage.whole import whole_file

_NOTE = b"unitok"


class Fingerprint(TypedDict):
    """What identifies a tokenizer; `Tokenizer.fingerprint` makes it.

    Attributes:
        base: a digest of the weights that adding a domain never changes.
        experts: a digest of each expert's weights.
        num_levels: L, codes per ID.
        codebook_size: K.
    """

    base: str
    experts: list[str]
    num_levels: int
    codebook_size: int


_OTHERS = ("domain", "item_id", "semantic_id", "expert", "suffix")  # the columns that hold no codes


@dataclass(frozen=True, eq=False)
class IdTable:
    """Items and their IDs, in the columns of the parquet file; made by `of` or `read`.

    Args:
        table: columns domain, item_id, semantic_id, c0 .. c(L-1), expert, suffix (null under resolver none).
        codebook_size: K of the tokenizer.
        num_experts: E of the tokenizer.

    Source: UniTok.
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
        """Each item's key, `domain:item_id`, as `SemanticIds.assign` takes it."""
        return item_keys(self.table["domain"].to_pylist(), self.table["item_id"].to_pylist())

    @classmethod
    def of(cls, domains: Sequence[str], items: Sequence[int] | NDArray[np.int64], ids: SemanticIds) -> IdTable:
        """Make a table of items and their IDs, one row each.

        Args:
            domains: N names, the domain of each item.
            items: N integers, the number of each item in its domain.
            ids: their N IDs, such as `SemanticIds.assign` gave.

        Returns:
            The table.

        Raises:
            ValueError: the numbers of domains, items and IDs differ; a row could not be encoded.

        Source: UniTok.
        """
        if not len(domains) == len(items) == len(ids):
            got = f"{len(domains)}, {len(items)} and {len(ids)}"
            raise ValueError(f"IdTable.of: domains, items and ids must be of one length, got {got}. Pass one of each.")
        ids.check_encoded("IdTable.of")
        columns: dict[str, Any] = {
            "domain": pa.array(domains, pa.string()),
            "item_id": pa.array(items, pa.int64()),
            "semantic_id": pa.array(ids.to_text(), pa.string()),
        }
        columns |= {f"c{level}": _small(codes) for level, codes in enumerate(ids.codes.unbind(1))}
        columns["expert"] = _small(ids.experts[:, 0])
        columns["suffix"] = pa.nulls(len(ids), pa.int32()) if ids.suffix is None else _small(ids.suffix)
        return cls(pa.table(columns), ids.codebook_size, ids.num_experts)

    def append(self, later: IdTable) -> IdTable:
        """Add the items of a later table after those of this one, which stay unchanged.

        Args:
            later: a table of the same tokenizer; items that are already in this table are left out.

        Returns:
            The joined table.

        Raises:
            ValueError: the tables differ in levels.

        Source: UniTok.
        """
        if self.table.column_names != later.table.column_names:
            want, got = ", ".join(self.table.column_names), ", ".join(later.table.column_names)
            raise ValueError(f"append: later must have columns {want}, got {got}. Use IDs of one tokenizer.")
        kept = set(self.keys)
        new = later.table.filter(pa.array([key not in kept for key in later.keys], pa.bool_()))
        joined = pa.concat_tables([self.table.cast(later.table.schema), new])
        sizes = (max(self.codebook_size, later.codebook_size), max(self.num_experts, later.num_experts))
        return IdTable(joined, *sizes)

    def write(self, file: str | Path, fingerprint: Fingerprint, resolver: str = "suffix") -> None:
        """Write a parquet file, with a note in its metadata of what made the IDs.

        Args:
            file: where to; a file that is there is replaced, and stays whole until then.
            fingerprint: `Tokenizer.fingerprint()` of the tokenizer that made the IDs.
            resolver: the resolver that made the IDs distinct, as in `SemanticIds.assign`.

        Raises:
            ValueError: an unknown resolver.
            OSError: the file can't be written.

        Source: UniTok.
        """
        if resolver not in RESOLVERS:
            raise ValueError(f"write: resolver must be one of {', '.join(RESOLVERS)}, got {resolver!r}. Choose one.")
        note = {"tokenizer": {name: fingerprint[name] for name in ("base", "experts")}, "resolver": resolver}
        with whole_file(file) as partial:
            pq.write_table(self.table.replace_schema_metadata({_NOTE: json.dumps(note)}), partial)

    @classmethod
    def read(cls, file: str | Path, fingerprint: Fingerprint | None = None, resolver: str | None = None) -> IdTable:
        """Read what `write` wrote, or a table of the same columns.

        Args:
            file: the parquet file.
            fingerprint: of the tokenizer that made the IDs, possibly after domains were added to it. None reads IDs of
                any tokenizer; the sizes are then the smallest that hold all codes and experts of the file.
            resolver: the resolver that must have been used; None accepts any.

        Returns:
            The table, with the columns above; further columns are left out.

        Raises:
            CatalogueError: the file is broken, or of another tokenizer or resolver.
            ValueError: a code, expert or suffix is out of range.

        Source: UniTok.
        """
        file = Path(file)
        table = read_table(file, _names(1 if fingerprint is None else fingerprint["num_levels"]))
        if fingerprint is None:
            levels = next(level for level in range(1, table.num_columns + 1) if f"c{level}" not in table.column_names)
            experts, *codes = (integers(file, table, name) for name in ("expert", *_names(levels)[3:-2]))
            codebook_size, num_experts = _size(codes), _size([experts])
        else:
            levels, codebook_size = fingerprint["num_levels"], fingerprint["codebook_size"]
            num_experts = len(fingerprint["experts"])
            _check_note(file, (table.schema.metadata or {}).get(_NOTE), fingerprint, resolver)
            if f"c{levels}" in table.column_names:
                rule = f"IDs must have {levels} levels, as the tokenizer's"
                raise fault(file, rule, "more", "Use the tokenizer that made them")
        read = cls._checked(file, table, levels, codebook_size, num_experts)
        if resolver not in (None, "none"):
            integers(file, table, "suffix")
        return read

    @classmethod
    def _checked(cls, file: Path, table: Any, levels: int, codebook_size: int, num_experts: int) -> IdTable:
        """Take a table that has the columns, after a check of their types and values."""
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
        except ValueError as error:  # in the place of the inner call, the message names the file
            raise CatalogueError(f"{file}: {str(error).partition(': ')[2]}") from error
        return read


def _names(levels: int) -> tuple[str, ...]:
    """The columns of a table of IDs with so many levels."""
    return (*_OTHERS[:3], *(f"c{level}" for level in range(levels)), *_OTHERS[3:])


def item_keys(domains: Iterable[str], items: Iterable[int]) -> list[str]:
    """Give each item a key that is unique among all domains: `domain:item_id`."""
    return [f"{domain}:{item}" for domain, item in zip(domains, items, strict=True)]


def _size(columns: Sequence[NDArray[np.int64]]) -> int:
    """The smallest size that holds all values of some columns."""
    return 1 + max((int(column.max()) for column in columns if column.size), default=0)


def _small(column: torch.Tensor) -> pa.Array:
    return pa.array(column.numpy().astype(np.int32))


def _check_note(file: Path, note: bytes | None, own: Fingerprint, resolver: str | None) -> None:
    """Check the note in the file's metadata, if there is one: another program writes none."""
    if note is None:
        return
    try:
        said = json.loads(note)
        base, experts, resolved_by = said["tokenizer"]["base"], list(said["tokenizer"]["experts"]), said["resolver"]
    except (ValueError, TypeError, KeyError) as error:
        raise fault(file, "the note 'unitok' in its metadata must be whole", repr(note), "Write it again") from error
    if base != own["base"] or experts != own["experts"][: len(experts)]:
        got = f"those of {base} with experts {', '.join(map(str, experts))}"
        step = "Use the tokenizer that made them, or one that domains were added to since"
        raise fault(file, f"IDs must be of tokenizer {own['base']} with experts {', '.join(own['experts'])}", got, step)
    if resolver is not None and resolved_by != resolver:
        raise fault(file, f"IDs must be resolved by {resolver}", resolved_by, f"Pass --resolver {resolved_by}")
