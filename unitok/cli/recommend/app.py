"""`unitok recommend`: predict the next item with a sequence model over semantic IDs."""

from __future__ import annotations

import typer

from unitok.cli.recommend.evaluate import evaluate
from unitok.cli.recommend.next import next_items
from unitok.cli.recommend.train import train

recommend = typer.Typer(no_args_is_help=True)
recommend.command("train")(train)
recommend.command("evaluate")(evaluate)
recommend.command("next")(next_items)


@recommend.callback()
def _recommend() -> None:
    """Train a recommender on IDs, evaluate it, and ask it for the next items.

    A model of transformers reads a user's items as the tokens of their IDs. A beam search then names the next items; it
    can only produce items of the catalogue. Needs `pip install 'unitok-kernels[recommend]'`.

    For example:

        unitok recommend train catalogue ids.parquet --out runs/recommender
        unitok recommend evaluate runs/recommender catalogue
        unitok recommend next runs/recommender catalogue --users 7,12
    """
