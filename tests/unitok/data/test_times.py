"""Times: read without rounding, sorted as they are, kept in seconds whatever a file has them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from unitok.data import CatalogueError, ImportedDomain, import_domain, read_interactions, write_domain
from unitok.data.published.times import Times, date, number
from unitok.data.times import MixedUnitsError, in_seconds, unit_of

Import = Callable[..., ImportedDomain]
START = 1_628_643_414


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (7, 7),
        ("0012", 12),
        ("-1.50", Fraction(-3, 2)),
        ("874965758.0", 874_965_758),
        (".25", Fraction(1, 4)),
        ("0.000", 0),
        ("1.433221332e+09", 1_433_221_332),
        (0.1, Fraction(1, 10)),
        ("1430622000.1234567890123456789", Fraction(14306220001234567890123456789, 10**19)),
        ("5e-324", ValueError),
        ("1e99", ValueError),
        ("9" * 5000, ValueError),
        ("nan", ValueError),
        (float("inf"), ValueError),
        ("now", ArithmeticError),
        ("0." + "1" * 31, ValueError),
        ("0." + "1" * 61, ArithmeticError),
        ("", ArithmeticError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_numbers_are_read_exactly(given: object, exact: Fraction | type[Exception]) -> None:
    if isinstance(exact, type):
        with pytest.raises(exact):
            number(given)
    else:
        whole, decimals = number(given)
        assert Fraction(whole, 10**decimals) == exact


@pytest.mark.parametrize(
    ("text", "utc", "fraction"),
    [
        ("2018-07-07 22:09:11", (2018, 7, 7, 22, 9, 11), "0"),
        ("2018-07-07T22:09:11.25", (2018, 7, 7, 22, 9, 11), "0.25"),
        ("2018-07-07 22:09:11.000000001", (2018, 7, 7, 22, 9, 11), "1e-9"),
        ("2018-07-07 22:09:11+02:00", (2018, 7, 7, 20, 9, 11), "0"),
        ("2018-07-07 22:09:11.5 -0230", (2018, 7, 8, 0, 39, 11), "0.5"),
        ("2018-07-07T22:09Z", (2018, 7, 7, 22, 9, 0), "0"),
        ("1969-12-31 23:59:59.75", (1969, 12, 31, 23, 59, 59), "0.75"),
        ("2018-07-07", (2018, 7, 7, 0, 0, 0), "0"),
    ],
)
def test_dates_are_read_with_their_fraction_and_offset(text: str, utc: tuple[int, ...], fraction: str) -> None:
    whole, decimals = date(text)
    seconds = int(datetime(*utc, tzinfo=timezone.utc).timestamp())
    assert Fraction(whole, 10**decimals) == seconds + Fraction(fraction)


@pytest.mark.parametrize("value", ["2018-13-01", "2018-07-07 25:00", "yesterday", "2018-07-07 22:09:11+99:00", "", 7])
def test_what_is_no_date_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        date(value)


@pytest.mark.parametrize(
    "texts",
    [
        ["3", "1", "2"],
        ["1430622000.2", "1430622000", "1430622000.123456789", "-5"],
        ["1430622000.12345678901234567891", "1430622000.1234567890123456789", "7", "-0.5"],  # beyond 64 bits
        ["9000000000000000000", "0.5", "9000000000000000000.25"],
    ],
)
def test_no_two_times_become_equal(texts: list[str]) -> None:
    times = Times()
    for text in texts:
        times.append(number(text))
    exact = [Fraction(text) for text in texts]
    assert [Fraction(tick, 10**times.decimals) for tick in times.ticks().tolist()] == exact
    kept = in_seconds(times.ticks(), "seconds", times.decimals)
    assert kept.tolist() == [float(value) for value in exact]
    assert kept.dtype == (np.int64 if all(value.denominator == 1 for value in exact) else np.float64)


@pytest.mark.parametrize(
    ("times", "given", "unit"),
    [
        ([0, START], "seconds", "seconds"),
        ([0, START * 10**3], "seconds", "milliseconds"),
        ([START * 10**6], "seconds", "microseconds"),
        ([-START * 10**9], "milliseconds", "nanoseconds"),
        ([START * 10**3], "milliseconds", "milliseconds"),
        ([START], "milliseconds", "seconds"),
        ([3, 1, 2], "milliseconds", "milliseconds"),  # may count from any start
        ([], "seconds", "seconds"),
    ],
)
def test_a_unit_shows_in_the_size_of_times(times: list[int], given: str, unit: str) -> None:
    assert unit_of(np.array(times, np.int64), given) == unit
    assert unit_of(np.array(times, np.float64), given) == unit
    assert unit_of(np.array([time * 100 for time in times], dtype=object), given, decimals=2) == unit


def test_two_units_are_told_apart() -> None:
    for times in ([START, START * 10**3], [START * 10**9, 1, START * 10**6]):
        with pytest.raises(MixedUnitsError, match=" and "):
            unit_of(np.array(times))


@pytest.fixture
def read(tmp_path: Path) -> Import:
    """Import u's interactions with A, B and so on from pairs of an item and its time."""

    def lines(*rows: dict[str, object]) -> str:
        return "".join(f"{json.dumps(row)}\n" for row in rows)

    def imported(name: str, *events: tuple[str, object]) -> ImportedDomain:
        items, interactions = tmp_path / "items", tmp_path / "events"
        if name == "recbole":
            rows = "".join(f"u\t{item}\t{time}\n" for item, time in events)
            items.write_text("item_id:token\ttitle:token\n" + "".join(f"{item}\t{item}\n" for item in "ABCD"))
            interactions.write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
        else:
            item, title, user, time = {
                "amazon-2018": ("asin", "title", "reviewerID", "unixReviewTime"),
                "amazon-2023": ("parent_asin", "title", "user_id", "timestamp"),
                "yelp": ("business_id", "name", "user_id", "date"),
            }[name]
            items.write_text(lines(*({item: letter, title: letter} for letter in "ABCD")))
            interactions.write_text(lines(*({user: "u", item: letter, time: at} for letter, at in events)))
        return import_domain(name, items, interactions, k_core=1)

    return imported


