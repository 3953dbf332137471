"""One recommender over several catalogues, beside one for each: does one gain from the users of the others?

python -m benchmarks.studies.ranking.joint CATALOGUE_FOLDER

The items of all catalogues are one catalogue, whose IDs a tokenizer of all domains wrote; every user stays in their own
catalogue. It ranks a user's next item among those of that catalogue, as the recommender of the catalogue alone does: a
run of `recommendation`, which must be there. Finished runs are kept under --work. The table of
docs/results/one-recommender.md is made by every run; the text around it is written by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.experiments import origin
from benchmarks.studies.pages import FOLDER, write
from benchmarks.studies.ranking.item_ids import UNITOK, Places, Users, tokenizer
from benchmarks.studies.ranking.page import difference, grid, origin_lines
from benchmarks.studies.ranking.recommendation import Run, figures, study_parser
from benchmarks.studies.ranking.settings import HybridSetting, chosen
from unitok import SemanticIds
from unitok.data import find_domains
from unitok.recommender import Evaluation, Histories, Queries, Scores, TokenTable, evaluate
from unitok.recommender import fit as train
from unitok.recommender.evaluation.item_level import written
from unitok.storage.whole import whole_file

TOGETHER = ("office_products", "grocery_and_gourmet_food", "beauty", "toys_and_games")
JOINT, OWN = "one for all", "its own"


def main() -> None:
    """Run what is missing, then write the page."""
    parser = study_parser(__doc__)
    parser.add_argument("--domains", nargs="*", default=TOGETHER, help="the catalogues that share a recommender")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, default=FOLDER / "one-recommender.md")
    options = parser.parse_args()
    places = Places(options.data, options.work, options.tokenizers, options.settings)
    if unknown := set(options.domains) - set(known := find_domains(places.data)):
        raise SystemExit(f"--domains must be among {', '.join(known)}, got {', '.join(sorted(unknown))}.")
    os.nice(10)
    torch.set_num_threads(options.threads)
    runs = [finish(options.domains, seed, places) for seed in options.seeds]
    write(options.page, [*origin_lines([run["origin"] for run in runs]), "", *table(options.domains, runs, places)])
    print(options.page)


def finish(domains: Sequence[str], seed: int, places: Places) -> dict[str, Any]:
    """Train one recommender for all, and judge it in every catalogue, unless that was done before."""
    setting = chosen("hybrid", max(domains, key=lambda name: Users.of(name, places.data).num_items), places.settings)[0]
    assert isinstance(setting, HybridSetting)
    file = places.work / f"{'+'.join(domains)}-{seed}.json"
    said: dict[str, Any] = {"domains": list(domains), "seed": seed, "setting": asdict(setting)}
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if any(kept[name] != value for name, value in said.items()):
            raise SystemExit(f"{file} is of other settings. Delete it, or pass another --work.")
        return kept
    users = [Users.of(name, places.data) for name in domains]
    first = [sum(each.num_items for each in users[:number]) for number in range(len(users))]
    fitted = tokenizer(UNITOK, seed, places)
    ids = SemanticIds.concatenate([fitted.tokenize(each.content, each.domain.name) for each in users])
    keys = [f"{each.domain.name} {key}" for each in users for key in each.domain.keys]
    histories = together([each.histories for each in users], first)
    content = torch.cat([each.content for each in users])
    table = TokenTable.of(ids.assign(keys), by_expert=True)
    recommender = setting.recommender(table, histories, content, seed)
    began = time.perf_counter()
    history = train(recommender, histories, setting.training(seed), directory=file.with_suffix(""))
    said |= {"seconds": time.perf_counter() - began, "history": history, "items": len(table), "scores": {}}
    for each, begin in zip(users, first, strict=True):
        within = recommender.within(torch.arange(begin, begin + each.num_items))
        said["scores"][each.domain.name] = evaluate(within, moved(each.histories.queries("test"), begin)).to_dict()
    with whole_file(file) as partial:
        partial.write_text(json.dumps(said | {"origin": origin()}))
    shutil.rmtree(file.with_suffix(""))
    return said | {"origin": origin()}


def together(parts: Sequence[Histories], first: Sequence[int]) -> Histories:
    """Put users of several catalogues into one, whose items are numbered on."""
    lists = [(part.items + begin).split(part.lengths.tolist()) for part, begin in zip(parts, first, strict=True)]
    return Histories.from_lists([own.tolist() for each in lists for own in each])


def moved(queries: Queries, first: int) -> Queries:
    """Number a catalogue's items on from where they begin."""
    histories = (queries.histories + first).where(queries.histories >= 0, -1)
    return Queries(histories, queries.targets + first, queries.users)


def table(domains: Sequence[str], runs: Sequence[dict[str, Any]], places: Places) -> list[str]:
    """Compare, catalogue by catalogue, on the same seeds."""
    rows = []
    for name in domains:
        own = [figures(Run(name, UNITOK, run["seed"], None), places) for run in runs]
        pairs = [(run, kept) for run, kept in zip(runs, own, strict=True) if kept is not None]
        if not pairs:
            continue
        scores = {
            JOINT: [Scores.from_dict(run["scores"][name]) for run, _ in pairs],
            OWN: [Scores.from_dict(kept["scores"]["excluded"]) for _, kept in pairs],
        }
        found = Evaluation(name, scores, [OWN])
        cells = [written(*found.figures(which, metric)) for metric in ("recall", "ndcg") for which in (OWN, JOINT)]
        rows.append([name, str(len(pairs)), *cells, difference(found, JOINT, OWN)])
    head = ["catalogue", "seeds", "Recall@10, its own", "one for all", "NDCG@10, its own", "one for all", "difference"]
    minutes = ", ".join(f"{run['seconds'] / 60:.0f}" for run in runs)
    line = f"One for all: {runs[0]['items']:,} items, trained in {minutes} minutes."
    return [line, "", *grid(head, rows)]


if __name__ == "__main__":
    main()
