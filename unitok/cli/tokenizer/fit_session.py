"""What `unitok fit` and `unitok demo` share: a resumable fit with a progress bar, and its report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unitok.cli.files import replacing
from unitok.cli.terminal import Refusal, StepBar, console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok import Report, Tokenizer, UniTokConfig
    from unitok.data import Domain, EmbeddingInfo

REPORT = "report.json"
_MOST_ALARMS = 5  # shown per epoch; the history has them all
# The report's columns in two tables of at most 80 characters.
_NARROW = (
    ("items", "collisions", "resolved", "equal inputs", "own expert"),
    ("z error", "z error by ID", "x error", "x error by ID", "HSIC"),
)
# Numbers with a point, an exponent or a per cent sign: the part of an alarm that changes while its cause stays.
_FIGURES = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?%|\d+\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+")


def fit_and_save(
    parts: Mapping[str, Domain], config: UniTokConfig, out: Path, *, embedding: EmbeddingInfo | None, again: str
) -> Tokenizer:
    """Fit with a progress bar and a checkpoint in `out`; the saved tokenizer then replaces the checkpoint.

    Args:
        parts: the domains.
        config: the settings.
        out: the folder; a checkpoint found there is resumed.
        embedding: what made the embeddings.
        again: what the user can do after an interruption, for the message.

    Returns:
        Tokenizer: fitted and saved.
    """
    from unitok import Tokenizer
    from unitok.training.trainer import CHECKPOINT, HISTORY

    seen = set[str]()
    with StepBar("fitting", "steps", out / CHECKPOINT) as bar:

        def on_epoch(record: dict[str, Any]) -> None:
            bar.say(_epoch_line(record, config.epochs))
            new = {_FIGURES.sub("#", alarm): alarm for alarm in record["alarms"]}
            fresh = [alarm for cause, alarm in new.items() if cause not in seen]
            seen.update(new)
            for alarm in fresh[:_MOST_ALARMS]:
                bar.say(f"  alarm: {alarm}", style="yellow")
            if len(fresh) > _MOST_ALARMS:
                bar.say(f"  and {len(fresh) - _MOST_ALARMS} more alarms in {out / HISTORY}", style="yellow")

        try:
            tokenizer = Tokenizer.fit(
                {name: part.embeddings for name, part in parts.items()},
                config,
                embedding=embedding,
                directory=out,
                progress=bar,
                on_epoch=on_epoch,
            )
        except KeyboardInterrupt:
            kept = (out / CHECKPOINT).exists()  # not if it was interrupted before the first step
            bar.say(f"interrupted after step {bar.done}" + f"; the last checkpoint is in {out}: {again}" * kept)
            raise typer.Exit(130) from None
        except RuntimeError as error:  # the loss became NaN or infinite
            raise Refusal(str(error)) from error
    tokenizer.save_pretrained(out, force=True)
    _remove_checkpoint(out)
    return tokenizer


def report_and_save(tokenizer: Tokenizer, parts: Mapping[str, Domain], out: Path) -> Report:
    """Measure the tokenizer on the items it was fitted on; write report.json into its folder."""
    with console(stderr=True).status("measuring"):
        report = tokenizer.report({name: part.embeddings for name, part in parts.items()})
    with replacing(out / REPORT, force=True) as partial:
        partial.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    return report


def show_report(report: Report) -> None:
    """Print a report's table and summary."""
    screen = console()
    table = report.to_table()
    if screen.measure(table, options=screen.options.update(width=1000)).maximum <= screen.width:
        screen.print(table)
    else:  # too narrow for all columns
        for columns in _NARROW:
            screen.print(report.to_table(columns))
    for line in report.summary():
        screen.print(line, markup=False, soft_wrap=True)


def start_over(out: Path) -> None:
    """Delete what an interrupted run left; a finished tokenizer stays until the new one is saved."""
    from unitok.training.trainer import HISTORY

    _remove_checkpoint(out)
    (out / HISTORY).unlink(missing_ok=True)


def _remove_checkpoint(out: Path) -> None:
    from unitok.training.trainer import CHECKPOINT

    (out / CHECKPOINT).unlink(missing_ok=True)


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {record['epoch'] + 1:>{len(str(epochs))}}/{epochs}", f"loss {record['loss']:.4f}"]
    if "collision_rate" in record:
        known = [value for value in record["hsic"].values() if value is not None]
        parts += [
            f"collisions {record['collision_rate']:.2%}",
            f"HSIC {sum(known) / max(len(known), 1):.4f} (variance {record['hsic_variance']:.1e})",
            f"expert load {min(record['expert_load']):.1%} to {max(record['expert_load']):.1%}",
        ]
    else:
        parts.append("warming up")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])
