"""`unitok recommend next`: the items that are likely to come next for a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.inputs import split_names
from unitok.cli.options import Beam, Device, IncludeSeen, Items, Json, RecommenderFolder
from unitok.cli.recommend.catalogue import first_rows, load, of_one_moment, read_histories
from unitok.cli.terminal import Refusal, console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from unitok.recommender import Histories, SequenceRecommender


def next_items(
    recommender: RecommenderFolder,
    data: Items,
    users: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Users, by user_id in the catalogue; one with a comma by itself.", show_default=False
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="A history of your own: item ids, the latest last.", show_default=False),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Domain of the users and items.", show_default="the only one"),
    ] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, metavar="N", help="How many items to name.")] = 10,
    beam: Beam = None,
    include_seen: IncludeSeen = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Name the items of a domain that are likely to come next, for users or after a list of items.

    Items of the history are left out. Items that can't be told apart by their IDs share a rank.

    For example:

        unitok recommend next runs/recommender catalogue --users 7,12
        unitok recommend next runs/recommender catalogue --domain beauty --items 31,4,15 --top 5 --json
    """
    if (users is None) == (items is None):
        raise typer.BadParameter("say whose next items: --users A,B,C or --items A,B,C.")
    model = load(recommender, device)
    model.beam = beam or model.beam
    sizes = model.about["domains"]
    name = _domain(domain, sizes)
    start, size = first_rows(sizes)[name], sizes[name]
    asked: Mapping[int | str | None, list[int]]
    with of_one_moment(data):
        if items is not None:
            asked = {None: [start + number for number in _numbers("--items", items, size)]}
        else:
            asked = _of_users(read_histories(data, sizes)[name], users or "")
        titles = _titles(data, name, sizes)
    found = _rank(model, asked, start, size, k, not include_seen)
    rows = {
        user: [{"rank": rank, "domain": name, "item_id": item, "title": titles[item]} for rank, item in ranked]
        for user, ranked in found.items()
    }
    if as_json:
        print_json([{"user": user, "exclude_seen": not include_seen, "next": given} for user, given in rows.items()])
        return
    how = "items of the history are ranked too" if include_seen else "without items of the history"
    for user, given in rows.items():
        _print(f"{f'after {items}' if user is None else f'user {user}'}: {how}", given)


def _domain(domain: str | None, sizes: Mapping[str, int]) -> str:
    """The domain that is asked for: the only one if none is named."""
    name = domain if domain is not None else next(iter(sizes))
    if name not in sizes or (domain is None and len(sizes) > 1):
        raise Refusal(f"--domain: must be one of {', '.join(sizes)}, got {domain or 'none'}. Name one of them.")
    return name


def _titles(data: Path, name: str, sizes: Mapping[str, int]) -> list[str]:
    from unitok.data import read_catalogue

    return read_catalogue(data, None if len(sizes) == 1 else [name])[name].titles or [""] * sizes[name]


def _rank(
    model: SequenceRecommender,
    asked: Mapping[int | str | None, list[int]],
    start: int,
    size: int,
    k: int,
    exclude_seen: bool,
) -> dict[int | str | None, list[tuple[int, int]]]:
    """Rank the items of one domain, rows start .. start + size, after each history: (rank, item) pairs, best first."""
    import torch

    width = max(map(len, asked.values()))
    histories = torch.tensor([[-1] * (width - len(row)) + row for row in asked.values()])
    ranked = model.within(torch.arange(start, start + size)).rank(histories, k, exclude_seen=exclude_seen)
    items_of: dict[int, list[int]] = {}  # several items if they can't be told apart
    for item, own in enumerate(model.names[start : start + size].tolist()):
        items_of.setdefault(own, []).append(item)
    left_out = {key: {row - start for row in asked[key]} if exclude_seen else set() for key in asked}
    return {
        user: [
            (rank, item)
            for rank, own in enumerate(row, 1)
            for item in items_of.get(own, [])
            if item not in left_out[user]
        ]
        for user, row in zip(asked, ranked.tolist(), strict=True)
    }


def _numbers(option: str, text: str, below: int) -> list[int]:
    parts = split_names(text) or []
    bad = next((part for part in parts if not part.isdecimal() or int(part) >= below), None)
    if bad is not None:
        rule = f"item ids from 0 to {below - 1}"
        raise Refusal(f"{option}: must be {rule} with commas between, got {bad!r}. Write 3,1,4.")
    return [int(part) for part in parts]


def _of_users(histories: Histories, text: str) -> Mapping[int | str | None, list[int]]:
    """The items of users, who are known by what is in the column user_id, be it a number or a name."""
    ids = histories.user_ids.tolist()
    row_of = {str(user): row for row, user in enumerate(ids)}
    users = [text] if text in row_of else split_names(text) or []  # a name may hold commas, and spaces at its ends
    if unknown := [user for user in users if user not in row_of]:
        step = "Use what is in the column user_id of interactions.parquet."
        raise Refusal(f"--users: must be users of the catalogue, got {unknown[0]!r}. {step}")
    offsets, rows = histories.offsets.tolist(), [row_of[user] for user in users]
    return {ids[row]: histories.items[offsets[row] : offsets[row + 1]].tolist() for row in rows}


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "domain", "item", "title", title=Text(title, style="table.title"), title_justify="left")
    for row in rows:
        table.add_row(str(row["rank"]), Text(row["domain"]), str(row["item_id"]), Text(row["title"]))
    console().print(table)
