"""What the readers of published data sets share: their results, and the reader of JSON lines."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from unitok.data.catalogue import CatalogueError
from unitok.data.published.lines import Lines, excerpt, json_objects
from unitok.data.published.times import Time, date, number

DATES = "dates"
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_ORDER = "Name the file of items first, then the file of interactions"


class Item(NamedTuple):
    """An item as a source describes it; a missing field is empty.

    Attributes:
        source_id: the item's name in the source.
        title: what the item is called.
        categories: such as `Beauty > Hair Care > Shampoo`.
        brand: the maker.
        description: free text.
    """

    source_id: str
    title: str = ""
    categories: str = ""
    brand: str = ""
    description: str = ""


Event = tuple[str, str, Time | None]  # user, item, and the time in the unit of the source


class Source(Protocol):
    """A format of published data sets: a file of items, and a file of interactions."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def files(self) -> tuple[str, str]:
        """The kinds of its two files, for messages."""

    @property
    def unit(self) -> str:
        """What its times are: one of `UNITS`, or DATES, which are read as seconds."""

    def items(self, lines: Lines) -> Iterator[Item]:
        """Read the file of items."""

    def events(self, lines: Lines) -> Iterator[Event]:
        """Read the file of interactions."""


@dataclass(frozen=True)
class JsonSource:
    """A source of JSON lines.

    Attributes:
        name: see `Source`.
        files: see `Source`.
        item: the field of an item's name, in both files.
        user: the field of a user's name; items don't have it.
        time: the field of an interaction's time.
        unit: see `Source`.
        describe: turns an item's line into the fields of `Item`.
        literals: whether items may be Python literals.
    """

    name: str
    files: tuple[str, str]
    item: str
    user: str
    time: str
    unit: str
    describe: Callable[[dict[str, Any]], Mapping[str, str]]
    literals: bool = False

    def items(self, lines: Lines) -> Iterator[Item]:
        """Read the file of items."""
        for record in json_objects(lines, literals=self.literals):
            if self.user in record:
                raise lines.fault("must be an item", f"an interaction, with {self.user}", f"{_ORDER}.")
            name = self._name(lines, record, self.item, (self.item,))
            yield Item(name, **self.describe(record))

    def events(self, lines: Lines) -> Iterator[Event]:
        """Read the file of interactions."""
        needed = (self.user, self.item, self.time)
        convert = date if self.unit == DATES else number
        for record in json_objects(lines):
            user, item = (self._name(lines, record, field, needed) for field in needed[:2])
            if self.time not in record:
                raise self._lacks(lines, record, needed)
            yield user, item, time_of(lines, self.time, record[self.time], convert)

    def _name(self, lines: Lines, record: dict[str, Any], field: str, needed: tuple[str, ...]) -> str:
        name = record.get(field)
        if isinstance(name, str) and name:
            return name
        if field in record:
            raise lines.fault(f"must have a name as {field}", excerpt(repr(name)))
        raise self._lacks(lines, record, needed)

    def _lacks(self, lines: Lines, record: dict[str, Any], needed: tuple[str, ...]) -> CatalogueError:
        got = excerpt(", ".join(record), 200) if record else "no field"
        step = f"Is it {lines.what}? {_ORDER}, and the format that they are in."
        return lines.fault(f"must have {', '.join(needed)}", got, step)


def time_of(lines: Lines, field: str, value: object, convert: Callable[[object], Time] = number) -> Time:
    """Read a time exactly, or raise an error that names the field."""
    try:
        return convert(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise lines.fault(f"must have a time as {field}", excerpt(repr(value))) from error


def plain(value: Any) -> str:
    """Return a text without HTML and with single spaces; a list's texts joined; empty for anything else."""
    if isinstance(value, list):
        return " ".join(filter(None, map(plain, value)))
    if not isinstance(value, str):
        return ""
    return encodable(" ".join(html.unescape(_TAG.sub(" ", value)).split()))


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 doesn't, by question marks."""
    return text.encode("utf-8", "replace").decode()
