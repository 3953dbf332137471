"""Every command that writes, in two variants whose results differ, and how a result is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TINY = ("--levels", "2", "--codebook-size", "8", "--codebook-dim", "4", "--batch-size", "32", "--epochs", "4")
VARIANTS = (1, 2)


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: what it is called.
        run: does it in variant 0, 1 or 2; is given the folder of its inputs, where to write, and the variant.
        told: gives what tells a result; raises if it isn't whole.
    """

    name: str
    run: Callable[[Path, Path, int], None]
    told: Callable[[Path], Any]


def cli(*args: object) -> None:
    """Run a command of the command line in this process."""
    from unitok.cli.app import app

    app([str(arg) for arg in args], standalone_mode=False)


def prepare(inputs: Path) -> None:
    """Write what the commands read."""
    from unitok.data import generate_catalogue

    generate_catalogue(inputs / "catalogue", items_per_domain=60, width=16, domains=["beauty", "kitchen"], seed=0)
    generate_catalogue(inputs / "more", items_per_domain=60, width=16, domains=["outdoors"], seed=0)
    for variant in (0, *VARIANTS):
        names = [f"B{number}" for number in range(8)]
        items = "".join(f"{name}\tTitle {name} of {variant}\n" for name in names)
        events = "".join(
            f"u{user}\t{name}\t{user + 9 * place}\n" for user in range(8) for place, name in enumerate(names)
        )
        (inputs / f"{variant}.item").write_text(f"item_id:token\ttitle:token\n{items}")
        (inputs / f"{variant}.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{events}")
        cli("fit", inputs / "catalogue", "--out", inputs / f"tokenizer{variant}", "--seed", variant, *TINY)
    cli("tokenize", inputs / "tokenizer0", inputs / "catalogue", "--out", inputs / "ids.parquet")


def _import(inputs: Path, out: Path, variant: int) -> None:
    files = (inputs / f"{variant}.item", inputs / f"{variant}.inter")
    cli("import", "recbole", *files, "--out", out / "domain", "--k-core", 2, "--force")


def _told_by_import(out: Path) -> Any:
    from unitok.data.files import read_items
    from unitok.data.folder import ITEMS, SOURCE
    from unitok.storage.whole import whole_read

    def told(base: Path) -> Any:
        return read_items(base / ITEMS)["title"].to_pylist(), (base / SOURCE).read_text()

    return whole_read(out / "domain", (ITEMS, SOURCE), told)  # both in one read: two would be of two moments


def _embed(inputs: Path, out: Path, variant: int) -> None:
    import time

    from unitok.data import embed_domain, write_domain

    folder = out / "domain"
    if not variant:
        write_domain(folder, None, items={"text": [f"text {row}" for row in range(200)]}, force=True)

    def encode(texts: list[str]) -> np.ndarray:
        time.sleep(0.01)
        seeds = [int(hashlib.sha256(f"{variant} {text}".encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds])

    embed_domain(folder, encode, f"model {variant}", block_rows=10, force=True)


def _told_by_embed(out: Path) -> Any:
    from unitok.data import read_domain

    domain = read_domain(out / "domain")
    return domain.embedding, hashlib.sha256(np.ascontiguousarray(domain.embeddings)).hexdigest()


def _fit(inputs: Path, out: Path, variant: int) -> None:
    cli("fit", inputs / "catalogue", "--out", out / "tokenizer", "--seed", variant, "--force", *TINY)


def _told_by_tokenizer(out: Path) -> Any:
    from unitok import Tokenizer

    tokenizer = Tokenizer.from_pretrained(out / "tokenizer")
    return tokenizer.fingerprint(), list(tokenizer.domains), len(tokenizer.history)


def _tokenize(inputs: Path, out: Path, variant: int) -> None:
    cli("tokenize", inputs / f"tokenizer{variant}", inputs / "catalogue", "--out", out / "ids.parquet", "--force")


def _told_by_table(out: Path) -> Any:
    from unitok.ids.table import IdTable

    return IdTable.read(out / "ids.parquet").table["semantic_id"].to_pylist()


def _add_domain(inputs: Path, out: Path, variant: int) -> None:
    named = ("--name", f"new {variant}")
    cli(
        "add-domain",
        inputs / f"tokenizer{variant}",
        inputs / "more" / "outdoors",
        "--out",
        out / "tokenizer",
        *named,
        "--force",
    )


def _train(inputs: Path, out: Path, variant: int) -> None:
    sizes = ("--epochs", "1", "--history", "5", "--beam", "5", "--seed", str(variant), "--force")
    cli("recommend", "train", inputs / "catalogue", inputs / "ids.parquet", "--out", out / "recommender", *sizes)


def _told_by_recommender(out: Path) -> Any:
    from unitok.recommender import SequenceRecommender

    state = SequenceRecommender.from_pretrained(out / "recommender").model.state_dict()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def _demo(inputs: Path, out: Path, variant: int) -> None:
    cli("demo", "--out", out / "demo", "--items", "30", "--seed", variant, "--force")


def _told_by_demo(out: Path) -> Any:
    """The three parts of a demo, which come one after another: once it ends, all are of one run."""
    from unitok import Tokenizer
    from unitok.data import read_catalogue
    from unitok.ids.table import IdTable

    parts = read_catalogue(out / "demo" / "catalogue")
    found = [hashlib.sha256(np.ascontiguousarray(part.embeddings)).hexdigest() for part in parts.values()]
    tokenizer = Tokenizer.from_pretrained(out / "demo" / "tokenizer")
    return found, tokenizer.fingerprint(), IdTable.read(out / "demo" / "ids.parquet").table["semantic_id"].to_pylist()


COMMANDS = [
    Command("import", _import, _told_by_import),
    Command("embed", _embed, _told_by_embed),
    Command("fit", _fit, _told_by_tokenizer),
    Command("tokenize", _tokenize, _told_by_table),
    Command("add-domain", _add_domain, _told_by_tokenizer),
    Command("recommend train", _train, _told_by_recommender),
    Command("demo", _demo, _told_by_demo),
]


def _save(inputs: Path, out: Path, variant: int) -> None:
    import torch

    from unitok.recommender import RQRecommender, TokenTable, gpt2_config

    torch.manual_seed(variant)
    recommender = RQRecommender.create(TokenTable.items(9), gpt2_config(width=8, layers=1, heads=1), seed=variant)
    recommender.save_pretrained(out / "recommender", force=True)


SAVE = Command("save", _save, _told_by_recommender)


def key(told: Any) -> str:
    """Make what tells a result comparable."""
    return json.dumps(told, default=str, sort_keys=True)
