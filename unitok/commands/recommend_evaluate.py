"""`unitok recommend evaluate`: how often the next item is found, by item and by token, beside simple baselines."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from unitok.commands.options import Items, Json, choice
from unitok.commands.recommending import Device, RecommenderFolder, WithBar, first_rows, load, read_histories
from unitok.commands.terminal import StepBar, console, print_json


def evaluate(
    recommender: RecommenderFolder,
    data: Items,
    part: Annotated[str, choice("Which item is asked for: the last, or the last but one.", "test", "validation")] = (
        "test"
    ),
    users: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask for this many users of each domain.", show_default="all")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Prefixes that the search keeps.", show_default="as trained")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Rank a domain's whole catalogue for each of its users, and see where the item is that came next.

    Figures by item count an item as found when it is named. Those by token count any item of its ID as well, and are
    there for comparison with published ones alone. Popularity and a Markov chain of the same histories stand beside.

    For example:

        unitok recommend evaluate runs/recommender catalogue
        unitok recommend evaluate runs/recommender catalogue --users 1000 --beam 20 --json
    """
    from dataclasses import replace

    import torch

    from unitok.recommender import Evaluation, MarkovChain, Popularity, Queries, Recommender
    from unitok.recommender import evaluate as scores

    began = time.perf_counter()
    model = load(recommender, device)
    model.beam = beam or model.beam
    sizes = model.about["domains"]
    found = []
    for name, histories in read_histories(data, sizes).items():
        start, size = first_rows(sizes)[name], sizes[name]
        queries = histories.queries(part, most=model.history)
        rows = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:users].sort().values
        queries = Queries(queries.histories[rows], queries.targets[rows], queries.users[rows])
        own = range(start, start + size)
        with StepBar(f"ranking {name}", "users") as bar:
            ranked = scores(WithBar(model.within(torch.tensor(own)), bar), queries, model.table.groups)
        training = replace(histories, items=histories.items - start).training()
        shifted = Queries(
            (queries.histories - start).where(queries.histories >= 0, -1), queries.targets - start, queries.users
        )
        simple: dict[str, Recommender] = {
            "popularity": Popularity(training, size),
            "Markov chain": MarkovChain(training, size),
        }
        groups = None if model.table.groups is None else model.table.groups[start : start + size]
        runs = {kind: [scores(baseline, shifted, groups)] for kind, baseline in simple.items()}
        found.append(Evaluation(name, {model.about["model"]: [ranked], **runs}, list(simple)))
    if as_json:
        seconds = round(time.perf_counter() - began, 3)
        print_json({"part": part, "seconds": seconds, "domains": [each.to_dict() for each in found]})
        return
    for each in found:
        console().print(each.to_table())
