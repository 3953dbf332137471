"""Turn published data sets into domains: read, filter to a k-core, number.

The rules, also stated in SOURCE.md:

- Every interaction counts, whatever its rating; if a user has several with one item, the earliest is kept.
- Users and items with fewer than k interactions are dropped, repeatedly, until no such user or item remains.
- Items without title or text, or missing from the file of items, are dropped; then the filter is applied again. If an
  item has several entries, the first one with both is used.
- HTML and multiple spaces are removed from texts. Items are numbered in the order of their names, users in the order of
  their first kept interaction in the file. A history is in the order of time and, at equal times, of the file.
- Times are compared exactly as the file gives them, and kept in seconds: whole ones, or else with a fraction. A file in
  another unit than its format's is recognised by the size of its times; one that has two units is refused.

Memory holds only numbers, 24 bytes per interaction while the file is read and about 120 at the peak, and the texts of
kept items; times of more than 18 digits take more. Names are held as 64-bit hashes; any two of 50 million names collide
with a probability below 1e-4.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitok.data.catalogue import CatalogueError, Interactions
from unitok.data.published.amazon import AMAZON_2014, AMAZON_2018, AMAZON_2023
from unitok.data.published.lines import Lines
from unitok.data.published.recbole import RECBOLE
from unitok.data.published.sources import DATES, Item, Source, encodable
from unitok.data.published.times import Times
from unitok.data.published.yelp import YELP
from unitok.data.template import TEMPLATE, Template
from unitok.data.times import UNITS, MixedUnitsError, in_seconds, said, unit_of

SOURCES: dict[str, Source] = {source.name: source for source in (AMAZON_2014, AMAZON_2018, AMAZON_2023, YELP, RECBOLE)}
_Integers = NDArray[np.integer[Any]]
_REPEATED = "repeated interactions dropped"
_NO_TEXT, _NO_ITEM = "items without title or text dropped", "interactions of these items dropped"


@dataclass(frozen=True, eq=False)
class ImportedDomain:
    """A domain without embeddings, read from a published data set.

    Attributes:
        items: source_id, title and text, N of each.
        interactions: M events of users and items.
        template: how the texts were made.
        counts: numbers of what was read, dropped and kept.
        times: what the times were read as, such as `milliseconds; kept as whole seconds since 1970 in UTC`.
    """

    items: dict[str, list[str]]
    interactions: Interactions
    template: str
    counts: dict[str, int]
    times: str


@dataclass
class _Events:
    """Interactions in the order of their file; users and items are numbers from 0 on."""

    users: _Integers
    items: _Integers
    times: _Integers  # in the order of time, which is all that they say
    item_hashes: _Integers  # by code
    ticks: NDArray[Any] | None  # by time, where those are ranks; else the times are ticks themselves
    unit: str | None  # None: there are no times
    decimals: int  # a tick is 10^-decimals of the unit

    def seconds(self) -> NDArray[Any] | None:
        """Return the times as they are kept."""
        if self.unit is None:
            return None
        ticks = self.times if self.ticks is None else self.ticks[self.times]
        return in_seconds(ticks, UNITS[0] if self.unit == DATES else self.unit, self.decimals)

    def keep(self, rows: _Integers) -> None:
        self.users, self.items, self.times = self.users[rows], self.items[rows], self.times[rows]


def import_domain(
    source: str,
    items: str | Path,
    interactions: str | Path,
    *,
    k_core: int = 5,
    template: str = TEMPLATE,
    progress: Callable[[int, int], object] | None = None,
) -> ImportedDomain:
    """Read a published data set as a domain.

    Args:
        source: amazon-2014, amazon-2018, amazon-2023, yelp or recbole.
        items: the file of items, plain or gzipped.
        interactions: the file of interactions, plain or gzipped.
        k_core: fewest interactions per user and per item; 1 keeps all.
        template: an item's text, made from title, categories, brand and description; see `Template`.
        progress: called with the bytes read and their total.

    Returns:
        ImportedDomain: the domain; `write_domain` writes it.

    Raises:
        CatalogueError: a file can't be read or isn't of the format, or no interaction is left.
        ValueError: an unknown source, or a k_core below 1.
    """
    if source not in SOURCES:
        raise ValueError(f"import_domain: source must be one of {', '.join(SOURCES)}, got {source!r}. Choose one.")
    if k_core < 1:
        raise ValueError(f"import_domain: k_core must be at least 1, got {k_core}. Raise it.")
    reader, texts = SOURCES[source], Template(template, Item._fields[1:])
    files = [Path(items), Path(interactions)]
    next(reader.items(Lines(files[0], reader.files[0])))  # finds a wrong file before the long one is read
    sizes = [file.stat().st_size if file.is_file() else 0 for file in files]

    def read(file: int, before: int) -> Lines:
        told = None if progress is None else lambda done: progress(before + done, sum(sizes))
        return Lines(files[file], reader.files[file], told)

    events = _read_events(reader, read(1, 0))
    counts = {"interactions read": len(events.users), "users read": int(events.users.max()) + 1}
    counts["items with interactions"] = len(events.item_hashes)
    # Filter first, to have fewer rows: what is dropped with repetitions would also be dropped without them.
    events.keep(k_core_rows(events.users, events.items, k_core))
    before = len(events.users)
    events.keep(_earliest(events))
    counts[_REPEATED] = before - len(events.users)
    events.keep(k_core_rows(events.users, events.items, k_core))
    wanted = np.unique(events.items)
    described = _describe(reader, read(0, sizes[1]), events.item_hashes[wanted], texts)
    found = np.array([code in described for code in events.item_hashes[wanted].tolist()], dtype=bool)
    counts[_NO_TEXT] = int((~found).sum())
    before = len(events.users)
    events.keep(np.flatnonzero(np.isin(events.items, wanted[found])))
    counts[_NO_ITEM] = before - len(events.users)
    events.keep(k_core_rows(events.users, events.items, k_core))
    if not len(events.users):
        step = "Lower k_core, or check that both files are of the same data set"
        got = f"nothing left of {counts['interactions read']:,} interactions"
        raise CatalogueError(f"{files[1]}: must keep interactions at k_core {k_core}, got {got}. {step}.")
    return _number(events, described, template, counts, reader.unit)


def k_core_rows(users: _Integers, items: _Integers, k: int) -> _Integers:
    """Find the interactions of the largest set in which every user and every item has at least k.

    Args:
        users: (M,) numbers from 0 on.
        items: (M,) numbers from 0 on.
        k: fewest interactions.

    Returns:
        Rows of the interactions kept, ascending.
    """
    rows = np.arange(len(users))
    while True:
        enough = np.ones(len(rows), dtype=bool)
        for codes in (users[rows], items[rows]):
            enough &= np.bincount(codes)[codes] >= k if len(codes) else True
        if enough.all():
            return rows
        rows = rows[enough]


def _read_events(reader: Source, lines: Lines) -> _Events:
    users, items, times = array("q"), array("q"), Times()
    for user, item, time in reader.events(lines):
        users.append(hash(user))
        items.append(hash(item))
        if time is not None:
            times.append(time)
    _, user_codes = _codes(users)
    del users  # frees memory for the sort below
    item_hashes, item_codes = _codes(items)
    del items
    ticks = times.ticks()
    if not len(ticks):  # a file has all times or none
        return _Events(user_codes, item_codes, np.zeros(len(user_codes), np.int64), item_hashes, None, None, 0)
    try:
        unit = DATES if reader.unit == DATES else unit_of(ticks, reader.unit, times.decimals)
    except MixedUnitsError as error:
        rule, step = "times must all be in one unit", "Convert them to seconds since 1970"
        raise CatalogueError(f"{lines.file}: {rule}, got {error}. {step}.") from error
    if ticks.dtype == np.int64:
        return _Events(user_codes, item_codes, ticks, item_hashes, None, unit, times.decimals)
    ticks, ranks = np.unique(ticks, return_inverse=True)
    return _Events(user_codes, item_codes, ranks, item_hashes, ticks, unit, times.decimals)


def _codes(hashes: array[int]) -> tuple[_Integers, _Integers]:
    """Number the distinct hashes: the distinct ones, and the number of each hash."""
    distinct, codes = np.unique(np.frombuffer(hashes, np.int64), return_inverse=True)
    return distinct, codes.astype(np.int32)


def _earliest(events: _Events) -> _Integers:
    """Rows of the first interaction of each user with each item, ascending."""
    order = np.lexsort((events.times, events.items, events.users))  # stable: at equal times, the file's order decides
    users, items = events.users[order], events.items[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return np.sort(order[first])


def _describe(reader: Source, lines: Lines, wanted: _Integers, template: Template) -> dict[int, tuple[str, str, str]]:
    """Name, title and text of those wanted items that have title and text, by the hash of the name."""
    found: dict[int, tuple[str, str, str]] = {}
    missing = set(wanted.tolist())
    for item in reader.items(lines):
        if (code := hash(item.source_id)) in missing and item.title and (text := template.fill(item._asdict())):
            missing.remove(code)
            found[code] = (encodable(item.source_id), item.title, text)
    return found


def _number(
    events: _Events, described: dict[int, tuple[str, str, str]], template: str, counts: dict[str, int], unit: str
) -> ImportedDomain:
    codes, item_places = np.unique(events.items, return_inverse=True)
    names = [described[code] for code in events.item_hashes[codes].tolist()]
    order = sorted(range(len(names)), key=names.__getitem__)
    item_ids = np.argsort(order)[item_places]
    _, first, user_places = np.unique(events.users, return_index=True, return_inverse=True)
    user_ids = np.argsort(np.argsort(first))[user_places]
    by_history = np.lexsort((events.times, user_ids))
    events.keep(by_history)
    user_ids, item_ids, times = user_ids[by_history], item_ids[by_history], events.seconds()
    starts = np.flatnonzero(np.diff(user_ids, prepend=-1))
    positions = np.arange(len(user_ids)) - starts[user_ids]
    columns = zip(*(names[place] for place in order), strict=True)
    items = dict(zip(("source_id", "title", "text"), map(list, columns), strict=True))
    kept = {"items": len(names), "users": len(first), "interactions": len(user_ids)}
    found = {
        "items": counts["items with interactions"] - counts[_NO_TEXT],
        "users": counts["users read"],
        "interactions": counts["interactions read"] - counts[_REPEATED] - counts[_NO_ITEM],
    }
    counts |= {f"{kind} dropped by the k-core": found[kind] - count for kind, count in kept.items()} | kept
    interactions = Interactions(user_ids, item_ids, positions, times)
    return ImportedDomain(items, interactions, template, counts, said(times, events.unit or "", unit))
