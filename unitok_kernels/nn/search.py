"""How codes are found: the nearest codewords in one call, random ones, or the best of a beam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import unitok_kernels as uk
from unitok_kernels.nn.codebook import unit
from unitok_kernels.nn.config import CodebookOptions
from unitok_kernels.ops.common import wide

_SCORES = 1 << 22  # at most so many scores in a block of rows


def nearest(rows: Tensor, codebooks: Tensor, options: CodebookOptions) -> uk.ResidualCodes:
    """Find the nearest codeword of each level, all in one call; level by level if directions are compared.

    Args:
        rows: (N, D) float.
        codebooks: (L, K, D) float.
        options: the layer's options.

    Returns:
        ResidualCodes: as `residual_encode` gives them; level_error is empty if directions are compared.
    """
    settings: dict[str, Any] = {
        "precision": options.precision,
        "check_finite": options.check_finite,
        "backend": options.backend,
    }
    if not options.use_cosine_sim:
        return uk.residual_encode(rows, codebooks, **settings)
    residual, codes = wide(rows), []
    for codebook in codebooks:
        codes.append(uk.nearest_codeword(unit(residual), codebook, **settings).codes)
        residual = residual - codeword_of(codebook, codes[-1])
    found = torch.stack(codes, 1)
    quantized = uk.residual_decode(found, codebooks, check_finite=False, backend=options.backend)
    return uk.ResidualCodes(found, quantized.to(rows.dtype), rows.new_empty(0))


def drawn(rows: Tensor, codebooks: Tensor, sizes: tuple[int, ...], temperature: float, cosine: bool) -> Tensor:
    """Draw the code of each level with probability softmax(-distance / temperature), or softmax(cosine / temperature).

    Args:
        rows: (N, D) float.
        codebooks: (L, K, D) float.
        sizes: (L,) codewords of each level; the rest of its codebook is padding.
        temperature: larger than 0.
        cosine: whether directions are compared.

    Returns:
        Tensor: codes (N, L) int64.
    """
    residual, codes = wide(rows), []
    for codebook, size in zip(codebooks, sizes, strict=True):
        blocks = _blocks(unit(residual) if cosine else residual, size)
        scores = (_noisy(_scores(part, codebook[:size], cosine), temperature, cosine) for part in blocks)
        codes.append(torch.cat([part.argmax(1) for part in scores]))
        residual = residual - codeword_of(codebook, codes[-1])
    return torch.stack(codes, 1)


def beam(
    rows: Tensor,
    codebooks: Tensor,
    sizes: tuple[int, ...],
    width: int,
    weights: tuple[float, ...],
    cosine: bool,
    temperature: float | None = None,
) -> Tensor:
    """Find the chain of the lowest sum_l weight_l |x_l - q_l|^2 by a search that keeps `width` chains at each level.

    Args:
        rows: (N, D) float.
        codebooks: (L, K, D) float.
        sizes: (L,) codewords of each level; the rest of its codebook is padding.
        width: how many chains are kept.
        weights: (L,), weights of the levels.
        cosine: whether directions are compared.
        temperature: draw each chain's candidates, as `drawn` does; None or 0 takes the nearest.

    Returns:
        Tensor: codes (L, N, L) int64: the best chain after each level; -1 for the levels after it.
    """
    blocks = _blocks(wide(rows), width * max(sizes))
    return torch.cat([_beam(part, codebooks, sizes, width, weights, cosine, temperature) for part in blocks], 1)


def codeword_of(codebook: Tensor, codes: Tensor) -> Tensor:
    """Look up codewords (K, D); a row without a code gets zeros."""
    return torch.where(codes[:, None] >= 0, codebook[codes.clamp(min=0)], 0)


def gumbel(like: Tensor) -> Tensor:
    """Draw standard Gumbel noise; no value is infinite."""
    u = torch.rand_like(like)
    return -(-u.clamp(min=1e-20).log()).clamp(min=1e-20).log()


def _beam(
    rows: Tensor,
    codebooks: Tensor,
    sizes: tuple[int, ...],
    width: int,
    weights: tuple[float, ...],
    cosine: bool,
    temperature: float | None,
) -> Tensor:
    count, levels = rows.shape[0], len(sizes)
    residual, cost, chains = rows[:, None], rows.new_zeros(count, 1), rows.new_zeros(count, 1, 0, dtype=torch.int64)
    best = []
    for level, (codebook, size) in enumerate(zip(codebooks, sizes, strict=True)):
        x = unit(residual) if cosine else residual
        kept = min(width, size)
        scores = _scores(x.flatten(0, 1), codebook[:size], cosine)
        scores = _noisy(scores, temperature, cosine) if temperature else scores
        codes = scores.topk(kept, 1).indices.view(count, x.shape[1], kept)
        codeword = codebook[codes]
        error = (x[:, :, None] - codeword).square().mean(3)
        cost = (cost[:, :, None] + weights[level] * error).flatten(1)
        cost, place = cost.topk(min(width, cost.shape[1]), 1, largest=False)
        parent = place // kept
        code, codeword = codes.flatten(1).gather(1, place), _at(codeword.flatten(1, 2), place)
        chains = torch.cat((_at(chains, parent), code[:, :, None]), 2)
        residual = _at(residual, parent) - codeword
        best.append(F.pad(chains[:, 0], (0, levels - level - 1), value=-1))
    return torch.stack(best)


def _at(x: Tensor, place: Tensor) -> Tensor:
    """Take the rows at places (N, W) from x (N, J, D)."""
    return x.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))


def _scores(x: Tensor, codebook: Tensor, cosine: bool) -> Tensor:
    """Give scores (N, K), higher for nearer codewords: cosines, or negative squared distances.

    They are computed in float64: the expanded form needs its digits, and autocast doesn't change it.
    """
    rows, table = x.double(), codebook.double()
    if cosine:
        return (rows @ table.t()).to(x.dtype)
    norms = rows.square().sum(1, keepdim=True) + table.square().sum(1)
    return torch.addmm(norms, rows, table.t(), beta=-1, alpha=2).clamp(max=0).to(x.dtype)


def _noisy(scores: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Add noise so that the largest score is a draw from softmax(-distance / temperature), or of the cosines."""
    scores = scores if cosine else -(-scores).clamp(min=1e-8).sqrt()
    return scores / temperature + gumbel(scores)


def _blocks(x: Tensor, scores: int) -> tuple[Tensor, ...]:
    """Cut rows into blocks whose scores fit into memory; a graph gets one block, whatever the number of rows."""
    return (x,) if torch.compiler.is_compiling() else x.split(max(1, _SCORES // scores))
