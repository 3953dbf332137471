"""One small folder of everything that is written, and how each file is read: what is loaded must be what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitok import EmbeddingInfo, Tokenizer, UniTokConfig, serving
from unitok.cli.app import app
from unitok.data import import_domain, read_domain, read_interactions, write_domain
from unitok.data.catalogue import Interactions
from unitok.data.files import read_items
from unitok.ids.table import IdTable
from unitok.recommender import Histories, SequenceRecommender, TrainingConfig, fit
from unitok.storage.checkpoint import load_checkpoint, read_progress
from unitok.storage.tensors import read_model
from unitok.training.trainer import Trainer, read_history

SIZES = {"num_levels": 2, "codebook_size": 8, "codebook_dim": 4, "encoder_widths": (8,), "batch_size": 32}


@dataclass(frozen=True)
class Sample:
    """A file, and how the folder that holds it is read.

    Attributes:
        file: in the folder of all samples.
        load: gives something that tells whether what was read is what was written.
        vouched: whether a digest stands for its content; if not, damage may change what is read, as of any text.
    """

    file: str
    load: Callable[[Path], Any]
    vouched: bool = True


def make(folder: Path) -> None:
    """Write everything once."""
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(40, 6, generator=generator) + shift for name, shift in (("books", 0.0), ("games", 1.0))}
    info = EmbeddingInfo("model", "{title}")
    for name, rows in x.items():
        events = Interactions(np.repeat(np.arange(8), 4), np.arange(32) % 40, np.tile(np.arange(4), 8), np.arange(32))
        items = {"title": [f"{name} {row}" for row in range(40)]}
        write_domain(folder / "catalogue" / name, rows.numpy(), items=items, interactions=events, embedding=info)
    tokenizer = Tokenizer.fit(x, UniTokConfig(epochs=2, **SIZES), embedding=info, directory=folder / "run")
    tokenizer.save_pretrained(folder / "tokenizer")
    app(
        ["tokenize", str(folder / "tokenizer"), str(folder / "catalogue"), "--out", str(folder / "ids.parquet")],
        standalone_mode=False,
    )
    table, fingerprint = IdTable.read(folder / "ids.parquet"), tokenizer.fingerprint()
    for ending in ("csv", "jsonl"):
        table.write(folder / f"ids.{ending}", fingerprint)
    recommender = _recommender()
    recommender.save_pretrained(folder / "recommender")
    histories = Histories(torch.arange(0, 45, 4), torch.arange(44) % 7, torch.arange(11))
    fit(recommender, histories, TrainingConfig(epochs=1), directory=folder / "training")
    _write_published(folder)


def _recommender() -> Any:
    from unitok.recommender import RQRecommender, TokenTable, gpt2_config

    return RQRecommender.create(TokenTable.items(7), gpt2_config(width=8, layers=1, heads=1))


def _write_published(folder: Path) -> None:
    """Small files of published formats, which have no digests."""
    lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)  # noqa: E731
    items, users = [f"B{row}" for row in range(6)], [f"u{row}" for row in range(5)]
    (folder / "meta.jsonl").write_text(
        lines({"parent_asin": name, "title": f"Title {name}", "categories": ["A"]} for name in items)
    )
    events = [(user, name, 1_600_000_000_123 + 7 * place) for user in users for place, name in enumerate(items)]
    (folder / "reviews.jsonl").write_text(lines({"user_id": u, "parent_asin": n, "timestamp": t} for u, n, t in events))
    (folder / "meta.txt").write_text("".join(f"{{'asin': '{name}', 'title': 'It\\'s {name}'}}\n" for name in items))
    (folder / "old.jsonl").write_text(
        lines({"reviewerID": u, "asin": n, "unixReviewTime": t // 1000} for u, n, t in events)
    )
    (folder / "x.item").write_text("item_id:token\ttitle:token\n" + "".join(f'{n}\t"A ""{n}"""\n' for n in items))
    (folder / "x.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"{u}\t{n}\t{t / 1000}\n" for u, n, t in events)
    )


def _tokenizer(folder: Path) -> Any:
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
    told = (tokenizer.config, tokenizer.domains, tokenizer.embedding, tokenizer.familiar, json.dumps(tokenizer.history))
    return told, tokenizer.fingerprint()


