"""`unitok embed`: embeddings for the items of a catalogue, by any model of sentence-transformers."""

from __future__ import annotations

import importlib.util
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.commands.inputs import counted
from unitok.commands.options import Items, Json, choice
from unitok.commands.terminal import Refusal, StepBar, console, print_json, say

if TYPE_CHECKING:
    from unitok.data.embedding import Encode

_BATCHES_A_BLOCK = 16  # of which an interruption costs the last
_OF_A_MODEL = {".safetensors", ".bin", ".json", ".txt", ".model"}


def embed(
    data: Items,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", help="A model's name on Hugging Face, or its folder.", show_default=False
        ),
    ],
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="An item's text, of the columns of items.parquet.")
    ] = "{text}",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Texts a pass of the model.")] = 64,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda.", show_default="the fastest there is")
    ] = None,
    dtype: Annotated[str, choice("What embeddings are kept in.", "float16", "float32")] = "float16",
    keep_lengths: Annotated[bool, typer.Option("--keep-lengths", help="Don't scale embeddings to length 1.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What embeddings.json calls the model; only embeddings that agree on it go together.",
            show_default="as in --model, for a folder with a digest of it",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace embeddings that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Embed the items of a catalogue, or of one domain: embeddings.npy and embeddings.json beside items.parquet.

    An interrupted run goes on where it was when you repeat the command, and domains that have embeddings keep them.
    Texts longer than the model takes are cut off. A model that asks for a prefix gets it by the template. Needs
    `pip install 'unitok-kernels[embed]'`.

    For example:

        unitok embed catalogue --model sentence-transformers/all-MiniLM-L6-v2
        unitok embed catalogue/beauty --model models/my-encoder --batch-size 256 --device cuda
        unitok embed catalogue --model intfloat/e5-base-v2 --template "passage: {text}" --force
    """
    from unitok.data import find_domains
    from unitok.data.folder import EMBEDDINGS

    if importlib.util.find_spec("sentence_transformers") is None:
        step = "pip install 'unitok-kernels[embed]'"
        raise Refusal(f"unitok embed needs sentence-transformers, which isn't installed: {step}")
    domains = find_domains(data)
    if not domains:
        step = "Check the path, or make one with `unitok import`."
        raise Refusal(f"{data}: catalogue must hold a folder with items.parquet for each domain, got none. {step}")
    kept = [] if force else [name for name, folder in domains.items() if (folder / EMBEDDINGS).exists()]
    if len(kept) == len(domains):
        raise Refusal(f"{data}: all domains have embeddings already. Pass --force to replace them.")
    if kept:
        say(f"these have embeddings already and keep them: {', '.join(kept)}")
    began = time.perf_counter()
    with console(stderr=True).status(f"loading {model}"):
        encode = _load(model, device, batch_size)
        called = name or _name(model)
    counts, width = {}, 0
    for domain in [domain for domain in domains if domain not in kept]:
        with StepBar(f"embedding {domain}", "items") as bar:
            counts[domain], width = _embed(
                domains[domain],
                encode,
                called,
                bar,
                template=template,
                dtype=dtype,
                unit_length=not keep_lengths,
                block_rows=_BATCHES_A_BLOCK * batch_size,
                force=force,
            )
    summary = {"data": str(data), "domains": counts, "kept": kept, "model": called, "width": width, "dtype": dtype}
    if as_json:
        print_json({**summary, "seconds": round(time.perf_counter() - began, 3)})
        return
    work = f"{counted(sum(counts.values()), 'item')} of {counted(len(counts), 'domain')} embedded by {called}"
    for line in (f"{work}: width {width}, {dtype}", f"Next: unitok fit {data} --out runs/first"):
        console().print(line, markup=False, soft_wrap=True)


def _embed(folder: Path, encode: Encode, model: str, bar: StepBar, **settings: Any) -> tuple[int, int]:
    """Embed a domain with its progress on the terminal; give the number of items and the width."""
    import numpy as np

    from unitok.data import embed_domain
    from unitok.data.folder import EMBEDDINGS

    begun, reached = None, 0

    def progress(done: int, total: int) -> None:
        nonlocal begun, reached
        if begun is None and done:
            bar.say(f"{folder}: going on from item {done:,} of {total:,}")
        begun, reached = done, done
        bar(done, total)

    try:
        embed_domain(folder, encode, model, progress=progress, **settings)
    except KeyboardInterrupt:
        bar.say(f"{folder}: interrupted, {counted(reached, 'item')} kept: the same command goes on from there")
        raise typer.Exit(130) from None
    return np.load(folder / EMBEDDINGS, mmap_mode="r").shape


def _load(model: str, device: str | None, batch_size: int) -> Encode:
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading weights, which takes a second
    try:
        encoder = SentenceTransformer(model, device=device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        step = "Check the name, or the folder: sentence-transformers must be able to load it."
        raise Refusal(
            f"--model: must be a model on Hugging Face or a folder of one, got {model} ({reason}). {step}"
        ) from error
    return lambda texts: encoder.encode(texts, batch_size=batch_size, show_progress_bar=False)


def _name(model: str) -> str:
    """Name a model so that equal names mean equal embeddings: a folder by a digest of what is in it."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in _OF_A_MODEL):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return f"{folder.resolve().name} sha256:{digest.hexdigest()[:12]}"
