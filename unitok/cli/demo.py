"""`unitok demo`: the whole way, from a generated catalogue to semantic IDs and what they say."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.inputs import stated_embedding
from unitok.cli.options import Json, output
from unitok.cli.terminal import Refusal, console, print_json, say
from unitok.cli.tokenizer.fit_session import fit_and_save, report_and_save, show_report, start_over
from unitok.cli.tour import Tour
from unitok.config import UniTokConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok import Report, Tokenizer
    from unitok.data import Domain
    from unitok.ids.table import IdTable

# Seconds on two cores; with 64 codewords per level, some of a few thousand items share an ID.
CONFIG = UniTokConfig(epochs=15, batch_size=256, codebook_size=64, codebook_dim=16, encoder_widths=(128, 64))
_REPORT_KEY = (
    "collisions: items that share an ID; resolved: the same after a suffix numbers them; equal inputs: items with "
    "identical embeddings, which nothing could split. z error: of the latents, relative; x error: of the embeddings; "
    "with all chains, and by the ID alone. own expert: share of a domain's items in its main expert."
)


def demo(
    out: Annotated[Path, output("DIR", "Folder for everything.")],
    items: Annotated[
        int | None,
        typer.Option(min=20, metavar="N", help="Items in each of the four domains.", show_default="700 to 3,000"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the catalogue and of the fit.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a catalogue of four shops, fit a tokenizer, and look at the IDs.

    Nothing is downloaded; it takes less than a minute.

    For example:

        unitok demo --out runs/demo
        unitok demo --out runs/tiny --items 200 --force
    """
    import torch

    from unitok.storage.lock import only_writer

    began = time.perf_counter()
    torch.set_num_threads(1)  # a second thread is no faster on matrices this small, and much slower on a busy machine
    if out.is_dir() and any(out.iterdir()) and not force:
        raise Refusal(f"{out}: the folder must be empty, got files in it. Choose another, or pass --force.")
    with only_writer("demo", out):
        parts = _generate(out / "catalogue", items, seed, force)
        tokenizer, report = _fit(parts, out / "tokenizer", seed)
        found = _tokenize(tokenizer, parts, out / "ids.parquet")
    tour = Tour.of(found, [title for part in parts.values() for title in part.titles or []])
    if as_json:
        print_json({"out": str(out), "report": report.to_dict(), **tour.to_dict()})
        return
    console().print()
    show_report(report)
    console().print(_REPORT_KEY, style="dim")
    tour.show(console())
    _print_next_steps(out, tour, time.perf_counter() - began)


def _generate(catalogue: Path, items: int | None, seed: int, force: bool) -> dict[str, Domain]:
    from unitok.data import generate_catalogue, read_catalogue

    say(f"generating a catalogue in {catalogue}")
    generate_catalogue(catalogue, seed=seed, items_per_domain=items, force=force)
    return read_catalogue(catalogue)


def _fit(parts: Mapping[str, Domain], folder: Path, seed: int) -> tuple[Tokenizer, Report]:
    start_over(folder)
    config, again = replace(CONFIG, seed=seed), "run the demo again with --force"
    tokenizer = fit_and_save(parts, config, folder, embedding=stated_embedding(parts), again=again)
    return tokenizer, report_and_save(tokenizer, parts, folder)


def _tokenize(tokenizer: Tokenizer, parts: Mapping[str, Domain], table: Path) -> IdTable:
    from unitok.cli.tokenizer.tokenize import resolve, tokenize_parts

    found = resolve(parts, tokenize_parts(tokenizer, parts), "suffix")
    found.write(table, tokenizer.fingerprint(), "suffix")
    return found


def _print_next_steps(out: Path, tour: Tour, seconds: float) -> None:
    # The command as the user typed it if it isn't on the path: `.venv/bin/unitok` in `make demo`.
    program = "unitok" if shutil.which("unitok") or Path(sys.argv[0]).name != "unitok" else sys.argv[0]
    catalogue, folder = out / "catalogue", out / "tokenizer"
    console().print(
        f"\nDone in {seconds:.0f} s. Everything is in {out}:\n"
        f"  catalogue/     four domains of items, embeddings and users' histories\n"
        f"  tokenizer/     the tokenizer, history.jsonl (one line per epoch) and report.json\n"
        f"  ids.parquet    every item with its ID\n"
        f"Next:\n"
        f"  {program} decode {folder} '{tour.text(tour.samples[0][0])}' --items {catalogue}\n"
        f"  {program} report {folder} {catalogue} --plot {out / 'report.png'}\n"
        f"  {program} fit --help",
        markup=False,
        soft_wrap=True,
    )
