"""What changed between two tables of IDs: which items kept theirs, by domain and by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unitok.ids.table import IdTable
from unitok_kernels.rules import fail, typed

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class DomainDifference:
    """How the IDs of a domain's items changed, or those of all domains together.

    Attributes:
        kept: items with equal IDs in both tables: codes, expert and suffix.
        changed: items that are in both with other IDs.
        added: items of the later table alone.
        vanished: items of the earlier table alone.
        expert: share of the items in both that have the same expert; NaN where there are none.
        prefixes: L shares, of those with the same expert and the same first 1, 2, .. L codes.
    """

    kept: int
    changed: int
    added: int
    vanished: int
    expert: float
    prefixes: tuple[float, ...]

    @property
    def churn(self) -> float:
        """Share of the items in both whose IDs changed; NaN where there are none."""
        return self.changed / both if (both := self.kept + self.changed) else float("nan")


@dataclass(frozen=True, eq=False)
class IdDifference:
    """What `compare` found.

    Attributes:
        domains: by name, in the order of the earlier table, then of the later.
        overall: of all domains together.
        items: one row for each item that changed, came or vanished: domain, item_id (of the later table where it is
            there), source_id where a table has it, before and after (semantic_id, null where there is none).
    """

    domains: dict[str, DomainDifference]
    overall: DomainDifference
    items: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the items; None replaces NaN."""
        return {
            "domains": {name: _plain(found) for name, found in self.domains.items()},
            "overall": _plain(self.overall),
        }

    def to_table(self) -> Table:
        """Make a table for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="What became of the IDs")
        levels = [f"first {level + 1}" for level in range(len(self.overall.prefixes))]
        for head in ("domain", "in both", "same ID", "same expert", *levels, "new", "vanished"):
            table.add_column(head, justify="left" if head == "domain" else "right")
        for name, found in (*self.domains.items(), ("all", self.overall)):
            if name == "all":
                table.add_section()
            both = found.kept + found.changed
            shares = [found.kept / both if both else float("nan"), found.expert, *found.prefixes]
            cells = ["" if share != share else f"{share:.2%}" for share in shares]
            table.add_row(Text(name), f"{both:,}", *cells, f"{found.added:,}", f"{found.vanished:,}")
        return table


def compare(earlier: IdTable, later: IdTable) -> IdDifference:
    """Compare two tables of IDs, item by item.

    An item is known again by its domain and its name in the source where both tables have it, else by its number.

    Args:
        earlier: the IDs as they were.
        later: the IDs as they are now, of the same tokenizer or another one.

    Returns:
        IdDifference: what stayed and what changed.

    Raises:
        TypeError: no tables.
        ValueError: other numbers of levels, or an item that a table has twice.

    Source: UniTok.
    """
    for name, table in (("earlier", earlier), ("later", later)):
        typed("compare", name, table, (IdTable,), "an IdTable")
    numbers = [_numbers(table) for table in (earlier, later)]
    if numbers[0].shape[1] != numbers[1].shape[1]:
        levels = [found.shape[1] - 2 for found in numbers]
        fail("compare", "later", f"of {levels[0]} levels, as earlier", levels[1], "Compare IDs of as many levels.")
    keys = _keys(earlier, later)
    rows = [_rows(which, own) for which, own in zip(("earlier", "later"), keys, strict=True)]
    pairs = np.array([(row, rows[1].get(key, -1)) for key, row in rows[0].items()], np.int64).reshape(-1, 2)
    new = np.array([(-1, row) for key, row in rows[1].items() if key not in rows[0]], np.int64).reshape(-1, 2)
    pairs = np.concatenate([pairs, new])
    domains = [table.table["domain"].to_pylist() for table in (earlier, later)]
    domain = np.array([domains[0][a] if a >= 0 else domains[1][b] for a, b in pairs.tolist()], dtype=object)
    names = list(dict.fromkeys([*domains[0], *domains[1]]))
    found = {name: _difference(pairs[domain == name], *numbers) for name in names}
    return IdDifference(found, _difference(pairs, *numbers), _items(pairs, domain, numbers, earlier, later))


def _numbers(table: IdTable) -> NDArray[np.int64]:
    """Expert, codes and suffix of each row: (N, L + 2); -1 for no suffix."""
    ids = table.ids
    suffix = np.full(len(ids), -1) if ids.suffix is None else ids.suffix.numpy()
    return np.concatenate([ids.experts[:, :1].numpy(), ids.codes.numpy(), suffix[:, None]], 1)


def _keys(*tables: IdTable) -> list[list[tuple[str, str | int]]]:
    """The items' keys in each table: by name in the domains where both tables name every item."""
    columns = [
        list(
            zip(
                table.table["domain"].to_pylist(),
                table.source_ids,
                table.table["item_id"].to_pylist(),
                strict=True,
            )
        )
        for table in tables
    ]
    unnamed = {domain for rows in columns for domain, name, _ in rows if name is None}
    return [
        [(domain, number if name is None or domain in unnamed else name) for domain, name, number in rows]
        for rows in columns
    ]


