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
    from pathlib import Path

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
    published ones. Four baselines are evaluated on the same users: popularity, a Markov chain, item-kNN, and a Markov
    chain with the items' content, whose weight is the best on validation.

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
        _evaluate_domain(model, name, data, histories[name], start, part, users, not include_seen)
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
    data: Path,
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
    own = replace(histories, items=histories.items - start)
    earlier = (queries.histories - start).where(queries.histories >= 0, -1)
    shifted = Queries(earlier, queries.targets - start, queries.users)
    groups = None if model.table.groups is None else model.table.groups[start : start + size]
    baselines = _baselines(own, data, name, size, model.history, exclude_seen)
    runs = {
        kind: [scores(baseline, shifted, groups, exclude_seen=exclude_seen)] for kind, baseline in baselines.items()
    }
    return Evaluation(name, {str(model.about.get("model", model.kind)): [ranked], **runs}, list(baselines))


def _baselines(
    histories: Histories, data: Path, name: str, size: int, most: int, exclude_seen: bool
) -> dict[str, Recommender]:
    import torch

    from unitok.data import find_domains
    from unitok.data.files import open_embeddings
    from unitok.data.folder import EMBEDDINGS
    from unitok.recommender import ItemKNN, MarkovChain, Popularity, fit_markov_content
    from unitok.storage.whole import current

    training = histories.training()
    embeddings = torch.tensor(open_embeddings(current(find_domains(data)[name]) / EMBEDDINGS), dtype=torch.float32)
    return {
        "popularity": Popularity(training, size),
        "Markov chain": MarkovChain(training, size),
        "item-kNN": ItemKNN(training, size),
        "Markov + content": fit_markov_content(histories, size, embeddings, most=most, exclude_seen=exclude_seen),
    }
