"""The Yelp Open Dataset: yelp_academic_dataset_business.json and yelp_academic_dataset_review.json.

A business has business_id, name, categories (one text), and city and state, which become its description. A review has
user_id, business_id and date, such as `2018-07-07 22:09:11`, read as UTC unless it has an offset such as `+02:00`.

Source: https://business.yelp.com/data/resources/open-dataset.
"""

from __future__ import annotations

from typing import Any

from unitok.data.published.sources import DATES, JsonSource, plain


def _describe(record: dict[str, Any]) -> dict[str, str]:
    place = filter(None, (plain(record.get(name)) for name in ("city", "state")))
    return {
        "title": plain(record.get("name")),
        "categories": plain(record.get("categories")),
        "description": ", ".join(place),
    }


YELP = JsonSource(
    "yelp",
    ("the business.json of Yelp", "the review.json of Yelp"),
    item="business_id",
    user="user_id",
    time="date",
    unit=DATES,
    describe=_describe,
)
