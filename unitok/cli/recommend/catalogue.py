"""What the commands of `unitok recommend` share: the items and histories of all domains, and a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unitok.cli.terminal import Refusal, StepBar

if TYPE_CHECKING:
    from torch import Tensor

    from unitok import SemanticIds
    from unitok.data import Domain
    from unitok.recommender import Histories, SequenceRecommender

_QUERIES_AT_ONCE = 512


def quiet() -> None:
    """Silence transformers' own progress bars and advice."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load(folder: Path, device: str) -> SequenceRecommender:
    """Load a recommender that `unitok recommend train` saved."""
    from unitok.recommender import SequenceRecommender

    quiet()
    check_device(device)
    recommender = SequenceRecommender.from_pretrained(folder, device)
    sizes, items = recommender.about.get("domains"), len(recommender.table)
    counts = list(sizes.values()) if isinstance(sizes, dict) else []
    if not counts or not all(type(count) is int and count > 0 for count in counts) or sum(counts) != items:
        step = "Train it with `unitok recommend train`."
        rule = f"the recommender must name the domains of its {items} items"
        raise Refusal(f"{folder}: {rule}, got {'none' if not counts else sizes}. {step}")
    return recommender


def check_device(name: str) -> None:
    """Refuse a device that isn't there."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise Refusal(f"--device: must be one that torch can use here, got {name!r}. Use cpu.") from error


def first_rows(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return each domain's first row: the items of all domains are numbered as one, in the order of the domains."""
    starts, total = {}, 0
    for name, size in sizes.items():
        starts[name] = total
        total += size
    return starts


def read_histories(data: Path, sizes: Mapping[str, int]) -> dict[str, Histories]:
    """Read the histories of a catalogue's domains, with the items of all domains numbered as one.

    Args:
        data: the catalogue, or one domain's folder.
        sizes: how many items each domain must have.

    Returns:
        Each domain's histories.
    """
    from dataclasses import replace

    from unitok.data import find_domains, read_interactions
    from unitok.data.files import open_embeddings
    from unitok.data.folder import EMBEDDINGS
    from unitok.recommender import Histories
    from unitok.storage.whole import current

    folders, starts, found = find_domains(data), first_rows(sizes), {}
    if missing := [name for name in sizes if name not in folders]:
        there = ", ".join(folders) or "none"
        raise Refusal(f"{data}: the catalogue must hold the domain {missing[0]}, got {there}. Check the path.")
    for name, size in sizes.items():
        if (got := len(open_embeddings(current(folders[name]) / EMBEDDINGS))) != size:
            raise Refusal(f"{folders[name]}: items must be the {size} that were trained on, got {got}. Train again.")
        histories = Histories.of(read_interactions(folders[name]), size)
        found[name] = replace(histories, items=histories.items + starts[name])
    return found


def join(parts: Mapping[str, Histories]) -> Histories:
    """Put the users of all domains into one, numbered anew; a user of two domains counts as two users."""
    import torch

    from unitok.recommender import Histories

    lengths = torch.cat([part.lengths for part in parts.values()])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Histories(offsets, torch.cat([part.items for part in parts.values()]), torch.arange(len(lengths)))


def read_ids(path: Path, data: Path, parts: Mapping[str, Domain]) -> SemanticIds:
    """Return the IDs of a catalogue's items: from a tokenizer's folder, or from a file of `unitok tokenize`."""
    if path.is_dir():
        from unitok import Tokenizer
        from unitok.cli.inputs import check_fits, say_routed
        from unitok.cli.tokenizer.tokenize import resolve, tokenize_parts

        tokenizer = Tokenizer.from_pretrained(path)
        check_fits(tokenizer, data, parts)
        say_routed(tokenizer, parts)
        return resolve(parts, tokenize_parts(tokenizer, parts), "suffix").ids
    from unitok.cli.inputs import sources_of
    from unitok.ids.table import IdTable, item_keys

    table = IdTable.read(path).renumbered(sources_of(parts))  # an import since may have numbered them otherwise
    row_of = {key: row for row, key in enumerate(table.keys)}
    keys = [key for name, part in parts.items() for key in item_keys([name] * len(part.keys), part.keys.tolist())]
    if missing := next((key for key in keys if key not in row_of), None):
        step = "Tokenize the whole catalogue, or name --domains"
        raise Refusal(f"{path}: the file must have an ID for every item, got none for {missing}. {step}.")
    return table.ids[[row_of[key] for key in keys]]


class WithBar:
    """A recommender that advances a progress bar while it ranks.

    Args:
        recommender: what ranks.
        bar: counts queries.
    """

    def __init__(self, recommender: Any, bar: StepBar) -> None:
        self.recommender, self.bar = recommender, bar

    @property
    def names(self) -> Tensor:
        """The name of each item."""
        return self.recommender.names

    def rank(self, histories: Tensor, k: int, *, exclude_seen: bool = True) -> Tensor:
        """Rank in blocks of queries, those of similar length together."""
        import torch

        ranked, done = torch.full((len(histories), k), -1), 0
        for rows in (histories >= 0).sum(1).argsort(stable=True).split(_QUERIES_AT_ONCE):
            ranked[rows] = self.recommender.rank(histories[rows], k, exclude_seen=exclude_seen)
            done += len(rows)
            self.bar(done, len(histories))
        return ranked
