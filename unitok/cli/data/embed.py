"""`unitok embed`: embed the items of a catalogue with any model of sentence-transformers."""

from __future__ import annotations

import importlib.util
import time
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.inputs import counted
from unitok.cli.options import Items, Json, choice
from unitok.cli.terminal import Refusal, StepBar, console, print_json, say

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from unitok.data.embedding import Encode

_BATCHES_PER_BLOCK = 16  # an interruption loses one block at most
_FEWEST_ROWS = 8  # of a batch: on the CPUs that were tried, products of twelve rows (tokens) or more are alike
_MODEL_FILES = {".safetensors", ".bin", ".json", ".txt", ".model"}


def embed(
    data: Items,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", help="A model's name on Hugging Face, or its folder.", show_default=False
        ),
    ],
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="An item's text, made from the columns of items.parquet.")
    ] = "{text}",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Texts per pass of the model.")] = 64,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda.", show_default="the fastest there is")
    ] = None,
    dtype: Annotated[str, choice("Number format of the saved embeddings.", "float16", "float32")] = "float16",
    keep_lengths: Annotated[bool, typer.Option("--keep-lengths", help="Don't scale embeddings to length 1.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the model in embeddings.json; only embeddings of equal name can be used together.",
            show_default="as in --model, for a folder with a digest of it",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing embeddings.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Embed every text, even if the folder has its row from the run before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed the items of a catalogue, or of one domain: writes embeddings.npy and embeddings.json beside items.parquet.

    If a run is interrupted, the same command resumes it; domains that have embeddings keep them. After items were added
    or imported anew, texts that the run before embedded with the same model keep their rows to the bit. Rows of texts
    that are embedded again come out equal on the same machine's CPU, whatever else is embedded; on a GPU the last bit
    may differ. Texts longer than the model takes are cut off. If the model needs a prefix, put it into the template.
    Needs `pip install 'unitok-kernels[embed]'`.

    For example:

        unitok embed catalogue --model sentence-transformers/all-MiniLM-L6-v2
        unitok embed catalogue/beauty --model models/my-encoder --batch-size 256 --device cuda
        unitok embed catalogue --model intfloat/e5-base-v2 --template "passage: {text}" --force
    """
    from rich.text import Text

    if importlib.util.find_spec("sentence_transformers") is None:
        step = "pip install 'unitok-kernels[embed]'"
        raise Refusal(f"unitok embed needs sentence-transformers, which isn't installed: {step}")
    from unitok.storage.lock import only_writer

    new, kept = _choose(data, force)
    began = time.perf_counter()
    settings = {"template": template, "dtype": dtype, "unit_length": not keep_lengths, "force": force, "anew": anew}
    settings["block_rows"] = _BATCHES_PER_BLOCK * batch_size
    counts, rows_kept, width = {}, {}, 0
    with ExitStack() as held:
        for folder in new.values():  # all of them at once, so that no other run comes between
            held.enter_context(only_writer("embed", folder))
        with console(stderr=True).status(Text(f"loading {model}")):
            encode = _load(model, device, batch_size)
            called = name or _name(model)
        for domain, folder in new.items():
            with StepBar(f"embedding {domain}", "items") as bar:
                counts[domain], width, rows_kept[domain] = _embed(folder, encode, called, bar, **settings)
    summary = {"data": str(data), "domains": counts, "kept": kept, "model": called, "width": width, "dtype": dtype}
    summary["rows_kept"] = rows_kept
    if as_json:
        print_json({**summary, "seconds": round(time.perf_counter() - began, 3)})
        return
    work = f"{counted(sum(counts.values()), 'item')} of {counted(len(counts), 'domain')} embedded by {called}"
    same = sum(rows_kept.values())
    of_them = f"; {counted(same, 'row')} of texts that were embedded before kept" if same else ""
    for line in (f"{work}: width {width}, {dtype}{of_them}", f"Next: unitok fit {data} --out runs/first"):
        console().print(line, markup=False, soft_wrap=True)


def _choose(data: Path, force: bool) -> tuple[dict[str, Path], list[str]]:
    """The domains to embed, with their folders, and the names of those that have embeddings and keep them."""
    from unitok.data import find_domains
    from unitok.data.folder import EMBEDDINGS
    from unitok.storage.whole import current

    domains = find_domains(data)
    if not domains:
        step = "Check the path, or make one with `unitok import`."
        raise Refusal(f"{data}: catalogue must hold a folder with items.parquet for each domain, got none. {step}")
    kept = [] if force else [name for name, folder in domains.items() if (current(folder) / EMBEDDINGS).exists()]
    if len(kept) == len(domains):
        raise Refusal(f"{data}: all domains have embeddings already. Pass --force to replace them.")
    if kept:
        say(f"these have embeddings already and keep them: {', '.join(kept)}")
    return {name: folder for name, folder in domains.items() if name not in kept}, kept


def _embed(folder: Path, encode: Encode, model: str, bar: StepBar, **settings: Any) -> tuple[int, int, int]:
    """Embed a domain with a progress bar; return the number of items, the width, and how many rows were kept."""
    import numpy as np

    from unitok.data import embed_domain
    from unitok.data.folder import EMBEDDINGS

    begun, reached, kept = None, 0, 0

    def progress(done: int, total: int) -> None:
        nonlocal begun, reached
        if begun is None and done:
            bar.say(f"{folder}: resuming from item {done:,} of {total:,}")
        begun, reached = done, done
        bar(done, total)

    def on_kept(count: int) -> None:
        nonlocal kept
        kept = count

    try:
        embed_domain(folder, encode, model, progress=progress, on_kept=on_kept, **settings)
    except KeyboardInterrupt:
        bar.say(f"{folder}: interrupted, {counted(reached, 'item')} kept: the same command resumes from there")
        raise typer.Exit(130) from None
    return (*np.load(folder / EMBEDDINGS, mmap_mode="r").shape, kept)


def _load(model: str, device: str | None, batch_size: int) -> Encode:
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the one of loading weights, which takes only a second
    step = "Check the name, or the folder: sentence-transformers must be able to load it."
    place = Path(model).expanduser()
    if (given := _is_path(model)) and not place.is_dir():
        got = "a file" if place.exists() else "no such folder"
        raise Refusal(f"--model: must be a model on Hugging Face or a folder of one, got {model} ({got}). {step}")
    try:
        encoder = SentenceTransformer(str(place) if given else model, device=device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise Refusal(
            f"--model: must be a model on Hugging Face or a folder of one, got {model} ({reason}). {step}"
        ) from error
    return lambda texts: _encode(encoder, texts, batch_size)


def _is_path(model: str) -> bool:
    """Whether a model's name can only be a path: names on Hugging Face have the form name or owner/name."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model or Path(model).exists()


def _encode(encoder: SentenceTransformer, texts: list[str], batch_size: int) -> NDArray[Any]:
    """Encode texts so that, on a CPU, each row's bits depend on its own text only; elsewhere in plain batches.

    Padding to the longest text of a batch changes the last bit of the others' rows, so only texts of equally many
    tokens share a batch. Products of very few rows are summed in another order, so no batch has fewer than eight: the
    last text fills it up.
    """
    import numpy as np

    if encoder.device.type != "cpu":  # equal bits aren't promised there, and full batches are faster
        return np.asarray(encoder.encode(texts, batch_size=batch_size, show_progress_bar=False))
    prompt = encoder.prompts.get(encoder.default_prompt_name or "") or ""
    split = getattr(encoder, "preprocess", None) or encoder.tokenize  # as older releases call it
    mask = split([prompt + text for text in texts]).get("attention_mask")
    lengths = np.zeros(len(texts)) if mask is None else np.asarray(mask.sum(1))
    fewest = min(_FEWEST_ROWS, batch_size)
    batch_size -= batch_size % fewest
    encoded: dict[int, NDArray[Any]] = {}
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length).tolist()
        filled = [*alike, *alike[-1:] * (-len(alike) % fewest)]
        rows = encoder.encode([texts[row] for row in filled], batch_size=batch_size, show_progress_bar=False)
        encoded.update(zip(filled, rows, strict=True))
    return np.stack([encoded[row] for row in range(len(texts))])


def _name(model: str) -> str:
    """Name a model so that equal names mean equal embeddings: a folder by a digest of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in _MODEL_FILES):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return f"{folder.resolve().name} sha256:{digest.hexdigest()[:12]}"
