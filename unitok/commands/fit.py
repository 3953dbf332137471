"""`unitok fit`: fit a tokenizer on a catalogue, with a checkpoint to go on from after an interruption."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from unitok.commands.fitting import REPORT, fit_and_save, report_and_save, show_report, start_over
from unitok.commands.inputs import check_embedding, counted, split_names, stated_embedding
from unitok.commands.options import Items, Json, choice
from unitok.commands.terminal import Refusal, console, print_json
from unitok.config import CALIBRATIONS, PRESETS, LossWeights, UniTokConfig

DEFAULT = UniTokConfig()


def fit(
    data: Items,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the tokenizer and its history.", show_default=False
        ),
    ],
    domains: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Fit on these domains alone.", show_default="all")
    ] = None,
    preset: Annotated[str, choice("How shared and routed experts are put together.", *PRESETS)] = DEFAULT.preset,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the items.")] = DEFAULT.epochs,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Equal seeds give equal tokenizers.")] = DEFAULT.seed,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Items a step.")] = DEFAULT.batch_size,
    levels: Annotated[int, typer.Option(min=1, metavar="N", help="Codes an ID.")] = DEFAULT.num_levels,
    codebook_size: Annotated[int, typer.Option(min=1, metavar="N", help="Codewords a level.")] = DEFAULT.codebook_size,
    codebook_dim: Annotated[int, typer.Option(min=1, metavar="N", help="Width of the latents.")] = DEFAULT.codebook_dim,
    num_experts: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Experts; 0 is the single-codebook RQ-VAE.", show_default="one a domain"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Routed experts an item.")] = DEFAULT.top_k,
    calibration_weight: Annotated[
        float, typer.Option(min=0, metavar="W", help="Weight of the mutual-information calibration.")
    ] = DEFAULT.weights.calibration,
    calibration: Annotated[
        str, choice("Its form; 'variation' makes the domains equal, at a weight of .01.", *CALIBRATIONS)
    ] = DEFAULT.calibration,
    normalised_hsic: Annotated[
        bool, typer.Option("--normalised-hsic", help="Calibrate on the normalised HSIC (CKA).")
    ] = False,
    embedding_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What made the embeddings, where no embeddings.json says.", show_default=False
        ),
    ] = None,
    text_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="How their texts were put together; goes with the model.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads.", show_default="torch's choice")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a finished tokenizer; start over where a run was interrupted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit a tokenizer on the items of a catalogue.

    Each domain's folder holds embeddings.npy (items, width), and, if you like, items.parquet (item_id, title) and
    embeddings.json (model, template). The tokenizer ends up in --out, beside history.jsonl (a line an epoch) and
    report.json.

    Ctrl-C leaves a checkpoint there: the same command goes on from it, to the same weights.

    For example:

        unitok fit catalogue --out runs/first
        unitok fit catalogue --out runs/small --domains beauty,kitchen --epochs 5
        unitok fit catalogue --out runs/rq-vae --num-experts 0 --json > rq-vae.json
    """
    if (embedding_model is None) != (text_template is None):
        raise typer.BadParameter("--embedding-model and --text-template go together: give both, or neither.")
    try:
        config = UniTokConfig(
            preset=preset,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            num_levels=levels,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            top_k=top_k,
            num_experts=num_experts,
            weights=LossWeights(calibration=calibration_weight),
            normalised_hsic=normalised_hsic,
            calibration=calibration,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    import torch

    from unitok.data import EmbeddingInfo, read_catalogue

    _check_output(out, force)
    if threads is not None:
        torch.set_num_threads(threads)
    parts = read_catalogue(data, split_names(domains))
    embedding = stated_embedding(parts)
    if embedding_model is not None and text_template is not None:
        given = EmbeddingInfo(embedding_model, text_template)
        check_embedding(data, given, embedding)
        embedding = given
    if top_k > max(len(parts) if num_experts is None else num_experts, 1):  # before anything is deleted
        raise Refusal(f"--top-k: must be at most the number of experts, got {top_k} of {len(parts)} domains. Lower it.")
    if force:
        start_over(out)
    again = "the same command" + (" without --force" if force else "")
    began = time.perf_counter()
    tokenizer = fit_and_save(parts, config, out, embedding=embedding, again=f"{again} goes on from there")
    seconds = time.perf_counter() - began
    report = report_and_save(tokenizer, parts, out)
    alarms = tokenizer.history[-1]["alarms"]
    if as_json:
        print_json({"out": str(out), "seconds": round(seconds, 3), "alarms": alarms, "report": report.to_dict()})
        return
    show_report(report)
    screen = console()
    for alarm in alarms:
        screen.print(f"alarm: {alarm}", style="yellow", markup=False, soft_wrap=True)
    items = sum(len(part.keys) for part in parts.values())
    screen.print(
        f"\nFitted {counted(items, 'item')} of {counted(len(parts), 'domain')} in {seconds:.0f} s.\n"
        f"  tokenizer  {out}\n  history    {out / 'history.jsonl'}\n  report     {out / REPORT}\n"
        f"Next: unitok tokenize {out} {data} --out ids.parquet",
        markup=False,
        soft_wrap=True,
    )


def _check_output(out: Path, force: bool) -> None:
    from unitok.storage import SETTINGS, WEIGHTS
    from unitok.trainer import CHECKPOINT, HISTORY

    if out.exists() and not out.is_dir():
        raise Refusal(f"{out}: the output must be a folder, got a file. Choose another name.")
    # With a checkpoint beside them they are of a run under way, which is gone on with.
    there = [name for name in (SETTINGS, WEIGHTS, HISTORY, REPORT) if (out / name).exists()]
    if there and not force and not (out / CHECKPOINT).exists():
        step = "Choose another folder, or pass --force to replace it."
        raise Refusal(f"{out}: the output must hold no tokenizer yet, got {', '.join(there)}. {step}")