def _rows(which: str, keys: Sequence[tuple[str, str | int]]) -> dict[tuple[str, str | int], int]:
    """The row of each item."""
    found = {key: row for row, key in enumerate(keys)}
    if len(found) < len(keys):
        twice = next(key for row, key in enumerate(keys) if found[key] != row)
        got = f"{twice[0]}:{twice[1]} more than once"
        fail("compare", which, "of distinct items", got, "Leave out one of its rows.")
    return found


def _difference(pairs: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]) -> DomainDifference:
    both = pairs[(pairs >= 0).all(1)]
    equal = before[both[:, 0]] == after[both[:, 1]]
    kept = int(equal.all(1).sum())
    prefixes = np.logical_and.accumulate(equal[:, :-1], 1)  # the expert, then with the codes of each further level
    shares = prefixes.mean(0).tolist() if len(both) else [float("nan")] * prefixes.shape[1]
    added, vanished = int((pairs[:, 0] < 0).sum()), int((pairs[:, 1] < 0).sum())
    return DomainDifference(kept, len(both) - kept, added, vanished, shares[0], tuple(shares[1:]))


def _items(
    pairs: NDArray[np.int64],
    domain: NDArray[np.object_],
    numbers: Sequence[NDArray[np.int64]],
    earlier: IdTable,
    later: IdTable,
) -> pa.Table:
    there = (pairs >= 0).all(1)
    same = np.zeros(len(pairs), bool)
    same[there] = (numbers[0][pairs[there, 0]] == numbers[1][pairs[there, 1]]).all(1)
    pairs, domain = pairs[~same], domain[~same]
    rows = [pa.array(column, mask=column < 0) for column in pairs.T]
    taken = [table.table.take(row) for table, row in zip((earlier, later), rows, strict=True)]

    def either(name: str) -> pa.Array:
        first = [None] * len(pairs) if name not in taken[0].column_names else taken[0][name].to_pylist()
        last = [None] * len(pairs) if name not in taken[1].column_names else taken[1][name].to_pylist()
        return [one if other is None else other for one, other in zip(first, last, strict=True)]

    columns = {"domain": pa.array(domain, pa.string()), "item_id": pa.array(either("item_id"), pa.int64())}
    if any("source_id" in table.column_names for table in taken):
        columns["source_id"] = pa.array(either("source_id"), pa.string())
    columns["before"], columns["after"] = (table["semantic_id"] for table in taken)
    return pa.table(columns)


def _plain(found: DomainDifference) -> dict[str, Any]:
    plain = asdict(found) | {"churn": found.churn}
    plain = {name: None if value != value else value for name, value in plain.items()}
    return plain | {"prefixes": [None if share != share else share for share in found.prefixes]}
