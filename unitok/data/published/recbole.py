"""RecBole's atomic files: NAME.item and NAME.inter, columns between tabs under a header of `name:type`.

item_id and user_id are required; timestamp is read if present. An item's title is the column `title` or `name`, or else
one that ends so, such as movie_title; its categories, brand and description are columns with their usual names, below.
Types are token, token_seq, float and float_seq; a sequence stays one text, with spaces between its parts.

Quotes count where RecBole's own reader, pandas, takes them off: `"Ruler 12"" steel"` is `Ruler 12" steel`, and tabs and
line ends may stand inside. A row whose quotes make pandas refuse the file, such as one with the title `"Great Days"
Live`, is read as it stands. What pandas takes for missing, such as `nan`, is missing in an item's texts.

The files of RecBole's sequential benchmarks have a column item_id_list: a user's items before item_id, earliest first,
and timestamp_list with their times. Each of these counts as an interaction; NAME.test.inter has all that is known.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html, and Dataset._load_feat and
SequentialDataset._benchmark_presets of RecBole 1.2.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from itertools import chain

from unitok.data.published.lines import Lines, excerpt
from unitok.data.published.sources import Event, Item, plain, time_of

_TYPES = {"token", "token_seq", "float", "float_seq"}
_CALLED = {
    "categories": ("categories", "category", "genres", "genre", "class"),
    "brand": ("brand", "store", "publisher", "developer", "book_author"),
    "description": ("description",),
}
_MAKERS = ("author", "brand", "category", "company", "developer", "publisher", "seller", "store")
_LIST, _TIMES = "item_id_list", "timestamp_list"
_SEPARATORS = {",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}
# What pandas.read_csv takes for missing, but for what only spreadsheets write.
_MISSING = frozenset(("", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"))


class RecBole:
    """The format of `unitok import recbole`."""

    name = "recbole"
    files = ("a .item file of RecBole", "an .inter file of RecBole")
    unit = "seconds"

    def items(self, lines: Lines) -> Iterator[Item]:
        """Read the .item file."""
        rows, columns = _read(lines, ("item_id",))
        title = min(filter(_is_title, columns), key=_rank, default=None)
        if title is None:
            rule = "must have a title column: title, name, or one that ends so"
            step = "Rename the one that says what an item is called; the file of items goes first, then the file of"
            raise lines.fault(rule, excerpt(", ".join(columns), 200), f"{step} interactions.")
        places = {"title": columns[title]}
        for field, names in _CALLED.items():
            if named := [name for name in names if name in columns]:
                places[field] = columns[named[0]]
        for row in rows:
            fields = {field: row[place] for field, place in places.items()}
            texts = {field: plain(text) for field, text in fields.items() if text not in _MISSING}
            yield Item(row[columns["item_id"]], **texts)

    def events(self, lines: Lines) -> Iterator[Event]:
        """Read the .inter file."""
        rows, columns = _read(lines, ("user_id", "item_id"))
        user, item, time = columns["user_id"], columns["item_id"], columns.get("timestamp")
        before, times = columns.get(_LIST), columns.get(_TIMES)
        if before is not None and time is not None and times is None:
            step = f"Add {_TIMES}, or remove timestamp: then the order of the file counts"
            raise lines.fault(f"must have {_TIMES}, as it has {_LIST}", excerpt(", ".join(columns), 200), f"{step}.")
        for row in rows:
            if before is not None:
                yield from _listed(lines, row[user], row[before], None if time is None or times is None else row[times])
            yield row[user], row[item], None if time is None else time_of(lines, "timestamp", row[time])


def _listed(lines: Lines, user: str, items: str, times: str | None) -> Iterator[Event]:
    """Read the interactions before that of the row."""
    names = list(filter(None, items.split(" ")))
    if times is None:
        yield from ((user, name, None) for name in names)
        return
    given = list(filter(None, times.split(" ")))
    if len(given) != len(names):
        raise lines.fault(f"must have as many times in {_TIMES} as items in {_LIST}", f"{len(given)} and {len(names)}")
    yield from ((user, name, time_of(lines, _TIMES, time)) for name, time in zip(names, given, strict=True))


def _is_title(column: str) -> bool:
    return column.endswith(("title", "name"))


def _rank(column: str) -> tuple[bool, bool, bool]:
    """Order columns that may be the title: `title` and `name`, then those that end so, who made an item last."""
    return column not in ("title", "name"), column.startswith(_MAKERS), not column.endswith("title")


def _read(lines: Lines, needed: tuple[str, ...]) -> tuple[Iterator[list[str]], dict[str, int]]:
    """Return the rows, and the place of each column in them."""
    texts = iter(lines)
    header = next(texts)
    columns = _columns(lines, header)
    if any(name not in columns for name in needed):
        step = "Rename the columns in the header; the file of items goes first, then the file of interactions."
        raise lines.fault(f"must have {', '.join(needed)} in its header", excerpt(", ".join(columns), 200), step)
    return _rows(lines, texts, columns, [columns[name] for name in needed]), columns


def _columns(lines: Lines, header: str) -> dict[str, int]:
    for separator, said in _SEPARATORS.items():
        if "\t" not in header and separator in header and all(map(_is_field, header.split(separator))):
            step = "Write both files with tabs, RecBole's usual field_separator."
            raise lines.fault("must have tabs between columns", f"{said}: {excerpt(header, 200)}", step)
    if not all(map(_is_field, header.split("\t"))):
        raise lines.fault("must be a header of name:type between tabs", excerpt(header))
    names = [field.rpartition(":")[0] for field in header.split("\t")]
    columns = {name: place for place, name in enumerate(names)}
    if len(columns) < len(names):
        raise lines.fault("must name each column once", excerpt(header, 200))
    return columns


def _is_field(text: str) -> bool:
    name, _, kind = text.rpartition(":")
    return bool(name) and kind in _TYPES


def _rows(lines: Lines, texts: Iterator[str], columns: dict[str, int], names: list[int]) -> Iterator[list[str]]:
    header = lines.number
    for row in _split(lines, texts):
        if len(row) != len(columns):
            raise lines.fault(f"must have {len(columns)} columns between tabs, as the header", f"{len(row)}")
        if not all(row[place] for place in names):
            raise lines.fault("must name its user and item", excerpt("\t".join(row)))
        yield row
    if lines.number == header:
        raise lines.fault("must be followed by rows", "the end of the file")


def _split(lines: Lines, texts: Iterator[str]) -> Iterator[list[str]]:
    """Split rows at their tabs as pandas' Python engine does, whose strict csv.reader takes off quotes.

    A quote may hold line ends. If it doesn't end as it must, the row is one line as it stands, and those that were read
    ahead are rows of their own.
    """
    ahead: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

    def take() -> Iterator[str]:
        while True:
            if ahead:
                lines.number, text = ahead.popleft()
            elif (text := next(texts, "")) == "":  # no line is empty
                return
            taken.append((lines.number, text))
            yield f"{text}\n"

    while True:
        taken.clear()
        source = take()
        if (text := next(source, None)) is None:
            return
        row = text[:-1].split("\t")
        if '"' in text:
            try:
                row = next(csv.reader(chain([text], source), delimiter="\t", strict=True))
            except csv.Error:
                ahead.extendleft(reversed(taken[1:]))
                lines.number = taken[0][0]
        yield row


RECBOLE = RecBole()
