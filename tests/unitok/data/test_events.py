"""interactions.parquet as other tools write it: what is taken, how it is read, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unitok.data import CatalogueError, Interactions, read_interactions, write_domain

START = datetime(2018, 7, 7, 22, 9, 11, tzinfo=timezone.utc)
SECONDS = int(START.timestamp())
NAMES = ["v", "u", "v", "ö"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_domain(tmp_path, np.ones((3, 2), np.float32))
    return tmp_path


def read(folder: Path, **columns: Any) -> Interactions:
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return read_interactions(folder)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_users_with_names_are_numbered_in_their_order(folder: Path, kind: Any) -> None:
    names = pa.array(NAMES).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(NAMES).cast(kind)
    events = read(folder, user_id=names, item_id=[0, 1, 2, 0])
    assert events.user_ids.tolist() == [0, 1, 1, 2]
    assert events.user_names == ["u", "v", "ö"]
    assert events.item_ids.tolist() == [1, 0, 2, 0]
    assert events.positions.tolist() == [0, 0, 1, 0]
    assert {column.dtype for column in (events.user_ids, events.item_ids, events.positions)} == {np.dtype(np.int64)}


def test_names_are_kept_as_they_are(folder: Path) -> None:
    names = ["10", "2", "010", " a,b", "2"]
    events = read(folder, user_id=names, item_id=[0, 1, 2, 0, 2], timestamp=[5, 4, 3, 2, 1])
    assert events.user_names == [" a,b", "010", "10", "2"]
    assert events.user_ids.tolist() == [0, 1, 2, 3, 3]
    assert read(folder, user_id=[10, 2], item_id=[0, 1]).user_names is None
    write_domain(folder, np.ones((3, 2), np.float32), interactions=events, force=True)
    assert pq.read_table(folder / "interactions.parquet")["user_id"].to_pylist() == [" a,b", "010", "10", "2", "2"]
    again = read_interactions(folder)
    assert (again.user_names, again.user_ids.tolist()) == (events.user_names, [0, 1, 2, 3, 3])


@pytest.mark.parametrize("users", [[0, 2], [-1, 0], ["a", "b"]])
def test_users_without_a_name_beside_others_are_refused(users: list[Any], refuses: Callable[..., Any]) -> None:
    with refuses("Interactions", "user_ids"):
        Interactions(np.array(users), np.zeros(2, np.int64), np.arange(2), user_names=["a", "b"])


def test_names_of_several_row_groups_are_one_users(folder: Path) -> None:
    table = pa.table({"user_id": ["b", "a", "a", "b"], "item_id": [0, 1, 2, 0]})
    pq.write_table(table, folder / "interactions.parquet", row_group_size=1)
    assert read_interactions(folder).item_ids.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float64(), pa.float32(), pa.float16()], ids=str)
def test_ids_may_be_of_any_kind_of_whole_number(folder: Path, kind: Any) -> None:
    events = read(folder, **{name: pa.array([1, 0]).cast(kind) for name in ("user_id", "item_id", "position")})
    assert events.item_ids.tolist() == [0, 1]
    assert events.item_ids.dtype == np.int64


def zoned(unit: str, zone: str | None = None) -> Any:
    given = [START + timedelta(seconds=1), START]
    return pa.array([time.replace(tzinfo=None) for time in given] if zone is None else given, pa.timestamp(unit, zone))


TIMES: dict[str, tuple[Any, list[float]]] = {
    "integers": ([SECONDS + 1, SECONDS], [SECONDS, SECONDS + 1]),
    "small": ([20, 10], [10, 20]),
    "fractions": ([SECONDS + 0.5, SECONDS], [SECONDS, SECONDS + 0.5]),
    "whole floats": ([SECONDS + 1.0, SECONDS + 0.0], [SECONDS, SECONDS + 1]),
    "milliseconds": ([SECONDS * 1000 + 500, SECONDS * 1000], [SECONDS, SECONDS + 0.5]),
    "nanoseconds": ([(SECONDS + 1) * 10**9, SECONDS * 10**9], [SECONDS, SECONDS + 1]),
    "milliseconds in floats": ([SECONDS * 1e3 + 500, SECONDS * 1e3], [SECONDS, SECONDS + 0.5]),
    "s": (zoned("s"), [SECONDS, SECONDS + 1]),
    "ms": (zoned("ms"), [SECONDS, SECONDS + 1]),
    "us in a zone": (zoned("us", "Europe/Berlin"), [SECONDS, SECONDS + 1]),
    "ns with an offset": (zoned("ns", "+02:00"), [SECONDS, SECONDS + 1]),
    "dates": ([date(1970, 1, 3), date(1970, 1, 2)], [86_400, 2 * 86_400]),
    "far dates": (pa.array([2**31 - 1, 0], pa.int32()).view(pa.date32()), [0, (2**31 - 1) * 86_400]),
}


@pytest.mark.parametrize("case", TIMES)
def test_times_make_the_positions_where_there_are_none(folder: Path, case: str) -> None:
    given, kept = TIMES[case]
    events = read(folder, user_id=[0, 0], item_id=[1, 2], timestamp=given)
    assert events.item_ids.tolist() == [2, 1]
    assert events.positions.tolist() == [0, 1]
    assert events.timestamps is not None
    assert events.timestamps.tolist() == kept
    assert events.timestamps.dtype == (np.int64 if all(float(time).is_integer() for time in kept) else np.float64)


def test_positions_count_before_times_and_ties_keep_the_rows(folder: Path) -> None:
    events = read(folder, user_id=[0, 0, 0], item_id=[0, 1, 1], position=[2, 1, 1], timestamp=[1, 9, 8])
    assert events.item_ids.tolist() == [1, 1, 0]
    assert events.positions.tolist() == [1, 1, 2]
    assert events.timestamps is not None
    assert events.timestamps.tolist() == [9, 8, 1]


def test_no_rows_are_no_events(folder: Path) -> None:
    for users in (pa.array([], pa.string()), pa.array([], pa.int64())):
        empty = pa.array([], pa.int64())
        events = read(folder, user_id=users, item_id=empty, timestamp=empty)
        assert [len(column) for column in (events.user_ids, events.positions)] == [0, 0]


def test_large_ids_of_users_are_kept(folder: Path) -> None:
    users = np.array([3_000_000_000, 5])
    write_domain(
        folder, np.ones((3, 2), np.float32), interactions=Interactions(users, users % 3, users * 0), force=True
    )
    assert read_interactions(folder).user_ids.tolist() == [5, 3_000_000_000]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "names of items": ({"item_id": ["a"]}, r"item_id must be an integer .*, got string\. .*\.astype\(\"int64\"\)"),
    "a fraction": (
        {"item_id": [0.5]},
        r"item_id must be an integer .*, got double \(.*0\.5.*\)\. Mend or drop these rows\.$",
    ),
    "a fraction of a position": ({"position": [0.5]}, r"position must be .*\)\. Mend or drop these rows\.$"),
    "a fraction of a user": ({"user_id": [0.5]}, r'user_id must be .*Number them, .*factorize\(table\["user_id"\]\)'),
    "too large": ({"user_id": pa.array([2**63], pa.uint64())}, r"user_id must be an integer .*, got uint64 \("),
    "no user": ({"user_id": pa.array([None], pa.string())}, "user_id must be an integer .*, got 1 nulls. Drop"),
    "null position": ({"position": pa.nulls(1)}, "position must be an integer .*, got 1 nulls. Drop"),
    "no text": (
        {"user_id": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())},
        "user_id must be text, got .*utf-8",
    ),
    "true": ({"user_id": [True]}, r"user_id must be an integer .*, got bool\. Convert it: "),
    "lists": ({"user_id": [[1]]}, r"user_id must be an integer .*, got list<.*>\. Convert it: "),
    "no time": ({"timestamp": pa.array([None], pa.int64())}, "timestamp must be a time .*, got 1 nulls. Drop"),
    "NaN": ({"timestamp": [float("nan")]}, "timestamp must be finite, got nan in row 0"),
    "times as text": ({"timestamp": ["2018-07-07"]}, r"timestamp must be numbers, .*, got string\. .*to_datetime"),
    "a duration": ({"timestamp": pa.array([1], pa.duration("s"))}, "timestamp must be numbers, .*, got duration"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(folder: Path, case: str) -> None:
    columns, message = REFUSED[case]
    with pytest.raises(CatalogueError, match=message) as caught:
        read(folder, **{"user_id": [0], "item_id": [0], **columns})
    assert str(caught.value).startswith(f"{folder / 'interactions.parquet'}: ")
    assert "\n" not in str(caught.value)


def test_times_of_two_units_are_refused(folder: Path) -> None:
    with pytest.raises(CatalogueError, match=r"timestamp must be in one unit, got .* and .*\. Convert them to seconds"):
        read(folder, user_id=[0, 0], item_id=[0, 1], timestamp=[SECONDS, SECONDS * 1000])
