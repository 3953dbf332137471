"""`unitok ids inspect`: judge IDs before a recommender is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unitok.cli.inputs import split_names
from unitok.cli.options import Items, Json, domain_names
from unitok.cli.terminal import console, print_json


def inspect(
    ids: Annotated[
        Path, typer.Argument(metavar="IDS", help="A table of IDs, or a tokenizer's folder.", show_default=False)
    ],
    data: Items,
    domains: Annotated[str | None, domain_names("Look at these domains only.")] = None,
    as_json: Json = False,
) -> None:
    """Judge IDs before any recommender is trained on them: what their prefixes tell of content and of behaviour.

    prefixes: distinct experts and first codes. bits: what each further code adds, at most log2 of the codebook's size;
    the first is expert and code. cosine: how alike two items with equal prefixes are, 0 being as any two. transitions
    within: how often a user's next five items have the prefix of the item before them; by chance: if users chose any
    item as often as all do; lift: the first divided by the second. Each user's last two items are left out, as they are
    for validation and test. Domains without interactions are judged by content alone.

    For example:

        unitok ids inspect ids.parquet catalogue
        unitok ids inspect runs/first catalogue --domains beauty --json
    """
    import torch

    from unitok.cli.recommend.catalogue import of_one_moment, read_ids
    from unitok.data import find_domains, read_catalogue, read_interactions
    from unitok.data.folder import INTERACTIONS
    from unitok.evaluation.id_probes import probe
    from unitok.recommender import Histories
    from unitok.storage.whole import current

    with of_one_moment(data):
        parts = read_catalogue(data, split_names(domains))
        every, folders, found, first = read_ids(ids, data, parts), find_domains(data), {}, 0
        for name, part in parts.items():
            own = every[first : first + len(part.keys)]
            first += len(part.keys)
            histories = None
            if (current(folders[name]) / INTERACTIONS).exists():
                histories = Histories.of(read_interactions(folders[name]), len(part.keys))
            found[name] = probe(own, torch.tensor(part.embeddings, dtype=torch.float32), histories)
    if as_json:
        print_json({name: probes.to_dict() for name, probes in found.items()})
        return
    for name, probes in found.items():
        console().print(probes.to_table(name))
