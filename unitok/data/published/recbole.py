"""RecBole's atomic files: NAME.item and NAME.inter, columns between tabs under a header of `name:type`.

item_id and user_id are required; timestamp (seconds) is read if present. An item's title is the first column whose name
ends in title or name; its categories, brand and description are columns with their usual names, below. Types are token,
token_seq, float and float_seq; a sequence stays one text, with spaces between its parts.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from __future__ import annotations

from collections.abc import Iterator

from unitok.data.published.lines import Lines, excerpt
from unitok.data.published.sources import Event, Item, plain, seconds_of

_TYPES = {"token", "token_seq", "float", "float_seq"}
_CALLED = {
    "categories": ("categories", "category", "genres", "genre", "class"),
    "brand": ("brand", "store", "publisher", "developer", "book_author"),
    "description": ("description",),
}


class RecBole:
    """The format of `unitok import recbole`."""

    name = "recbole"
    files = ("a .item file of RecBole", "an .inter file of RecBole")

    def items(self, lines: Lines) -> Iterator[Item]:
        """Read the .item file."""
        rows, columns = _read(lines, ("item_id",))
        named = [name for name in columns if name.endswith(("title", "name"))][:1]
        found = {"title": named, **{field: [n for n in names if n in columns][:1] for field, names in _CALLED.items()}}
        places = {field: columns[name] for field, names in found.items() for name in names}
        for row in rows:
            yield Item(row[columns["item_id"]], **{field: plain(row[place]) for field, place in places.items()})

    def events(self, lines: Lines) -> Iterator[Event]:
        """Read the .inter file."""
        rows, columns = _read(lines, ("user_id", "item_id"))
        user, item, time = columns["user_id"], columns["item_id"], columns.get("timestamp")
        for row in rows:
            seconds = None if time is None else seconds_of(lines, "timestamp", row[time], lambda text: int(float(text)))
            yield row[user], row[item], seconds


def _read(lines: Lines, needed: tuple[str, ...]) -> tuple[Iterator[list[str]], dict[str, int]]:
    """Return the rows, and the place of each column in them."""
    texts = iter(lines)
    header = next(texts)
    fields = [field.rpartition(":") for field in header.split("\t")]
    if any(not name or kind not in _TYPES for name, _, kind in fields):
        raise lines.fault("must be a header of name:type between tabs", excerpt(header))
    columns = {name: place for place, (name, _, _) in enumerate(fields)}
    if len(columns) < len(fields):
        raise lines.fault("must name each column once", excerpt(header, 200))
    if any(name not in columns for name in needed):
        step = "Rename the columns in the header; the file of items goes first, then the file of interactions."
        raise lines.fault(f"must have {', '.join(needed)} in its header", excerpt(", ".join(columns), 200), step)
    return _rows(lines, texts, columns, [columns[name] for name in needed]), columns


def _rows(lines: Lines, texts: Iterator[str], columns: dict[str, int], names: list[int]) -> Iterator[list[str]]:
    header = lines.number
    for text in texts:
        row = text.split("\t")
        if len(row) != len(columns):
            raise lines.fault(f"must have {len(columns)} columns between tabs, as the header", f"{len(row)}")
        if not all(row[place] for place in names):
            raise lines.fault("must name its user and item", excerpt(text))
        yield row
    if lines.number == header:
        raise lines.fault("must be followed by rows", "the end of the file")


RECBOLE = RecBole()
