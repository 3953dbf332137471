"""Semantic IDs in a file: one row per item, with its ID as text and as numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from unitok.data.catalogue import CatalogueError
from unitok.data.files import fault
from unitok.ids.collisions import RESOLVERS
from unitok.ids.semantic_ids import SemanticIds
from unitok.ids.table_files import NOTE, SOURCE_ID, check_format, check_note, integers, read_file, texts, write_file
from unitok.storage.layout import Fingerprint
from unitok_kernels.rules import fail

_LARGEST = 2**20  # codes of a level, or experts, that a table without a tokenizer may have; what is built is this large


_OTHERS = ("domain", "item_id", "semantic_id", "expert", "suffix")  # the columns that hold no codes


@dataclass(frozen=True, eq=False)
class IdTable:
    """Items and their IDs, in the columns of the file; made by `of` or `read`.

    Args:
        table: columns domain, item_id, semantic_id, c0 .. c(L-1), expert, suffix (null under resolver none) and, where
            items have names in their source, source_id.
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
        numbers = self.table.drop_columns([*_OTHERS[:3], *self._has_sources * [SOURCE_ID]])
        levels = numbers.num_columns - 2
        if numbers["suffix"].null_count == len(numbers):
            numbers = numbers.drop_columns("suffix")
        columns = [column.fill_null(0).to_numpy().astype(np.int64) for column in numbers.columns]
        return SemanticIds.from_tokens(
            torch.from_numpy(np.stack(columns, 1)),
            num_levels=levels,
            codebook_size=self.codebook_size,
            num_experts=self.num_experts,
        )

    @cached_property
    def keys(self) -> list[str]:
        """Each item's key, `domain:item_id`, as `SemanticIds.assign` takes it."""
        return item_keys(self.table["domain"].to_pylist(), self.table["item_id"].to_pylist())

    @property
    def is_noted(self) -> bool:
        """Whether what it was read from says which tokenizer made the IDs."""
        return NOTE in (self.table.schema.metadata or {})

    @property
    def source_ids(self) -> list[str | None]:
        """Each item's name in its source; None where it has none."""
        found: list[str | None] = self.table[SOURCE_ID].to_pylist() if self._has_sources else [None] * len(self.table)
        return found

    @property
    def _has_sources(self) -> bool:
        return SOURCE_ID in self.table.column_names

    @classmethod
    def of(
        cls,
        domains: Sequence[str],
        items: Sequence[int] | NDArray[np.int64],
        ids: SemanticIds,
        source_ids: Sequence[str | None] | None = None,
    ) -> IdTable:
        """Make a table of items and their IDs, one row each.

        Args:
            domains: N names, the domain of each item.
            items: N integers, the number of each item in its domain.
            ids: their N IDs, such as `SemanticIds.assign` gave.
            source_ids: the N items' names in their source, by which `renumbered` knows them again; None or "" for an
                item without.

        Returns:
            The table.

        Raises:
            TypeError: a domain that is no text, an item that is no integer.
            ValueError: the numbers of domains, items, IDs and names differ, an item or, in a domain, a name is there
                twice, or a row has no ID.

        Source: UniTok.
        """
        if not len(domains) == len(items) == len(ids):
            got = f"{len(domains)}, {len(items)} and {len(ids)}"
            raise ValueError(f"IdTable.of: domains, items and ids must be of one length, got {got}. Pass one of each.")
        if (other := next((name for name in domains if not isinstance(name, str)), None)) is not None:
            fail("IdTable.of", "domains", "texts", repr(other), "Convert them with str().", TypeError)
        numbers = np.asarray(items)
        if len(numbers) and numbers.dtype.kind not in "iu":
            fail("IdTable.of", "items", "integers", numbers.dtype, "Convert them with .astype('int64').", TypeError)
        ids.check_encoded("IdTable.of")
        columns: dict[str, Any] = {
            "domain": pa.array(domains, pa.string()),
            "item_id": pa.array(numbers.astype(np.int64)),
            "semantic_id": pa.array(ids.to_text(), pa.string()),
        }
        columns |= {f"c{level}": _small(codes) for level, codes in enumerate(ids.codes.unbind(1))}
        columns["expert"] = _small(ids.experts[:, 0])
        columns["suffix"] = pa.nulls(len(ids), pa.int32()) if ids.suffix is None else _small(ids.suffix)
        if source_ids is not None:
            if len(source_ids) != len(ids):
                rule = f"as many as ids, {len(ids)}"
                fail("IdTable.of", "source_ids", rule, len(source_ids), "Pass one for each item.")
            columns[SOURCE_ID] = pa.array([name or None for name in source_ids], pa.string())
        found = cls(pa.table(columns), ids.codebook_size, ids.num_experts)
        if (twice := found._source_twice()) is not None:
            step = "Give each its own, or None."
            fail("IdTable.of", "source_ids", "distinct within a domain", f"{twice} more than once", step)
        if (twice := _twice(found.keys)) is not None:
            fail("IdTable.of", "items", "distinct within a domain", f"{twice} more than once", "Give each its own.")
        return found

    def append(self, later: IdTable, *, renewed: Collection[str] = ()) -> IdTable:
        """Add the items of a later table after those of this one, which stay unchanged.

        Args:
            later: a table of the same tokenizer; items that are already in this table are left out.
            renewed: the keys of items that take their rows from the later table, in the old places.

        Returns:
            The joined table.

        Raises:
            ValueError: the tables differ in levels, or one of them has an item twice.

        Source: UniTok.
        """
        if self._has_sources != later._has_sources:
            return self._with_sources().append(later._with_sources(), renewed=renewed)
        if self.table.column_names != later.table.column_names:
            want, got = ", ".join(self.table.column_names), ", ".join(later.table.column_names)
            raise ValueError(f"append: later must have columns {want}, got {got}. Use IDs of one tokenizer.")
        for name, table in (("the table", self), ("later", later)):
            if (twice := _twice(table.keys)) is not None:
                fail("append", name, "of distinct items", f"{twice} more than once", "Leave out one of its rows.")
        row_of = {key: len(self.keys) + row for row, key in enumerate(later.keys)}
        kept, replaced = set(self.keys), set(renewed)
        rows = [row_of.get(key, row) if key in replaced else row for row, key in enumerate(self.keys)]
        rows += [row_of[key] for key in later.keys if key not in kept]
        both = pa.concat_tables([self.table.cast(later.table.schema), later.table])
        joined = both.take(pa.array(rows, pa.int64()))
        sizes = (max(self.codebook_size, later.codebook_size), max(self.num_experts, later.num_experts))
        return IdTable(joined, *sizes)

    def renumbered(self, sources: Mapping[str, Sequence[str]]) -> IdTable:
        """Give items, known by their names in the source, the numbers that they have in a catalogue now.

        An import anew may number them otherwise. Items without a name, and those of other domains, keep their numbers.
        An item that the catalogue doesn't have any more keeps its row, so that its ID stays taken; if its number is
        another's now, it gets a negative one.

        Args:
            sources: by domain, the names of the items 0, 1, 2 and so on; "" for an item without.

        Returns:
            The table in the same order, with other numbers.

        Raises:
            ValueError: a name is there twice in a domain.

        Source: UniTok.
        """
        place_of: dict[tuple[str, str], int] = {}
        for domain, names in sources.items():
            place_of |= {(domain, name): place for place, name in enumerate(names) if name}
            if (twice := _twice([name for name in names if name])) is not None:
                rule = "distinct within a domain"
                fail("renumbered", "sources", rule, f"{domain}:{twice} more than once", "Leave that domain out.")
        numbers = self.table["item_id"].to_pylist()
        rows = list(zip(self.table["domain"].to_pylist(), self.source_ids, numbers, strict=True))
        places = [None if name is None else place_of.get((domain, name)) for domain, name, _ in rows]
        taken = {(domain, place) for (domain, _, _), place in zip(rows, places, strict=True)}
        lowest = dict[str, int]()
        for domain, _, number in rows:
            lowest[domain] = min(number, lowest.get(domain, 0))
        for row, ((domain, name, number), place) in enumerate(zip(rows, places, strict=True)):
            another = name is not None and 0 <= number < len(sources.get(domain, ()))
            if place is not None:
                numbers[row] = place
            elif another or (domain, number) in taken:
                lowest[domain] -= 1
                numbers[row] = lowest[domain]
        column = self.table.column_names.index("item_id")
        table = self.table.set_column(column, "item_id", pa.array(numbers, pa.int64()))
        return IdTable(table, self.codebook_size, self.num_experts)

    def _with_sources(self) -> IdTable:
        """The table with a column of names, empty if there was none."""
        if self._has_sources:
            return self
        table = self.table.append_column(SOURCE_ID, pa.nulls(len(self.table), pa.string()))
        return IdTable(table, self.codebook_size, self.num_experts)

    def _source_twice(self) -> str | None:
        """A name that two items of a domain have, if there is one."""
        pairs = zip(self.table["domain"].to_pylist(), self.source_ids, strict=True)
        return _twice([f"{domain}:{name}" for domain, name in pairs if name is not None])

    def write(self, file: str | Path, fingerprint: Fingerprint, resolver: str = "suffix") -> None:
        """Write a file: parquet, with a note in its metadata of what made the IDs, or CSV or JSON lines.

        Beside these two, as ids.csv.unitok.json, goes a file with the same note and a digest of the table.

        Args:
            file: where to, ending in .parquet, .csv or .jsonl; a file that is there is replaced, and stays whole until
                then.
            fingerprint: `Tokenizer.fingerprint()` of the tokenizer that made the IDs.
            resolver: the resolver that made the IDs distinct, as in `SemanticIds.assign`.

        Raises:
            ValueError: an unknown resolver, or a file of another ending.
            OSError: the file can't be written.

        Source: UniTok.
        """
        if resolver not in RESOLVERS:
            raise ValueError(f"write: resolver must be one of {', '.join(RESOLVERS)}, got {resolver!r}. Choose one.")
        note = {"tokenizer": {name: fingerprint[name] for name in ("base", "experts")}, "resolver": resolver}
        check_format("write", Path(file))
        write_file(self.table.replace_schema_metadata({NOTE: json.dumps(note)}), Path(file))

    @classmethod
    def read(cls, file: str | Path, fingerprint: Fingerprint | None = None, resolver: str | None = None) -> IdTable:
        """Read what `write` wrote, or a table of the same columns that another program saved.

        Text may be of any of Arrow's kinds, and integers of any width, or floats that are whole numbers.

        Args:
            file: the file; parquet unless it ends in .csv or .jsonl.
            fingerprint: of the tokenizer that made the IDs, possibly after domains were added to it. None reads IDs of
                any tokenizer; the sizes are then the smallest that hold all codes and experts of the file, up to 2^20.
            resolver: the resolver that must have been used; None accepts any.

        Returns:
            The table, with the columns above; further columns are left out. `is_noted` tells whether the file says
            which tokenizer made the IDs.

        Raises:
            CatalogueError: the file is broken, isn't as it was written, or is of another tokenizer or resolver; an item
                is there twice, or its text isn't that of its numbers; a code, expert or suffix is out of range.

        Source: UniTok.
        """
        file = Path(file)
        table = read_file(file, _names(1 if fingerprint is None else fingerprint["num_levels"]))
        if fingerprint is None:
            levels = next(level for level in range(1, table.num_columns + 1) if f"c{level}" not in table.column_names)
            table = _plain(file, table, levels)
            codebook_size = _size(file, table, [f"c{level}" for level in range(levels)])
            num_experts = _size(file, table, ["expert"])
        else:
            levels, codebook_size = fingerprint["num_levels"], fingerprint["codebook_size"]
            num_experts = len(fingerprint["experts"])
            check_note(file, table, fingerprint, resolver)
            if f"c{levels}" in table.column_names:
                rule = f"IDs must have {levels} levels, as the tokenizer's"
                raise fault(file, rule, "more", "Use the tokenizer that made them")
            table = _plain(file, table, levels)
        if resolver is not None:
            _check_resolver(file, table["suffix"], resolver)
        read = cls(table, codebook_size, num_experts)
        read._check_rows(file)
        return read

    def _check_rows(self, file: Path) -> None:
        """Refuse numbers out of range, a text that isn't that of its numbers, and an item that is there twice."""
        try:
            written = self.ids.to_text()
        except ValueError as error:  # in the place of the inner call, the message names the file
            raise CatalogueError(f"{file}: {str(error).partition(': ')[2]}") from error
        if written != (said := self.table["semantic_id"].to_pylist()):
            row = next(row for row, pair in enumerate(zip(written, said, strict=True)) if pair[0] != pair[1])
            rule = f"semantic_id must be the text of the numbers in its row, {written[row]}"
            raise fault(file, rule, f"{said[row]!r} in row {row}", "Take the file from a copy, or tokenize again")
        if (twice := _twice(self.keys)) is not None:
            raise fault(file, "items must be distinct", f"{twice} more than once", "Leave out one of its rows")
        if (twice := self._source_twice()) is not None:
            step = "Leave the column out, or give each item its own"
            raise fault(file, "source_id must be distinct within a domain", f"{twice} more than once", step)


