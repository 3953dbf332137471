"""Where the rows of a language model's new tokens start: as drawn, at the mean, or where the items' vectors say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unitok.recommender.token_table import Column
from unitok_kernels import checks
from unitok_kernels.rules import fail, one_of

STARTS = ("resize", "mean")
_SEED = 0  # of the random turn


def check_start(what: str, start: object, items: int) -> None:
    """Refuse a start that is none; see `extend_vocabulary`.

    Args:
        what: the operation that a message names.
        start: one of `STARTS`, or (N, D) float vectors of the items.
        items: N.

    Raises:
        TypeError: neither a name nor a tensor of floats.
        ValueError: an unknown name, vectors of another number of items, or with NaN or infinity.
    """
    if isinstance(start, str):
        one_of(what, "start", start, STARTS)
        return
    checks.tensors(what, start=start)
    assert isinstance(start, Tensor)
    checks.floating(what, "start", start, "(N, D)")
    checks.same(what, "start", len(start), "ids", items, "rows")
    if not start.shape[1] or not bool(start.isfinite().all()):
        step = "Pass vectors of at least one number each, without NaN or infinity."
        fail(what, "start", "finite vectors", f"{tuple(start.shape)} with others", step)


@torch.no_grad()
def start_rows(
    model: Any, found: Sequence[Column], numbers: Sequence[Sequence[int]], taken: set[int], start: str | Tensor
) -> None:
    """Set the rows of new tokens, in the embeddings and in a head that has weights of its own.

    row = m + s (v - mean of v) P: m is the mean of the rows of old tokens; v, of a token, the mean of its items'
    vectors; P turns D into the model's width, and is orthonormal. s makes the mean square of what is added to m that of
    the old rows about m, in each column of tokens for itself, since later levels of a residual quantizer are finer.

    Args:
        model: of transformers, grown already.
        found: the columns of tokens.
        numbers: the tokens' numbers, by column.
        taken: numbers of tokens that were there before; their rows stay.
        start: see `extend_vocabulary`.

    Source: P keeps distances exactly where D is at most the width; else as Johnson and Lindenstrauss, 1984, bound it.
    """
    if isinstance(start, str) and start == "resize":
        return
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = {id(head.weight): head.weight for head in heads if head is not None}  # tied ones once
    old = sorted(number for number in taken if number < len(heads[0].weight))
    for weight in weights.values():
        kept = weight[old].float()
        mean = kept.mean(0)
        spread = (kept - mean).square().sum(1).mean()
        for column, own in zip(found, numbers, strict=True):
            rows = mean.expand(len(own), -1)
            if isinstance(start, Tensor):
                moved = _means(column, start.to(mean), len(own)) @ _turn(start.shape[1], len(mean)).to(mean)
                there = column.values.bincount(minlength=len(own)).to(mean.device) > 0
                square = moved[there].square().sum(1).mean()
                rows = mean + moved * (spread / square).sqrt() if square > 0 else rows
            new = [place for place, number in enumerate(own) if number not in taken]
            weight[[own[place] for place in new]] = rows[new].to(weight.dtype)


def _means(column: Column, vectors: Tensor, tokens: int) -> Tensor:
    """Average the vectors of each token's items, about the mean of the tokens that have items; 0 for the others."""
    values = column.values.to(vectors.device)
    sums = vectors.new_zeros(tokens, vectors.shape[1]).index_add_(0, values, vectors)
    counts = values.bincount(minlength=tokens)[:, None]
    means = sums / counts.clamp(min=1)
    return (means - means[counts[:, 0] > 0].mean(0)).where(counts > 0, 0)


def _turn(wide: int, narrow: int) -> Tensor:
    """Draw a (wide, narrow) matrix of orthonormal rows, or of orthonormal columns where it is higher than wide."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(max(wide, narrow), min(wide, narrow), generator=generator)
    turned = torch.linalg.qr(drawn).Q
    return turned if wide > narrow else turned.T
