"""The reader of interactions.parquet, which other tools write, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unitok.data.catalogue import Interactions
from unitok.data.files import fault, integers, is_text, read_table, texts
from unitok.data.times import UNITS, MixedUnitsError, in_seconds, unit_of

_DAY = 86_400
_UNITS = dict(zip(("s", "ms", "us", "ns"), UNITS, strict=True))  # of Arrow


def read_events(file: Path, num_items: int) -> Interactions:
    """Read the interactions of a domain of `num_items` items; `read_interactions` says what may be in the file."""
    table = read_table(file, ("user_id", "item_id"), optional=("position", "timestamp"))
    (users, names), items, times = _users(file, table), integers(file, table, "item_id"), None
    if (strangers := np.flatnonzero((items < 0) | (items >= num_items))).size:
        got = f"{items[strangers[0]]} in row {strangers[0]}"
        step = "Drop the events of items that embeddings.npy doesn't hold"
        raise fault(file, f"item_id must be between 0 and {num_items - 1}", got, step)
    if "timestamp" in table.column_names:
        times = _times(file, table)
    if "position" in table.column_names:
        positions = integers(file, table, "position")
        order = np.lexsort((positions, users))
        users, positions = users[order], positions[order]
    else:
        order = np.lexsort((users,) if times is None else (times[0], users))
        users = users[order]
        starts = np.flatnonzero(np.diff(users, prepend=users[:1] - 1))
        lengths = np.diff(starts, append=len(users))
        positions = np.arange(len(users)) - np.repeat(starts, lengths)
    seconds = None if times is None else _seconds(file, times[0][order], times[1])
    return Interactions(users, items[order], positions, seconds, names)


def _users(file: Path, table: Any) -> tuple[NDArray[np.int64], list[str] | None]:
    """Return the users' numbers, and their names if they have some: then they are numbered in the order of these."""
    column = table["user_id"]
    if not is_text(column.type) or column.null_count:
        return integers(file, table, "user_id"), None
    names = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    order, ranks = pc.sort_indices(names.dictionary), np.empty(len(names.dictionary), dtype=np.int64)
    ranks[np.asarray(order)] = np.arange(len(ranks))
    sorted_names = pa.table({"user_id": names.dictionary.take(order)})
    return ranks[np.asarray(names.indices)], texts(file, sorted_names, "user_id")


def _times(file: Path, table: Any) -> tuple[NDArray[Any], str | None]:
    """Return times that sort as they should, and their unit; None if the numbers must tell."""
    column = table["timestamp"]
    kind = column.type
    if column.null_count:
        step = "Drop these rows, or the column: then position, or the order of the file, counts"
        raise fault(file, "timestamp must be a time in every row", f"{column.null_count} nulls", step)
    if pa.types.is_timestamp(kind):
        return np.asarray(column.cast(pa.int64())), _UNITS[kind.unit]
    if pa.types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        return np.asarray(days, dtype=np.int64) * _DAY, UNITS[0]
    if pa.types.is_floating(kind):
        numbers = np.asarray(column, dtype=np.float64)
        if not (finite := np.isfinite(numbers)).all():
            row = int(finite.argmin())
            raise fault(file, "timestamp must be finite", f"{numbers[row]} in row {row}", "Drop that row")
        return numbers, None
    if pa.types.is_integer(kind):
        return integers(file, table, "timestamp"), None
    step = 'Convert it: events["timestamp"] = pandas.to_datetime(events["timestamp"])'
    raise fault(file, "timestamp must be numbers, seconds since 1970, or dates", kind, step)


def _seconds(file: Path, times: NDArray[Any], unit: str | None) -> NDArray[Any]:
    try:
        unit = unit_of(times) if unit is None else unit
    except MixedUnitsError as error:
        step = "Convert them to seconds since 1970"
        raise fault(file, "timestamp must be in one unit", error, step) from error
    if times.dtype == np.int64:
        return in_seconds(times, unit)
    seconds = times / 1000 ** UNITS.index(unit)
    whole = (seconds == np.floor(seconds)).all() and (np.abs(seconds) < 1 << 53).all()
    return seconds.astype(np.int64) if whole else seconds