def _names(levels: int) -> tuple[str, ...]:
    """The columns of a table of IDs with so many levels."""
    return (*_OTHERS[:3], *(f"c{level}" for level in range(levels)), *_OTHERS[3:])


def _check_resolver(file: Path, suffix: Any, resolver: str) -> None:
    """Refuse suffixes that the resolver doesn't give, or the lack of them, in a table without a note."""
    if not len(suffix):
        return
    rule = f"IDs must be resolved by {resolver}"
    if resolver == "none" and suffix.null_count < len(suffix):
        raise fault(file, rule, "a suffix", "Pass the --resolver that they were made with")
    if resolver != "none" and suffix.null_count == len(suffix):
        raise fault(file, rule, "no suffix", "Pass --resolver none")
    if resolver != "none":
        integers(file, suffix, "suffix", pa.int32())


def item_keys(domains: Iterable[str], items: Iterable[int]) -> list[str]:
    """Give each item a key that is unique among all domains: `domain:item_id`."""
    return [f"{domain}:{item}" for domain, item in zip(domains, items, strict=True)]


def _twice(keys: Sequence[str]) -> str | None:
    """A key that is there more than once, if there is one."""
    return None if len(set(keys)) == len(keys) else Counter(keys).most_common(1)[0][0]


def _plain(file: Path, table: Any, levels: int) -> Any:
    """Take the columns of a table, each in the type that `of` gives it."""
    columns = {name: texts(file, table[name], name) for name in ("domain", "semantic_id")}
    columns["item_id"] = integers(file, table["item_id"], "item_id", pa.int64())
    for name in _names(levels)[3:]:
        columns[name] = integers(file, table[name], name, pa.int32(), nulls=name == "suffix")
    if SOURCE_ID in table.column_names:
        names = texts(file, table[SOURCE_ID], SOURCE_ID, nulls=True)
        if names.null_count < len(names):
            columns[SOURCE_ID] = names
    order = [*_names(levels), *(SOURCE_ID in columns) * [SOURCE_ID]]
    return pa.table({name: columns[name] for name in order}, metadata=table.schema.metadata)


def _size(file: Path, table: Any, names: Sequence[str]) -> int:
    """The smallest size that holds all values of some columns."""
    largest = max((int(table[name].to_numpy().max()) for name in names), default=0) if table.num_rows else 0
    if largest >= _LARGEST:
        rule = f"{' and '.join(names[:: max(1, len(names) - 1)])} must be below {_LARGEST}"
        raise fault(file, rule, largest, "Pass the tokenizer's fingerprint, or check the file")
    return 1 + largest


def _small(column: torch.Tensor) -> pa.Array:
    return pa.array(column.numpy().astype(np.int32))
