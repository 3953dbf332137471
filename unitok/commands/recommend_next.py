"""`unitok recommend next`: the items that a user is likely to meet next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.commands.inputs import split_names
from unitok.commands.options import Items, Json
from unitok.commands.recommending import Device, RecommenderFolder, first_rows, load, read_histories
from unitok.commands.terminal import Refusal, console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok.recommender import Histories


def next_items(
    recommender: RecommenderFolder,
    data: Items,
    users: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Users, by their ids in the catalogue.", show_default=False)
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="A history of one's own: item ids, the latest last.", show_default=False),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose users and items these are.", show_default="the only one")
    ] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, metavar="N", help="How many items to give.")] = 10,
    beam: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Prefixes that the search keeps.", show_default="as trained")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Name the items of a domain that come next, after all that users met or after a list of items.

    Items that can't be told apart by their IDs share a rank.

    For example:

        unitok recommend next runs/recommender catalogue --users 7,12
        unitok recommend next runs/recommender catalogue --domain beauty --items 31,4,15 --top 5 --json
    """
    if (users is None) == (items is None):
        raise typer.BadParameter("say whose next items: --users A,B,C or --items A,B,C.")

    import torch

    from unitok.data import read_catalogue

    model = load(recommender, device)
    model.beam = beam or model.beam
    sizes = model.about["domains"]
    name = domain if domain is not None else next(iter(sizes))
    if name not in sizes or (domain is None and len(sizes) > 1):
        raise Refusal(f"--domain: must be one of {', '.join(sizes)}, got {domain or 'none'}. Name one of them.")
    start, size = first_rows(sizes)[name], sizes[name]
    if items is not None:
        asked: Mapping[str, list[int]] = {"items": [start + number for number in _numbers("--items", items, size)]}
    else:
        asked = _of_users(read_histories(data, sizes)[name], _numbers("--users", users or ""))
    width = max(map(len, asked.values()))
    histories = torch.tensor([[-1] * (width - len(row)) + row for row in asked.values()])
    ranked = model.within(torch.arange(start, start + size)).rank(histories, k)
    titles = read_catalogue(data, None if len(sizes) == 1 else [name])[name].titles or [""] * size
    named: dict[int, list[int]] = {}
    for item, own in enumerate(model.names[start : start + size].tolist()):
        named.setdefault(own, []).append(item)
    found = {
        key: [
            {"rank": rank, "domain": name, "item_id": item, "title": titles[item]}
            for rank, own in enumerate(row, 1)
            for item in named.get(own, [])
        ]
        for key, row in zip(asked, ranked.tolist(), strict=True)
    }
    if as_json:
        print_json([{"user": None if key == "items" else int(key), "next": rows} for key, rows in found.items()])
        return
    for key, rows in found.items():
        _print(f"after {items}" if key == "items" else f"user {key}", rows)


def _numbers(option: str, text: str, below: int | None = None) -> list[int]:
    parts = split_names(text) or []
    bad = next((part for part in parts if not part.isdecimal() or (below is not None and int(part) >= below)), None)
    if bad is not None:
        rule = "numbers" if below is None else f"item ids from 0 to {below - 1}"
        raise Refusal(f"{option}: must be {rule} with commas between, got {bad!r}. Write 3,1,4.")
    return [int(part) for part in parts]


def _of_users(histories: Histories, users: list[int]) -> Mapping[str, list[int]]:
    place = {user: row for row, user in enumerate(histories.user_ids.tolist())}
    if unknown := [user for user in users if user not in place]:
        raise Refusal(f"--users: must be users of the catalogue, got {unknown[0]}. Take ids of interactions.parquet.")
    offsets = histories.offsets.tolist()
    return {str(user): histories.items[offsets[place[user]] : offsets[place[user] + 1]].tolist() for user in users}


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "domain", "item", "title", title=title, title_justify="left")
    for row in rows:
        table.add_row(str(row["rank"]), row["domain"], str(row["item_id"]), Text(row["title"]))
    console().print(table)