def _server(folder: Path) -> Any:
    server = serving.load(folder / "tokenizer", threads=1)
    return server.config, server.experts, server.tokenize(np.eye(6, dtype=np.float32)).to_text()


def _ranks(folder: Path) -> Any:
    recommender = SequenceRecommender.from_pretrained(folder / "recommender")
    state = {name: value.tolist() for name, value in recommender.model.state_dict().items()}
    return recommender.table.tokens.tolist(), state


def _domain(folder: Path) -> Any:
    path = folder / "catalogue" / "books"
    domain, events = read_domain(path), read_interactions(path)
    items = read_items(path / "items.parquet", 40)
    times = None if events.timestamps is None else events.timestamps.tolist()
    told = (events.user_ids.tolist(), events.item_ids.tolist(), events.positions.tolist(), times)
    return domain.embeddings.tobytes(), domain.titles, domain.embedding, told, items.to_pydict(), items.schema.metadata


def _table(name: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        table = IdTable.read(folder / name)
        return table.table.to_pydict(), table.ids.to_text(), table.table.schema.metadata

    return load


def _checkpoint(folder: Path) -> Any:
    path = folder / "run" / "checkpoint.safetensors"
    progress = read_progress(path)
    model = Tokenizer.from_pretrained(folder / "tokenizer").model
    names = ["books", "games"]
    trainer = Trainer(model, torch.zeros(8, 6), torch.arange(8) % 2, names, model.config)
    load_checkpoint(path, model, trainer.optimizer)
    weights = {name: value.tolist() for name, value in model.state_dict().items()}
    kept = [[v.tolist() for v in state.values()] for state in trainer.optimizer.state.values()]
    return progress, weights, kept, read_history(path.with_name("history.jsonl"), 2, progress["history"])


def _best(folder: Path) -> Any:
    recommender = _recommender()
    try:
        read_model(folder / "training" / "best.safetensors", recommender.model)
    except RuntimeError as error:  # weights of other names: as the training reads them
        raise ValueError(str(error).splitlines()[0]) from error
    progress = read_progress(folder / "training" / "checkpoint.safetensors")
    return progress, {name: value.tolist() for name, value in recommender.model.state_dict().items()}


def _imported(kind: str, items: str, interactions: str) -> Callable[[Path], Any]:
    return lambda folder: import_domain(kind, folder / items, folder / interactions, k_core=2).counts


_CHECKED = {
    "tokenizer/unitok.json": (_tokenizer, _server),
    "tokenizer/model.safetensors": (_tokenizer, _server),
    "recommender/recommender.json": (_ranks,),
    "recommender/config.json": (_ranks,),
    "recommender/items.safetensors": (_ranks,),
    "recommender/model.safetensors": (_ranks,),
    "recommender/head.safetensors": (_ranks,),
    "catalogue/books/embeddings.npy": (_domain,),
    "catalogue/books/embeddings.json": (_domain,),
    "catalogue/books/items.parquet": (_domain,),
    "catalogue/books/interactions.parquet": (_domain,),
    "ids.parquet": (_table("ids.parquet"),),
    "ids.csv": (_table("ids.csv"),),
    "ids.csv.unitok.json": (_table("ids.csv"),),
    "ids.jsonl": (_table("ids.jsonl"),),
    "run/checkpoint.safetensors": (_checkpoint,),
    "run/history.jsonl": (_checkpoint,),
    "training/best.safetensors": (_best,),
    "training/checkpoint.safetensors": (_best,),
}
_PUBLISHED = {
    "meta.jsonl": _imported("amazon-2023", "meta.jsonl", "reviews.jsonl"),
    "reviews.jsonl": _imported("amazon-2023", "meta.jsonl", "reviews.jsonl"),
    "meta.txt": _imported("amazon-2014", "meta.txt", "old.jsonl"),
    "x.item": _imported("recbole", "x.item", "x.inter"),
    "x.inter": _imported("recbole", "x.item", "x.inter"),
}
SAMPLES = [Sample(file, load) for file, loads in _CHECKED.items() for load in loads]
SAMPLES += [Sample(file, load, vouched=False) for file, load in _PUBLISHED.items()]
