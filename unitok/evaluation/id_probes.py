"""Judge IDs before any recommender is trained on them: what their prefixes tell of content and of behaviour."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unitok.data.transitions import Split
from unitok.ids.semantic_ids import SemanticIds
from unitok_kernels import checks
from unitok_kernels.rules import fail, typed

if TYPE_CHECKING:
    from rich.table import Table

_REACH = 5  # places that a transition spans at most
THIRDS = ("most met", "middle", "least met")


@dataclass(frozen=True)
class LevelProbe:
    """What the prefix of an ID tells, up to a level: the expert and the codes c_1 .. c_l.

    Attributes:
        prefixes: number of distinct prefixes.
        bits: entropy of the level's code given the prefix before it; the first level's is that of expert and code.
        cosine: mean cosine of the centred embeddings of two items with equal prefixes; NaN if no two have.
        together: share of the transitions that stay within a prefix; NaN without transitions.
        chance: the same, if where a transition begins and where it ends had nothing to do with each other.
    """

    prefixes: int
    bits: float
    cosine: float
    together: float
    chance: float

    @property
    def lift(self) -> float:
        """How many times as often as by chance transitions stay within a prefix; NaN without any by chance."""
        return self.together / self.chance if self.chance else float("nan")


@dataclass(frozen=True)
class IdProbes:
    """What `probe` found.

    Attributes:
        items: N.
        transitions: number of transitions in training.
        levels: one per level.
        shared: share of the items whose expert and codes are another item's, too, before any suffix: by thirds of the
            items, from those that users met most to those that they met least; None without transitions.
    """

    items: int
    transitions: int
    levels: tuple[LevelProbe, ...]
    shared: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; None replaces NaN."""
        levels = [asdict(level) | {"lift": level.lift} for level in self.levels]
        plain = [{name: None if value != value else value for name, value in level.items()} for level in levels]
        return {"items": self.items, "transitions": self.transitions, "levels": plain, "shared": self.shared}

    def to_table(self, title: str = "What prefixes tell") -> Table:
        """Make a table for the terminal."""
        from rich.table import Table
        from rich.text import Text

        below = f"{self.items:,} items, {self.transitions:,} transitions."
        if self.shared is not None:
            parts = ", ".join(f"{name} third {share:.2%}" for name, share in self.shared.items())
            below += f" Items whose codes are another's, too: {parts}."
        table = Table(
            title=Text(title, style="table.title"), title_justify="left", caption=below, caption_justify="left"
        )
        for head in ("codes", "prefixes", "bits", "cosine", "transitions within", "by chance", "lift"):
            table.add_column(head, justify="right")
        for number, level in enumerate(self.levels, 1):
            shares = [f"{value:.2%}" if value == value else "" for value in (level.together, level.chance)]
            cosine = "" if level.cosine != level.cosine else f"{level.cosine:.3f}"
            lift = "" if level.lift != level.lift else f"{level.lift:.1f}"
            table.add_row(f"first {number}", f"{level.prefixes:,}", f"{level.bits:.2f}", cosine, *shares, lift)
        return table


def probe(ids: SemanticIds, embeddings: Tensor, histories: Split | None = None) -> IdProbes:
    """Judge the IDs of one domain's items.

    A good ID goes from coarse to fine: with every level fewer items share a prefix, these are more alike, and users
    stay within a prefix far more often than chance has it. Nothing is trained.

    Args:
        ids: of N items.
        embeddings: (N, D) floating point, what the items are like.
        histories: the items of the domain's users, whole, such as `unitok.recommender.Histories.of` gives them. Only
            `histories.training()` counts: transitions from an item to one of the next 5. None: content alone.

    Returns:
        IdProbes: level by level.

    Raises:
        TypeError: IDs or embeddings of another type.
        ValueError: other numbers of items, embeddings that aren't finite, or a row without an ID.

    Source: the questions are those of SIDInspector, arXiv 2606.10375; the figures are defined here.
    """
    typed("probe", "ids", ids, (SemanticIds,), "SemanticIds")
    checks.tensors("probe", embeddings=embeddings)
    if embeddings.ndim != 2 or len(embeddings) != len(ids) or not embeddings.is_floating_point():
        got = f"{embeddings.dtype} of shape {tuple(embeddings.shape)}"
        fail("probe", "embeddings", f"({len(ids)}, D) floating point", got, "Pass one row per ID.")
    if not bool(embeddings.isfinite().all()):
        fail("probe", "embeddings", "finite", "NaN or infinity", "Embed those items again.")
    ids.check_encoded("probe")
    kept = None if histories is None else histories.training()
    if kept is not None and len(kept.items) and int(kept.items.max()) >= len(ids):
        step = "Pass the IDs of all items of the domain."
        fail("probe", "histories", f"of {len(ids)} items", f"item {int(kept.items.max())}", step)
    source, target = (torch.zeros(0, dtype=torch.int64),) * 2 if kept is None else _pairs(kept)
    content = F.normalize(embeddings.detach().cpu().double() - embeddings.detach().cpu().double().mean(0), dim=1)
    numbers = torch.cat([ids.experts[:, :1], ids.codes], 1)
    levels, group, before = [], torch.zeros(len(ids), dtype=torch.int64), 0.0
    for level in range(ids.codes.shape[1]):
        group = numbers[:, : level + 2].unique(dim=0, return_inverse=True)[1]
        found = _level(group, content, source, target, before)
        before += found.bits
        levels.append(found)
    shared = None
    if kept is not None and len(source):
        alike = (torch.bincount(group)[group] > 1).double()
        order = torch.bincount(kept.items, minlength=len(ids)).argsort(descending=True, stable=True)
        parts = alike[order].tensor_split(len(THIRDS))
        shared = {name: float(part.mean()) for name, part in zip(THIRDS, parts, strict=True) if len(part)}
    return IdProbes(len(ids), len(source), tuple(levels), shared)


def _pairs(histories: Split) -> tuple[Tensor, Tensor]:
    """The transitions between different items: from, to."""
    user = torch.arange(len(histories.offsets) - 1).repeat_interleave(histories.offsets.diff())
    pairs = [torch.zeros(2, 0, dtype=torch.int64)]
    for span in range(1, min(_REACH, len(user) - 1) + 1):
        a, b = histories.items[:-span], histories.items[span:]
        pairs.append(torch.stack([a, b])[:, (user[span:] == user[:-span]) & (a != b)])
    source, target = torch.cat(pairs, 1)
    return source, target


def _level(group: Tensor, content: Tensor, source: Tensor, target: Tensor, before: float) -> LevelProbe:
    count = torch.bincount(group).double()
    share = count / max(len(group), 1)
    bits = -float((share * share.clamp(min=1e-300).log2()).sum()) - before
    sums = torch.zeros(len(count), content.shape[1], dtype=torch.float64).index_add_(0, group, content)
    own = torch.zeros(len(count), dtype=torch.float64).index_add_(0, group, content.square().sum(1))
    pairs = float((count * (count - 1)).sum())
    cosine = float((sums.square().sum(1) - own).sum()) / pairs if pairs else float("nan")
    together = chance = float("nan")
    if len(source):
        together = float((group[source] == group[target]).double().mean())
        begins, ends = (torch.bincount(end, minlength=len(group)).double() / len(source) for end in (source, target))
        by_group = [torch.zeros(len(count), dtype=torch.float64).index_add_(0, group, end) for end in (begins, ends)]
        itself = float(begins @ ends)  # an item isn't followed by itself
        chance = (float(by_group[0] @ by_group[1]) - itself) / (1 - itself)
    return LevelProbe(len(count), max(bits, 0.0), cosine, together, chance)
