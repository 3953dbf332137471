"""The command `unitok`: each command is a module of `unitok.cli`; nothing heavy is imported before one runs."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unitok import __version__
from unitok.cli.data.embed import embed
from unitok.cli.data.import_ import import_
from unitok.cli.demo import demo
from unitok.cli.doctor import doctor
from unitok.cli.ids.app import ids
from unitok.cli.recommend.app import recommend
from unitok.cli.terminal import Refusal, say
from unitok.cli.tokenizer.add_domain import add_domain
from unitok.cli.tokenizer.check_domain import check_domain
from unitok.cli.tokenizer.decode import decode
from unitok.cli.tokenizer.fit import fit
from unitok.cli.tokenizer.report import report
from unitok.cli.tokenizer.tokenize import tokenize
from unitok.cli.verify import verify

DEBUG = "UNITOK_DEBUG"


class _Commands(TyperGroup):
    """Reports a problem with the input as one line on stderr and exit code 1; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            if not _is_about_the_input(error) or os.environ.get(DEBUG) == "1":
                raise
            say(f"error: {_in_one_line(error)}")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, import_, embed, fit, tokenize, decode, check_domain, add_domain, report, verify, doctor):
    app.command(command.__name__.strip("_").replace("_", "-"))(command)
app.add_typer(ids, name="ids")
app.add_typer(recommend, name="recommend")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unitok {__version__}")
        raise typer.Exit


@app.callback()
def unitok(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fit one item tokenizer for many domains, and turn items into semantic IDs.

    New here? `unitok demo --out runs/demo` shows everything on generated items, in under a minute.

    Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 a problem with the input, 2 with the
    command line, 130 interrupted. UNITOK_DEBUG=1 shows the traceback behind an error.
    """


def _is_about_the_input(error: Exception) -> bool:
    from safetensors import SafetensorError  # raised if a file can't be written

    # A broken pipe, as in `unitok report ... | head`, is left to typer.
    return isinstance(error, Refusal | ValueError | OSError | SafetensorError) and not isinstance(
        error, BrokenPipeError
    )


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run the command line and exit."""
    app()
