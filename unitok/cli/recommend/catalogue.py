"""What the commands of `unitok recommend` share: items, histories and splits of all domains, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unitok.cli.terminal import Refusal, StepBar

if TYPE_CHECKING:
    from torch import Tensor

    from unitok import SemanticIds
    from unitok.data import Domain
    from unitok.recommender import Histories, Queries, SequenceRecommender
    from unitok.recommender.evaluation.splits import Split

LEAVE_ONE_OUT = {"kind": "leave-one-out"}  # as every release split that didn't say how
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


@contextmanager
def of_one_moment(data: Path) -> Iterator[None]:
    """Refuse a catalogue that was replaced while its files were read: its items may be numbered otherwise now."""
    from unitok.data import find_domains
    from unitok.data.folder import EMBEDDINGS, INTERACTIONS, ITEMS
    from unitok.storage.whole import stamps

    def marks() -> list[object]:
        folders = find_domains(data).values()
        return [(folder, stamps(folder, (EMBEDDINGS, INTERACTIONS, ITEMS))) for folder in folders]

    before = marks()
    yield
    if marks() != before:
        rule = "the catalogue must stay as it is while it is read, got one that was replaced meanwhile"
        raise Refusal(f"{data}: {rule}. Run the command again.")


def read_embeddings(data: Path, name: str) -> Tensor:
    """Read the embeddings of a domain's items, (N, D) float32."""
    import torch

    from unitok.data import find_domains
    from unitok.data.files import open_embeddings
    from unitok.data.folder import EMBEDDINGS
    from unitok.storage.whole import current

    return torch.tensor(open_embeddings(current(find_domains(data)[name]) / EMBEDDINGS), dtype=torch.float32)


def join(parts: Mapping[str, Histories]) -> Histories:
    """Put the users of all domains into one, numbered anew; a user of two domains counts as two users."""
    import torch

    from unitok.recommender import Histories

    lengths = torch.cat([part.lengths for part in parts.values()])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Histories(offsets, torch.cat([part.items for part in parts.values()]), torch.arange(len(lengths)))


def make_split(
    how: object, data: Path, histories: Mapping[str, Histories], sizes: Mapping[str, int], most: int
) -> Split:
    """Split the histories of all domains as one.

    Args:
        how: the kind of the split, and the settings that its maker had; those that are missing are the default.
        data: the catalogue, which times are read of.
        histories: each domain's, as `read_histories` gives them.
        sizes: how many items each domain has.
        most: the number of latest items that are kept of a query's history.

    Returns:
        The split.
    """
    from unitok.recommender.evaluation.splits import SPLITS, Split

    kind = how.get("kind") if isinstance(how, dict) else None
    if not isinstance(how, dict) or kind not in SPLITS:
        raise Refusal(f"the split must be one of {', '.join(SPLITS)}, got {how!r}. Train the recommender again.")
    settings, whole = {name: value for name, value in how.items() if name != "kind"}, join(histories)
    try:
        if kind == "cold":
            return Split.cold_items(whole, sum(sizes.values()), **settings, most=most)
        if kind == "time":
            return Split.by_time(whole, _read_times(data, sizes), **settings, most=most)
        return Split.leave_one_out(whole, most=most)
    except TypeError as error:  # settings that no release wrote
        raise Refusal(f"the settings of the split must be those of {kind}, got {settings}. Train again.") from error


def of_domain(split: Split, first: int, users: int, start: int) -> Split:
    """Take the part of a split that is of one domain.

    Args:
        split: of all domains as one.
        first: the domain's first user.
        users: how many users it has.
        start: its first item.

    Returns:
        The split of the domain's users, whose items and users are numbered from 0.
    """
    from dataclasses import replace

    from unitok.recommender import Histories
    from unitok.recommender.evaluation.splits import Split

    whole = split.training
    offsets = whole.offsets[first : first + users + 1]
    items = whole.items[offsets[0] : offsets[-1]] - start
    training = Histories(offsets - offsets[0], items, whole.user_ids[first : first + users])

    def own(asked: Queries) -> Queries:
        mine = shifted(asked[(asked.users >= first) & (asked.users < first + users)], -start)
        return replace(mine, users=mine.users - first)

    return Split(training, own(split.validation), own(split.test), split.how)


def shifted(queries: Queries, by: int) -> Queries:
    """Number the items of queries otherwise, by adding to their numbers."""
    from dataclasses import replace

    histories = (queries.histories + by).where(queries.histories >= 0, -1)
    return replace(queries, histories=histories, targets=queries.targets + by)


def _read_times(data: Path, sizes: Mapping[str, int]) -> Tensor:
    """Read when each item of the histories was met, for all domains in their order."""
    import torch

    from unitok.data import find_domains, read_interactions

    folders, times = find_domains(data), []
    for name in sizes:
        if (found := read_interactions(folders[name]).timestamps) is None:
            step = "Import the domain from a source with times, or choose another --split."
            raise Refusal(
                f"{folders[name]}: the interactions must have timestamps for a split by time, got none. {step}"
            )
        times.append(torch.from_numpy(found).double())
    return torch.cat(times)


def said(how: Mapping[str, Any]) -> str:
    """Say how the histories were split, in a line."""
    if how["kind"] == "cold":
        return f"Split: cold. {how['share']:.0%} of the items were left out of training (seed {how['seed']})."
    if how["kind"] == "time":
        import numpy as np

        first, second = (f"{np.datetime64(int(point), 's')}Z" for point in how["points"])
        return f"Split: time. Training is what was before {first}, validation before {second}."
    return "Split: leave-one-out. The last item of each user is the test, the last but one is validation."


def read_ids(path: Path, data: Path, parts: Mapping[str, Domain], split: Split | None = None) -> SemanticIds:
    """Return the IDs of a catalogue's items: from a tokenizer's folder, or from a file of `unitok tokenize`.

    A tokenizer with views of what users did knows all but their last two items, which a `split` may keep back.
    """
    if path.is_dir():
        from unitok import Tokenizer
        from unitok.cli.inputs import check_fits, say_routed
        from unitok.cli.tokenizer.tokenize import resolve, tokenize_parts

        tokenizer = Tokenizer.from_pretrained(path)
        check_fits(tokenizer, data, parts)
        if (
            split is not None
            and split.how != LEAVE_ONE_OUT
            and (viewed := tokenizer.model.viewed.keys() & parts.keys())
        ):
            rule = f"the tokenizer must know nothing of what the split {split.how['kind']} keeps back"
            step = "Take one that was fitted without --behaviour."
            raise Refusal(f"{path}: {rule}, got one with views of {min(viewed)}. {step}")
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
