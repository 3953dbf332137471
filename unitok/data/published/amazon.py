"""Amazon Reviews of 2014, 2018 and 2023: metadata and reviews, one line per product or review.

2014  Metadata are Python literals with single quotes, or JSON if they were converted: asin, title, brand,
      categories (a list of paths), description. Reviews are JSON: reviewerID, asin, unixReviewTime (seconds).
2018  JSON: asin, title, brand, category (one path), description and feature (lists); reviews as in 2014.
2023  JSON: parent_asin, title, store, categories (one path), main_category, description and features (lists). Reviews:
      user_id, parent_asin, timestamp (milliseconds). The variants of a product have different asins but are one item.

Source: https://jmcauley.ucsd.edu/data/amazon, https://nijianmo.github.io/amazon, https://amazon-reviews-2023.github.io.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from unitok.data.published.sources import JsonSource, plain


def _describe(record: dict[str, Any]) -> dict[str, str]:
    title = plain(record.get("title"))
    told = (record.get(name) for name in ("feature", "features", "description"))
    return {
        "title": "" if "getTime" in title else title,  # some titles of 2018 are a script of the shop's page
        "categories": _paths(record.get("categories") or record.get("category") or record.get("main_category")),
        "brand": plain(record.get("brand") or record.get("store")).removeprefix("by ").strip(),
        "description": " ".join(filter(None, map(plain, told))),
    }


def _paths(value: Any) -> str:
    if not isinstance(value, list):
        return plain(value)
    nested = any(isinstance(part, list) for part in value)
    # In 2018 some paths end in HTML of the page, which is cut off.
    paths = [takewhile(lambda part: "</span>" not in str(part), path) for path in (value if nested else [value])]
    return "; ".join(filter(None, (" > ".join(filter(None, map(plain, path))) for path in paths)))


def _source(year: int, **fields: Any) -> JsonSource:
    name = f"amazon-{year}"
    files = (f"a metadata file of {name}", f"a review file of {name}")
    return JsonSource(name, files, describe=_describe, **fields)


_OLD = {"item": "asin", "user": "reviewerID", "time": "unixReviewTime", "unit": "seconds"}
AMAZON_2014 = _source(2014, **_OLD, literals=True)
AMAZON_2018 = _source(2018, **_OLD)
AMAZON_2023 = _source(2023, item="parent_asin", user="user_id", time="timestamp", unit="milliseconds")
