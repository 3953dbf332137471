"""`unitok recommend evaluate`: how often the next item is found, by item and by token, and by simple baselines."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.options import Beam, Device, IncludeSeen, Items, Json, RecommenderFolder, choice
from unitok.cli.recommend.catalogue import WithBar, first_rows, load, read_histories
from unitok.cli.terminal import StepBar, console, print_json

if TYPE_CHECKING:
    from unitok.recommender import Evaluation, Histories, Recommender, SequenceRecommender


def evaluate(
    recommender: RecommenderFolder,
    data: Items,
    part: Annotated[
        str, choice("Which item of a user is the target: the last, or the last but one.", "test", "validation")
    ] = "test",
    users: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Users per domain, drawn at random.", show_default="all")
    ] = None,
    beam: Beam = None,
    include_seen: IncludeSeen = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Rank each domain's whole catalogue for its users, and see at which rank the next item is.

    By item, a hit is the item itself. By token, a hit is any item of its ID: use those figures only to compare with
    published ones. Two baselines are evaluated on the same users: popularity and a Markov chain.

    The items of the history that the model reads are left out, since most users don't meet an item twice.

    For example:

        unitok recommend evaluate runs/recommender catalogue
        unitok recommend evaluate runs/recommender catalogue --users 1000 --beam 20 --json
    """
    began = time.perf_counter()
    model = load(recommender, device)
    model.beam = beam or model.beam
    sizes = model.about["domains"]
    histories = read_histories(data, sizes)
    found = [
        _evaluate_domain(model, name, histories[name], start, part, users, not include_seen)
        for name, start in first_rows(sizes).items()
    ]
    if as_json:
        seconds = round(time.perf_counter() - began, 3)
        domains = [each.to_dict() for each in found]
        print_json({"part": part, "exclude_seen": not include_seen, "seconds": seconds, "domains": domains})
        return
    for each in found:
        console().print(each.to_table())


def _evaluate_domain(
    model: SequenceRecommender,
    name: str,
    histories: Histories,
    start: int,
    part: str,
    users: int | None,
    exclude_seen: bool,
) -> Evaluation:
    """Evaluate the model and the baselines on one domain, whose items are rows start .. start + size of the model's."""
    import torch

    from unitok.recommender import Evaluation, Queries
    from unitok.recommender import evaluate as scores

    size = model.about["domains"][name]
    queries = histories.queries(part, most=model.history)
    rows = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:users].sort().values
    queries = Queries(queries.histories[rows], queries.targets[rows], queries.users[rows])
    with StepBar(f"ranking {name}", "users") as bar:
        only = model.within(torch.arange(start, start + size))
        ranked = scores(WithBar(only, bar), queries, model.table.groups, exclude_seen=exclude_seen)
    # The baselines know only this domain, whose items are numbered from 0.
    training = replace(histories, items=histories.items - start).training()
    earlier = (queries.histories - start).where(queries.histories >= 0, -1)
    shifted = Queries(earlier, queries.targets - start, queries.users)
    groups = None if model.table.groups is None else model.table.groups[start : start + size]
    baselines = _baselines(training, size)
    runs = {
        kind: [scores(baseline, shifted, groups, exclude_seen=exclude_seen)] for kind, baseline in baselines.items()
    }
    return Evaluation(name, {str(model.about.get("model", model.kind)): [ranked], **runs}, list(baselines))


def _baselines(training: Histories, size: int) -> dict[str, Recommender]:
    from unitok.recommender import MarkovChain, Popularity

    return {"popularity": Popularity(training, size), "Markov chain": MarkovChain(training, size)}
