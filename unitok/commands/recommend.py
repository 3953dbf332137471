"""`unitok recommend`: the next item, by a sequence model over semantic IDs."""

from __future__ import annotations

import typer

from unitok.commands.recommend_evaluate import evaluate
from unitok.commands.recommend_next import next_items
from unitok.commands.recommend_train import train

recommend = typer.Typer(no_args_is_help=True)
recommend.command("train")(train)
recommend.command("evaluate")(evaluate)
recommend.command("next")(next_items)


@recommend.callback()
def _recommend() -> None:
    """Train a recommender on IDs, measure it, and ask it for the next items.

    A model of transformers reads a user's items as the tokens of their IDs, and a search that can only spell items of
    the catalogue names what comes next. `pip install 'unitok-kernels[recommend]'` brings what it needs.

    For example:

        unitok recommend train catalogue ids.parquet --out runs/recommender
        unitok recommend evaluate runs/recommender catalogue
        unitok recommend next runs/recommender catalogue --users 7,12
    """
