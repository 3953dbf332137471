"""What `unitok fit` and `unitok demo` share: a resumable fit with a progress bar, and its report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from unitok.cli.files import replacing
from unitok.cli.terminal import Refusal, StepBar, console, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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


def read_behaviour(data: Path, parts: Mapping[str, Domain]) -> dict[str, dict[str, Tensor]]:
    """Make vectors of what users did, of the domains that have interactions, as a view for `fit_and_save`."""
    from unitok.data import find_domains, read_interactions
    from unitok.data.folder import INTERACTIONS
    from unitok.data.transitions import behaviour
    from unitok.recommender import Histories
    from unitok.storage.whole import current

    folders, found = find_domains(data), {}
    for name, part in parts.items():
        if (current(folders[name]) / INTERACTIONS).exists():
            with console(stderr=True).status(f"reading the interactions of {name}"):
                histories = Histories.of(read_interactions(folders[name]), len(part.keys))
                vectors = behaviour(histories, len(part.keys))
            if not bool(vectors.isnan().all()):  # else nobody met two items: the domain goes by its embeddings
                found[name] = vectors
    if not found:
        rule = "--behaviour: domains must have interactions of users with several items each, got none"
        raise Refusal(f"{data}: {rule}. Import them, or leave --behaviour out.")
    say_views({"behaviour": found}, parts)
    return {"behaviour": found}


def recalled(tokenizer: Tokenizer, parts: Mapping[str, Domain]) -> dict[str, dict[str, Tensor]]:
    """What the tokenizer keeps of the items: name of the view -> name of the domain -> vectors."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, part in parts.items():
        for view, vectors in tokenizer.recall(part, name).items():
            found.setdefault(view, {})[name] = vectors
    return found


def say_views(views: Mapping[str, Mapping[str, Tensor]], parts: Mapping[str, Domain]) -> dict[str, dict[str, int]]:
    """Say how many items have a vector in each view, and return the numbers."""
    counts = {}
    for view, given in views.items():
        counts[view] = {name: int((~vectors.isnan().any(1)).sum()) for name, vectors in given.items()}
        shares = (
            f"{counts[view].get(name, 0):,} of {len(part.keys):,} items of {name}" for name, part in parts.items()
        )
        say(f"{view} counts for {', '.join(shares)}")
    return counts


def fit_and_save(
    parts: Mapping[str, Domain],
    config: UniTokConfig,
    out: Path,
    *,
    embedding: EmbeddingInfo | None,
    again: str,
    views: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
) -> Tokenizer:
    """Fit with a progress bar and a checkpoint in `out`; the saved tokenizer then replaces the checkpoint.

    Args:
        parts: the domains.
        config: the settings.
        out: the folder; a checkpoint found there is resumed.
        embedding: what made the embeddings.
        again: what the user can do after an interruption, for the message.
        views: vectors of the items beside their embeddings, which the tokenizer keeps.

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
                views=views,
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
    for view, given in views.items():
        for name, vectors in given.items():
            tokenizer.remember(parts[name], {view: vectors}, name)
    tokenizer.save_pretrained(out, force=True)
    _remove_checkpoint(out)
    return tokenizer


def report_and_save(tokenizer: Tokenizer, parts: Mapping[str, Domain], out: Path) -> Report:
    """Measure the tokenizer on the items it was fitted on; write report.json into its folder."""
    with console(stderr=True).status("measuring"):
        rows = {name: part.embeddings for name, part in parts.items()}
        report = tokenizer.report(rows, views=recalled(tokenizer, parts))
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
