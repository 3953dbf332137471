"""The tables of `unitok demo`: some items with their IDs, and the items nearest to some of them by ID prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unitok.ids.table import IdTable
    from unitok.ids.trie import PrefixTrie

_SAMPLES, _NEIGHBOURS = 3, 3  # rows per domain in the two tables
_STYLES = ("bold green", "green", "cyan", "blue")  # of a shared token, by level
_ID_KEY = (
    "<a_><b_><c_><d_>: four codes, from coarse to fine. <e_>: the expert, chosen by the router, whose codebooks they "
    "belong to. <f_>: a number for items that share all of that; the last two items above are word for word the same."
)
_NEAREST_KEY = (
    "shared: leading codes that an item has in common with the one in bold; both have the same expert. Only IDs are "
    "compared, and the tokenizer never saw a title."
)


@dataclass(frozen=True, eq=False)
class Tour:
    """What the demo shows of the IDs.

    Attributes:
        found: all items with their IDs.
        titles: the title of each item.
        samples: rows of the first table, by section.
        nearest: row -> the rows nearest to it by ID prefix, with the number of codes they share.
    """

    found: IdTable
    titles: Sequence[str]
    samples: list[list[int]]
    nearest: dict[int, list[tuple[int, int]]]

    @classmethod
    def of(cls, found: IdTable, titles: Sequence[str]) -> Tour:
        """Choose items to show: some of each domain, two identical ones, and one per domain with near neighbours."""
        import torch

        from unitok.ids.trie import PrefixTrie

        ids = found.ids
        # The expert first: a code means something only within its expert's codebooks.
        trie = PrefixTrie.build(torch.cat([ids.experts[:, :1], ids.codes], 1))
        rows_of: dict[str, list[int]] = {}
        for row, domain in enumerate(found.table["domain"].to_pylist()):
            rows_of.setdefault(domain, []).append(row)
        nearest = {}
        for rows in rows_of.values():
            company = {row: _company(trie, row, titles) for row in rows}
            best = max(rows, key=lambda row: sum(shared for _, shared in company[row]))
            nearest[best] = company[best]
        samples = [rows[:: max(1, len(rows) // _SAMPLES)][:_SAMPLES] for rows in rows_of.values()]
        return cls(found, titles, [*samples, _twins(found, titles)], nearest)

    def text(self, row: int) -> str:
        """Return an item's ID."""
        text: str = self.found.table["semantic_id"][row].as_py()
        return text

    def domain(self, row: int) -> str:
        """Return an item's domain."""
        name: str = self.found.table["domain"][row].as_py()
        return name

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""

        def item(row: int) -> dict[str, Any]:
            return {"domain": self.domain(row), "title": self.titles[row], "semantic_id": self.text(row)}

        nearest = [
            {**item(row), "nearest": [{**item(other), "shared_codes": shared} for other, shared in company]}
            for row, company in self.nearest.items()
        ]
        return {"items": [item(row) for rows in self.samples for row in rows], "nearest": nearest}

    def show(self, screen: Console) -> None:
        """Print both tables."""
        from rich.text import Text

        table = _table("Items and their semantic IDs", "domain")
        for rows in self.samples:
            for row in rows:
                table.add_row(Text(self.domain(row)), Text(self.titles[row]), self.text(row))
            table.add_section()
        screen.print(table)
        screen.print(_ID_KEY, style="dim", markup=False)

        table = _table("Nearest items by ID prefix", "shared")
        levels = self.found.ids.num_levels
        for row, company in self.nearest.items():
            table.add_row("", Text(self.titles[row], style="bold"), Text(self.text(row), style="bold"))
            for place, (other, shared) in enumerate(company):
                cells = (f"{shared} of {levels}", Text("  " + self.titles[other]), _coloured(self.text(other), shared))
                table.add_row(*cells, end_section=place == len(company) - 1)
        screen.print(table)
        screen.print(_NEAREST_KEY, style="dim")


def _table(title: str, first: str) -> Table:
    from rich.table import Table

    table = Table(title=f"\n{title}", title_justify="left")
    table.add_column(first, no_wrap=True)
    table.add_column("item")
    table.add_column("semantic ID", no_wrap=True)
    return table


def _company(trie: PrefixTrie, row: int, titles: Sequence[str]) -> list[tuple[int, int]]:
    """The rows nearest to a row, each title once, with the number of codes that they share with it."""
    seen, found = {titles[row]}, []
    for other, depth in zip(*trie.nearest(row, 4 * _NEIGHBOURS), strict=True):
        if titles[other] not in seen and depth > 1:  # at depth 1 only the expert is shared
            seen.add(titles[other])
            found.append((int(other), int(depth) - 1))
    return found[:_NEIGHBOURS]


def _twins(found: IdTable, titles: Sequence[str]) -> list[int]:
    """Two items with identical titles, which only the suffix tells apart."""
    suffix = found.ids.suffix
    if suffix is None:
        return []
    for second in (suffix == 1).nonzero()[:, 0].tolist():
        same = (found.ids.groups() == found.ids.groups()[second]).nonzero()[:, 0].tolist()
        if pair := [row for row in same if row != second and titles[row] == titles[second]]:
            return [pair[0], second]
    return []


def _coloured(text: str, shared: int) -> Text:
    from rich.text import Text

    tokens = text.replace("><", ">\n<").splitlines()
    return Text.assemble(
        *(
            (token, _STYLES[min(level, len(_STYLES) - 1)] if level < shared else "")
            for level, token in enumerate(tokens)
        )
    )
