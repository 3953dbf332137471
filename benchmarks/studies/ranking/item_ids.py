"""The IDs that the study compares; tokenizers that are missing are fitted, on all domains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.studies.experiments import DEFAULT, RUNS, fit, seeded, stem, tensor
from unitok import SemanticIds, Tokenizer
from unitok.data import Domain, behaviour, find_domains, read_catalogue, read_interactions
from unitok.data.folder import INTERACTIONS
from unitok.recommender import Histories
from unitok.storage.pair import SETTINGS
from unitok.storage.whole import whole_file
from unitok.training.trainer import CHECKPOINT
from unitok_kernels import kmeans

UNITOK, BEHAVIOUR, SINGLE = "UniTok IDs", "UniTok IDs with behaviour", "single-codebook IDs"
KMEANS, RANDOM = "residual k-means IDs", "random IDs"
FITTED = {UNITOK: DEFAULT, SINGLE: "single codebook"}  # and their runs in experiments.py
PUBLISHED = {"published UniTok IDs": "published_tokens", "published LETTER IDs": "published_tokens_letter"}
EPOCHS, LEVELS, CODEWORDS = 20, 4, 256  # of tokenizers, and of residual k-means


@dataclass(frozen=True)
class Places:
    """Where things are: the catalogue, the finished runs, the tokenizers, and the settings that were chosen."""

    data: Path
    work: Path
    tokenizers: Path
    settings: Path


@dataclass(frozen=True)
class Users:
    """A domain's users and items.

    Attributes:
        domain: its items.
        content: (N, D) float32, their embeddings.
        histories: of its users, whole.
    """

    domain: Domain
    content: Tensor
    histories: Histories

    @classmethod
    def of(cls, name: str, data: Path) -> Users:
        """Read a domain of a catalogue."""
        folder = find_domains(data)[name]
        domain = read_catalogue(folder)[name]
        return cls(domain, tensor(domain.embeddings), Histories.of(read_interactions(folder), len(domain.keys)))

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.domain.keys)


def experiment(name: str) -> str | None:
    """Return the run of experiments.py whose tokenizer makes the IDs, or None."""
    return FITTED.get(name, name if name in RUNS else None)


def prepare(name: str, seed: int, places: Places) -> None:
    """Make what the IDs of all domains have in common, unless it is there."""
    if name == KMEANS:
        residual_kmeans(seed, places)
    elif name not in PUBLISHED:
        tokenizer(UNITOK if name == RANDOM else name, seed, places)


def tokenizer(name: str, seed: int, places: Places) -> Tokenizer:
    """Load a tokenizer of all domains; if it is missing, fit it, where experiments.py would."""
    domains = read_catalogue(places.data)
    items = {key: tensor(domain.embeddings) for key, domain in domains.items()}
    if name != BEHAVIOUR:
        key = experiment(name) or name
        run = seeded(RUNS[key], seed, EPOCHS)
        return fit(run, items, places.tokenizers / stem(key, run))[next(iter(items))]
    folder = places.tokenizers / f"behaviour-{EPOCHS}-{seed}"
    if (folder / SETTINGS).exists():
        return Tokenizer.from_pretrained(folder)
    found = {}
    for key, path in find_domains(places.data).items():
        if (path / INTERACTIONS).exists():
            found[key] = behaviour(Users.of(key, places.data).histories, len(items[key]))
    config = seeded(RUNS[DEFAULT], seed, EPOCHS).config
    fitted = Tokenizer.fit(items, config, views={"behaviour": found}, directory=folder)
    for key, vectors in found.items():
        fitted.remember(domains[key], {"behaviour": vectors}, key)
    fitted.save_pretrained(folder)
    (folder / CHECKPOINT).unlink()
    return fitted


def semantic_ids(name: str, users: Users, seed: int, places: Places) -> SemanticIds:
    """Return the IDs of a domain's items: ours with a suffix if some collide, published ones as they are."""
    domain = users.domain
    if name in PUBLISHED:
        return published(find_domains(places.data)[domain.name] / f"{PUBLISHED[name]}.parquet")
    if name == RANDOM:
        mixed = torch.randperm(users.num_items, generator=torch.Generator().manual_seed(seed))
        return semantic_ids(UNITOK, users, seed, places)[mixed]
    if name == KMEANS:
        sizes = {key: len(each.keys) for key, each in read_catalogue(places.data).items()}
        own = residual_kmeans(seed, places).split(list(sizes.values()))[list(sizes).index(domain.name)]
        return SemanticIds(own, torch.zeros(len(own), 1, dtype=torch.int64), CODEWORDS, 1).assign(domain.keys)
    fitted = tokenizer(name, seed, places)
    views = fitted.recall(domain) if name == BEHAVIOUR else None
    return fitted.tokenize(users.content, domain.name, views=views).assign(domain.keys)


def residual_kmeans(seed: int, places: Places) -> Tensor:
    """Cluster the embeddings of all domains, then what the clusters' centres leave of them: (items of all, LEVELS)."""
    file = places.tokenizers / f"{KMEANS.replace(' ', '_')}-{seed}.npy"
    if file.exists():
        return torch.from_numpy(np.load(file))
    left = torch.cat([tensor(domain.embeddings) for domain in read_catalogue(places.data).values()])
    codes = []
    for level in range(LEVELS):
        codebook, code = kmeans(left, CODEWORDS, iterations=20, seed=seed * LEVELS + level)
        left = left - codebook[code]
        codes.append(code)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial:
        np.save(partial, torch.stack(codes, 1).numpy())
    return torch.stack(codes, 1)


def published(file: Path) -> SemanticIds:
    """Read the IDs that others published for the same items."""
    table = pq.read_table(file)
    columns = [torch.from_numpy(table[c].to_numpy().copy()).long() for c in ("t0", "t1", "t2", "t3", "expert")]
    codes, experts = torch.stack(columns[:4], 1), columns[4].clamp(min=0)[:, None]  # -1 if there are no experts
    return SemanticIds(codes, experts, int(codes.max()) + 1, int(experts.max()) + 1)
