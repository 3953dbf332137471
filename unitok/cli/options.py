"""Arguments and options that several commands take, and what their values are turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from unitok_kernels.rules import MOST_THREADS

TokenizerFolder = Annotated[
    Path, typer.Argument(metavar="TOKENIZER", help="Folder of a fitted tokenizer.", show_default=False)
]
RecommenderFolder = Annotated[
    Path, typer.Argument(metavar="RECOMMENDER", help="Folder of a trained recommender.", show_default=False)
]
Items = Annotated[
    Path, typer.Argument(metavar="DATA", help="A catalogue, or the folder of one domain.", show_default=False)
]
Beam = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Prefixes that the beam search keeps.", show_default="as trained"),
]
IncludeSeen = Annotated[
    bool, typer.Option("--include-seen", help="Rank the items of the history too; else they are left out.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, metavar="N", help="CPU threads.", show_default="torch's choice")
]
_NARROWEST = 25  # the column of the names of values, on a terminal of 80 columns
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]


def output(metavar: str, help_text: str) -> Any:
    """Declare the required option --out."""
    return typer.Option("--out", "-o", metavar=metavar, help=help_text, show_default=False)


def domain_names(help_text: str, default: str = "all") -> Any:
    """Declare an option that takes names of domains; `split_names` reads it."""
    return typer.Option(metavar="A,B,C", help=help_text, show_default=default)


def force_folder(what: str) -> Any:
    """Declare the --force of a command that trains into a folder and can be resumed."""
    return typer.Option("--force", help=f"Replace a finished {what}; restart an interrupted run from the beginning.")


def choice(help_text: str, *names: str) -> Any:
    """Declare an option that takes one of a few names; any other is a usage error."""
    shown = "|".join(names)
    if len(shown) > _NARROWEST:  # a place where it may be broken
        shown = f"{'|'.join(names[: len(names) // 2])}| {'|'.join(names[len(names) // 2 :])}"
    return typer.Option(metavar=shown, callback=one_of(*names), help=help_text)


def one_of(*names: str) -> Callable[[str], str]:
    """Return a check that a value is one of a few names."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report a ValueError of a config class, which is made of options, as a usage error."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def use_threads(count: int | None) -> None:
    """Set torch's number of CPU threads; None leaves it as it is."""
    if count is not None:
        import torch

        torch.set_num_threads(count)
