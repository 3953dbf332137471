"""`unitok recommend evaluate`: how often the next item is found, by item and by token, and by simple baselines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.options import Beam, Device, IncludeSeen, Items, Json, RecommenderFolder, choice
from unitok.cli.recommend.catalogue import (
    LEAVE_ONE_OUT,
    WithBar,
    first_rows,
    load,
    make_split,
    of_domain,
    of_one_moment,
    read_embeddings,
    read_histories,
    said,
    shifted,
)
from unitok.cli.terminal import StepBar, console, print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from unitok.recommender import Evaluation, Queries, Recommender, SequenceRecommender
    from unitok.recommender.evaluation.splits import Split


def evaluate(
    recommender: RecommenderFolder,
    data: Items,
    part: Annotated[
        str, choice("Which queries are asked: those for test, or those that training stopped by.", "test", "validation")
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

    The targets are those of the split that the model was trained with: the last item of a user (for validation the last
    but one), or by time the first item after training. If it was trained with --split cold or time, targets that no
    training history holds are also shown apart, and a ranking by content alone is one of the baselines.

    For example:

        unitok recommend evaluate runs/recommender catalogue
        unitok recommend evaluate runs/recommender catalogue --users 1000 --beam 20 --json
    """
    began = time.perf_counter()
    model = load(recommender, device)
    model.beam = beam or model.beam
    sizes, how = model.about["domains"], model.about.get("split", LEAVE_ONE_OUT)
    with of_one_moment(data):
        histories = read_histories(data, sizes)
        split = make_split(how, data, histories, sizes, model.history)
        found, first = [], 0
        for name, start in first_rows(sizes).items():
            own = of_domain(split, first, len(histories[name]), start)
            first += len(histories[name])
            asked = _drawn(own.test if part == "test" else own.validation, users)
            if not len(asked):  # by time: nobody there has an item before the point and one after it
                say(f"{name}: no user has a target in this split")
                continue
            baselines = _baselines(own, sizes[name], read_embeddings(data, name), not include_seen)
            found.append(_evaluate_domain(model, name, start, asked, baselines, not include_seen))
    if as_json:
        seconds = round(time.perf_counter() - began, 3)
        domains = [each.to_dict() for each in found]
        told = {"part": part, "split": split.how, "exclude_seen": not include_seen}
        print_json({**told, "seconds": seconds, "domains": domains})
        return
    if split.how != LEAVE_ONE_OUT:
        console().print(said(split.how), markup=False, soft_wrap=True)
    for each in found:
        console().print(each.to_table())


def _evaluate_domain(
    model: SequenceRecommender,
    name: str,
    start: int,
    asked: Queries,
    baselines: Mapping[str, Recommender],
    exclude_seen: bool,
) -> Evaluation:
    """Evaluate the model and the baselines on one domain, whose items are rows start .. start + size of the model's."""
    import torch

    from unitok.recommender import Evaluation
    from unitok.recommender import evaluate as scores

    size = model.about["domains"][name]
    with StepBar(f"ranking {name}", "users") as bar:
        only = model.within(torch.arange(start, start + size))
        ranked = scores(WithBar(only, bar), shifted(asked, start), model.table.groups, exclude_seen=exclude_seen)
    # The baselines know only this domain, whose items are numbered from 0.
    groups = None if model.table.groups is None else model.table.groups[start : start + size]
    runs = {kind: [scores(baseline, asked, groups, exclude_seen=exclude_seen)] for kind, baseline in baselines.items()}
    return Evaluation(name, {str(model.about.get("model", model.kind)): [ranked], **runs}, list(baselines))


def _baselines(split: Split, size: int, embeddings: Tensor, exclude_seen: bool) -> dict[str, Recommender]:
    """Make the baselines of one domain's split; content alone where targets may be cold."""
    from unitok.recommender import Histories, ItemKNN, MarkovChain, MarkovContent, Popularity, fit_markov_content

    training = split.training
    found: dict[str, Recommender] = {
        "popularity": Popularity(training, size),
        "Markov chain": MarkovChain(training, size),
        "item-kNN": ItemKNN(training, size),
        "Markov + content": fit_markov_content(split, size, embeddings, exclude_seen=exclude_seen),
    }
    if split.validation.cold is not None:  # a chain of no histories leads nowhere
        found["content"] = MarkovContent(Histories.from_lists([]), size, embeddings, weight=1.0)
    return found


def _drawn(queries: Queries, users: int | None) -> Queries:
    """Draw some of the queries at random, always the same; None takes all."""
    import torch

    return queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:users].sort().values]
