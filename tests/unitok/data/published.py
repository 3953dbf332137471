"""Small files of made content in the true formats of published data sets, all of the same items and events."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ITEMS = {  # title, path of categories, brand, description; B9 has no title, and B8 isn't there at all
    "B0": ("Kettle O'Steel", ["Home & Kitchen", "Kettles"], "Brewbird", "Whistles <b>softly</b>."),
    "B1": ('Mug "Dawn" 0.3 l', ["Home & Kitchen", "Mugs"], "Brewbird", ""),
    "B2": ("Crème Whisk", ["Home & Kitchen"], "", "For  froth &amp; foam"),
    "B3": ("Tea Towel", [], "Lint", ""),
    "B4": ("Slow Clock", ["Clocks"], "Lint", "Runs late."),
    "B5": ("Lone Spoon", ["Spoons"], "Lint", "Few ever met it."),
    "B9": ("", ["Clocks"], "Lint", "Has no title."),
}
FORMATS = ("amazon-2014", "amazon-2018", "amazon-2023", "yelp", "recbole")
DAY = 86_400


def make_events() -> list[tuple[str, str, int]]:
    """User, item and time of 9 users who meet most of the items, some twice, and of some who fall out."""
    rng = np.random.default_rng(0)
    events = [
        (f"user-{user}", item, 1_500_000_000 + int(rng.integers(50)) * DAY)
        for user in rng.permutation(9)
        for item in rng.permutation(["B0", "B1", "B2", "B3", "B4", "B8", "B9"])
        if rng.random() < 0.9
    ]
    events += [(user, item, 1_600_000_000) for user, item, _ in events[::5]]  # again, later
    events += [(user, item, 1_400_000_000) for user, item, _ in events[::7]]  # again, earlier
    events += [("user-0", "B5", 1_500_000_000), ("passer-by", "B0", 1_500_000_000)]
    return [events[row] for row in rng.permutation(len(events))]


def _lines(records: Iterator[dict[str, Any]], form: Callable[[Any], str] = json.dumps) -> bytes:
    return "".join(f"{form(record)}\n" for record in records).encode()


def _amazon(name: str, title: str, path: list[str], brand: str, description: str) -> dict[str, Any]:
    return {"asin": name, "title": title, "brand": brand, "price": 7.5}


def _amazon_2014(name: str, title: str, path: list[str], brand: str, description: str) -> dict[str, Any]:
    more = {
        "description": description,
        "categories": [path],
        "salesRank": {"Kitchen": 7},
        "imUrl": "http://made/up.jpg",
    }
    found = {**_amazon(name, title, path, brand, description), **more, "related": {"also_viewed": ["B0", "B1"]}}
    return {field: value for field, value in found.items() if value}  # what isn't known isn't there


def _amazon_2018(name: str, title: str, path: list[str], brand: str, description: str) -> dict[str, Any]:
    page = [*path, "</span></span></span>", "Shipping"] if path else []
    more = {"description": [description] if description else [], "category": page, "feature": [], "also_buy": []}
    found = {**_amazon(name, title, path, brand, description), **more, "rank": "7 in Kitchen", "main_cat": "Kitchen"}
    return {**found, "brand": f"by\n    {brand}" if brand else "", "tech1": "", "similar_item": ""}


def _amazon_2023(name: str, title: str, path: list[str], brand: str, description: str) -> dict[str, Any]:
    return {
        "main_category": None,
        "title": title,
        "average_rating": 4.1,
        "rating_number": 12,
        "features": [],
        "description": [description],
        "price": None,
        "images": [{"thumb": "http://made/up.jpg", "variant": "MAIN"}],
        "store": brand or None,
        "categories": path,
        "details": {"Weight": "1 lb"},
        "parent_asin": name,
        "bought_together": None,
    }


def _write_amazon(year: int, describe: Callable[..., dict[str, Any]]) -> Iterator[bytes]:
    items = (describe(name, *fields) for name, fields in ITEMS.items())
    yield _lines(items, repr if year == 2014 else json.dumps)
    rest = {"overall": 4.0, "reviewText": "Fine {really}, isn't it?", "summary": "Fine", "reviewTime": "07 14, 2017"}
    yield _lines(
        {"reviewerID": user, "asin": item, **rest, "unixReviewTime": seconds} for user, item, seconds in make_events()
    )


def _write_amazon_2023() -> Iterator[bytes]:
    yield _lines(_amazon_2023(name, *fields) for name, fields in ITEMS.items())
    rest = {"rating": 4.0, "title": "Fine", "text": "Fine, isn't it?", "images": [], "verified_purchase": True}
    yield _lines(
        {**rest, "asin": f"{item}-red", "parent_asin": item, "user_id": user, "timestamp": seconds * 1000 + 567}
        for user, item, seconds in make_events()
    )


def _write_yelp() -> Iterator[bytes]:
    place = {"address": "1 Made Street", "postal_code": "00000", "latitude": 1.5, "stars": 4.5, "is_open": 1}
    yield _lines(
        {"business_id": name, "name": title, **place, "city": "Madeville", "state": "MV", "attributes": None}
        | {"categories": ", ".join(path) or None, "hours": None}
        for name, (title, path, _, _) in ITEMS.items()
    )
    rest = {"review_id": "r", "stars": 4.0, "useful": 0, "text": "Fine\nand dandy"}
    yield _lines(
        {**rest, "user_id": user, "business_id": item, "date": f"{datetime.fromtimestamp(seconds, timezone.utc):%F %T}"}
        for user, item, seconds in make_events()
    )


def _write_recbole() -> Iterator[bytes]:
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tscore:float"]
    items += [f"{name}\t{title}\t1999\t{' '.join(path)}\t0.5" for name, (title, path, _, _) in ITEMS.items()]
    events = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    events += [f"{user}\t{item}\t4\t{seconds}.0" for user, item, seconds in make_events()]
    for rows in (items, events):
        yield "".join(f"{row}\n" for row in rows).encode()


WRITERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "amazon-2014": lambda: _write_amazon(2014, _amazon_2014),
    "amazon-2018": lambda: _write_amazon(2018, _amazon_2018),
    "amazon-2023": _write_amazon_2023,
    "yelp": _write_yelp,
    "recbole": _write_recbole,
}


def write_published(folder: Path, name: str, *, zipped: bool = False) -> tuple[Path, Path]:
    """Write the two files of a format."""
    ending = ".gz" if zipped else ""
    files = folder / f"items{ending}", folder / f"events{ending}"
    for file, content in zip(files, WRITERS[name](), strict=True):
        file.write_bytes(gzip.compress(content) if zipped else content)
    return files
