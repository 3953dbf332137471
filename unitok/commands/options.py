"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

TokenizerFolder = Annotated[
    Path, typer.Argument(metavar="TOKENIZER", help="Folder of a fitted tokenizer.", show_default=False)
]
Items = Annotated[
    Path, typer.Argument(metavar="DATA", help="A catalogue, or the folder of one domain.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]


def choice(help_text: str, *names: str) -> Any:
    """Declare an option that takes one of a few names; any other is an error of usage."""
    return typer.Option(metavar="|".join(names), callback=one_of(*names), help=help_text)


def one_of(*names: str) -> Callable[[str], str]:
    """Give a check that a value is one of a few names."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check
