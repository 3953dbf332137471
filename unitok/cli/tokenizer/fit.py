"""`unitok fit`: fit a tokenizer on a catalogue; an interrupted fit can be resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitok.cli.inputs import check_embedding, counted, split_names, stated_embedding
from unitok.cli.options import (
    Items,
    Json,
    Threads,
    choice,
    domain_names,
    force_folder,
    output,
    usage_errors,
    use_threads,
)
from unitok.cli.terminal import Refusal, console, print_json
from unitok.cli.tokenizer.fit_session import (
    REPORT,
    fit_and_save,
    read_behaviour,
    report_and_save,
    show_report,
    start_over,
)
from unitok.config import CALIBRATIONS, PRESETS, LossWeights, UniTokConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok.data import Domain, EmbeddingInfo

DEFAULT = UniTokConfig()


def fit(
    data: Items,
    out: Annotated[Path, output("DIR", "Folder for the tokenizer and its history.")],
    domains: Annotated[str | None, domain_names("Fit on these domains only.")] = None,
    preset: Annotated[str, choice("How shared and routed experts are combined.", *PRESETS)] = DEFAULT.preset,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the items.")] = DEFAULT.epochs,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Equal seeds give equal tokenizers.")] = DEFAULT.seed,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Items per step.")] = DEFAULT.batch_size,
    levels: Annotated[int, typer.Option(min=1, metavar="N", help="Codes per ID.")] = DEFAULT.num_levels,
    codebook_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Codewords per level.")
    ] = DEFAULT.codebook_size,
    codebook_dim: Annotated[int, typer.Option(min=1, metavar="N", help="Width of the latents.")] = DEFAULT.codebook_dim,
    num_experts: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Experts; 0 is the single-codebook RQ-VAE.", show_default="one per domain"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Routed experts per item.")] = DEFAULT.top_k,
    calibration_weight: Annotated[
        float, typer.Option(min=0, metavar="W", help="Weight of the mutual-information calibration.")
    ] = DEFAULT.weights.calibration,
    calibration: Annotated[
        str, choice("Form of the calibration; 'variation' makes the domains equal, at a weight of .01.", *CALIBRATIONS)
    ] = DEFAULT.calibration,
    normalised_hsic: Annotated[
        bool, typer.Option("--normalised-hsic", help="Calibrate on the normalised HSIC (CKA).")
    ] = False,
    behaviour: Annotated[
        bool,
        typer.Option(
            "--behaviour",
            help="Let interactions count beside the embeddings: items that users meet together get IDs that are alike.",
        ),
    ] = False,
    embedding_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What made the embeddings, if there is no embeddings.json.", show_default=False
        ),
    ] = None,
    text_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Template of the embedded texts; goes with --embedding-model.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    force: Annotated[bool, force_folder("tokenizer")] = False,
    as_json: Json = False,
) -> None:
    """Fit a tokenizer on the items of a catalogue.

    Each domain's folder holds embeddings.npy (items, width) and, optionally, items.parquet (item_id, title) and
    embeddings.json (model, template). --out receives the tokenizer, history.jsonl (one line per epoch) and
    report.json.

    With --behaviour each domain's interactions give its items vectors. The tokenizer keeps them, and `unitok tokenize`
    uses them by itself: so an item's ID stays the same whatever users do later. The last two items of every user are
    left out: `unitok recommend` validates and tests on them. It refuses such IDs with another --split, which keeps more
    back. Items that nobody met, and domains without interactions, get IDs of their embeddings alone.

    Ctrl-C leaves a checkpoint there: the same command resumes from it and ends at the same weights.

    For example:

        unitok fit catalogue --out runs/first
        unitok fit catalogue --out runs/small --domains beauty,kitchen --epochs 5
        unitok fit catalogue --out runs/users --behaviour
        unitok fit catalogue --out runs/rq-vae --num-experts 0 --json > rq-vae.json
    """
    if (embedding_model is None) != (text_template is None):
        raise typer.BadParameter("--embedding-model and --text-template go together: give both, or neither.")
    with usage_errors():
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

    from unitok.data import read_catalogue
    from unitok.storage.lock import only_writer

    _check_output(out, force)
    use_threads(threads)
    parts = read_catalogue(data, split_names(domains))
    embedding = _embedding(data, parts, embedding_model, text_template)
    _check_top_k(config, len(parts))  # before anything is deleted
    if behaviour and (PRESETS[config.preset].dense or config.num_experts == 0):
        rule = "--behaviour: every expert must have a chain of its own"
        got = f"--preset {config.preset} and --num-experts {config.num_experts}"
        raise Refusal(f"{rule}, got {got}. Leave these out, or --behaviour.")
    views = read_behaviour(data, parts) if behaviour else {}
    again = "the same command" + (" without --force" if force else "")
    began = time.perf_counter()
    with only_writer("fit", out):
        _check_output(out, force)  # another may have written there meanwhile
        if force:
            start_over(out)
        again = f"{again} resumes from there"
        tokenizer = fit_and_save(parts, config, out, embedding=embedding, again=again, views=views)
        seconds = time.perf_counter() - began
        report = report_and_save(tokenizer, parts, out)
    alarms = tokenizer.history[-1]["alarms"] if tokenizer.history else []  # none if history.jsonl was deleted
    if as_json:
        print_json({"out": str(out), "seconds": round(seconds, 3), "alarms": alarms, "report": report.to_dict()})
        return
    show_report(report)
    _print_outcome(out, data, parts, alarms, seconds)


def _check_output(out: Path, force: bool) -> None:
    from unitok.storage.saved import TOKENIZER, WEIGHTS, check_free
    from unitok.storage.whole import current
    from unitok.training.trainer import CHECKPOINT, HISTORY

    if out.exists() and not out.is_dir():
        raise Refusal(f"{out}: the output must be a folder, got a file. Choose another name.")
    # If there is also a checkpoint, these files belong to an interrupted run, which will be resumed.
    there = [name for name in (TOKENIZER.settings, WEIGHTS, HISTORY, REPORT) if (current(out) / name).exists()]
    if there and not force and not (out / CHECKPOINT).exists():
        step = "Choose another folder, or pass --force to replace it."
        raise Refusal(f"{out}: the output must hold no tokenizer yet, got {', '.join(there)}. {step}")
    check_free("fit", TOKENIZER, out, force=True)  # whatever else is there is never replaced


def _embedding(
    data: Path, parts: Mapping[str, Domain], model: str | None, template: str | None
) -> EmbeddingInfo | None:
    """What made the embeddings: as the options say, which must agree with the catalogue, or as the catalogue says."""
    from unitok.data import EmbeddingInfo

    stated = stated_embedding(parts)
    if model is None or template is None:
        return stated
    given = EmbeddingInfo(model, template)
    check_embedding(data, given, stated)
    return given


def _check_top_k(config: UniTokConfig, num_domains: int) -> None:
    most = max(num_domains if config.num_experts is None else config.num_experts, 1)
    if config.top_k > most:
        got = f"{config.top_k} of {num_domains} domains"
        raise Refusal(f"--top-k: must be at most the number of experts, got {got}. Lower it.")


def _print_outcome(out: Path, data: Path, parts: Mapping[str, Domain], alarms: list[str], seconds: float) -> None:
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