def history(found: ImportedDomain) -> str:
    return "".join(found.items["source_id"][row] for row in found.interactions.item_ids)


ORDERS: dict[str, tuple[str, list[tuple[str, object]], list[float]]] = {
    "milliseconds": (
        "amazon-2023",
        [("B", START * 1000 + 311), ("A", START * 1000 + 42)],
        [START + 0.042, START + 0.311],
    ),
    "whole seconds": ("amazon-2023", [("B", START * 1000 + 2000), ("A", START * 1000)], [START, START + 2]),
    "seconds for milliseconds": ("amazon-2023", [("B", START + 2), ("A", START)], [START, START + 2]),
    "milliseconds for seconds": ("recbole", [("B", START * 1000 + 500), ("A", START * 1000)], [START, START + 0.5]),
    "microseconds for seconds": (
        "amazon-2018",
        [("B", START * 10**6 + 1), ("A", START * 10**6)],
        [START, START + 1e-6],
    ),
    "nanoseconds for seconds": ("recbole", [("B", START * 10**9 + 1), ("A", START * 10**9)], [START, START]),
    "fractions": ("recbole", [("B", "9.5"), ("A", "9.1")], [9.1, 9.5]),
    "finer than a float": ("recbole", [("B", f"{START}.00000002"), ("A", f"{START}.00000001")], [START, START]),
    "decimals of JSON": ("amazon-2018", [("B", START + 0.5), ("A", START)], [START, START + 0.5]),
    "dates": ("yelp", [("B", "2018-07-07 22:09:11.9"), ("A", "2018-07-07 22:09:11.1")], [1531001351.1, 1531001351.9]),
    "offsets": ("yelp", [("B", "2018-07-07 22:00:00"), ("A", "2018-07-07 23:00:00+02:00")], [1530997200, 1531000800]),
    "the earliest counts": ("recbole", [("A", "1.9"), ("B", "1.8"), ("A", "1.7")], [1.7, 1.8]),
}


@pytest.mark.parametrize("case", ORDERS)
def test_histories_are_in_the_order_of_the_whole_time(read: Import, case: str) -> None:
    name, events, kept = ORDERS[case]
    found = read(name, *events)
    assert history(found) == "AB"
    assert found.interactions.timestamps is not None
    assert found.interactions.timestamps.tolist() == pytest.approx(kept, rel=1e-16, abs=0)
    whole = all(float(time).is_integer() for time in kept) and case not in (
        "finer than a float",
        "nanoseconds for seconds",
    )
    assert found.interactions.timestamps.dtype == (np.int64 if whole else np.float64)


def test_another_unit_is_said(read: Import) -> None:
    said = {
        "milliseconds, where the format has seconds": read("recbole", ("A", START * 1000)),
        "seconds, where the format has milliseconds": read("amazon-2023", ("A", START)),
        "seconds; kept as seconds with a fraction": read("recbole", ("A", "0.5")),
        "milliseconds; kept as whole seconds": read("amazon-2023", ("A", START * 1000)),
        "dates; kept as whole seconds": read("yelp", ("A", "2018-07-07")),
    }
    assert {text: found.times.startswith(text) for text, found in said.items()} == dict.fromkeys(said, True)


def test_two_units_in_a_file_are_refused(read: Import) -> None:
    rule = rf"events: times must all be in one unit, got {START} and {START}000\. Convert them to seconds since 1970\."
    with pytest.raises(CatalogueError, match=rule):
        read("recbole", ("A", START * 1000), ("B", START))


def test_fractions_are_kept_in_a_folder(read: Import, tmp_path: Path) -> None:
    found = read("recbole", ("B", "9.75"), ("A", "9.5"))
    write_domain(tmp_path / "kept", np.ones((2, 2), np.float32), items=found.items, interactions=found.interactions)
    times = read_interactions(tmp_path / "kept").timestamps
    assert times is not None
    assert times.tolist() == [9.5, 9.75]
