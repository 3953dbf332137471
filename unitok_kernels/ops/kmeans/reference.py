"""Lloyd's k-means in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops.codeword_statistics.reference import codeword_statistics
from unitok_kernels.ops.common import finite_rows, search, wide
from unitok_kernels.ops.kmeans.balanced import balanced_codes


def kmeans(
    x: Tensor,
    num_codewords: int,
    iterations: int,
    seed: int,
    init: str,
    start: Tensor | None,
    balanced: bool,
    check_finite: bool | None,
) -> tuple[Tensor, Tensor]:
    """Reference of the operation."""
    if checks.reads_data(check_finite, x):
        checks.finite("kmeans", "x", x)
        if start is not None:
            checks.finite("kmeans", "init", start)
    good = finite_rows(x)
    rows = wide(x)[good]
    checks.at_least(
        "kmeans", "x's finite rows", len(rows), num_codewords, "Repair the others or ask for fewer codewords."
    )
    generator = torch.Generator().manual_seed(seed)
    if start is not None:
        codebook = wide(start).clone()
    elif init == "random":
        codebook = rows[torch.randperm(len(rows), generator=generator)[:num_codewords].to(x.device)]
    else:
        codebook = _plus_plus(rows, num_codewords, generator)

    codes = _assign(rows, codebook, balanced)
    for _ in range(iterations):
        sums, counts = codeword_statistics(rows, codes, num_codewords, False)
        codebook = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), codebook)
        codebook = _revive(rows, codes, codebook, counts)
        before, codes = codes, _assign(rows, codebook, balanced)
        if torch.equal(before, codes):
            break
    everywhere = torch.full((x.shape[0],), -1, device=x.device)
    everywhere[good] = codes
    return codebook, everywhere


def _assign(rows: Tensor, codebook: Tensor, balanced: bool) -> Tensor:
    return balanced_codes(rows, codebook) if balanced else search(rows, codebook)[0]


def _plus_plus(rows: Tensor, num_codewords: int, generator: torch.Generator) -> Tensor:
    """Draw rows one by one, with probabilities proportional to the squared distance from those already drawn."""
    draws = torch.rand(num_codewords, generator=generator, dtype=torch.float64)
    index = int(draws[0] * len(rows))
    chosen = [index]
    exact = rows.double()
    nearest = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    for draw in draws[1:]:
        nearest = torch.minimum(nearest, (exact - exact[index]).square_().sum(1))
        cumulative = nearest.cumsum(0)
        total = float(cumulative[-1])
        if total > 0:
            index = int(torch.searchsorted(cumulative, float(draw) * total, right=True).clamp(max=len(rows) - 1))
        else:  # fewer distinct rows than codewords
            index = int(draw * len(rows))
        chosen.append(index)
    return rows[torch.tensor(chosen, device=rows.device)]


def _revive(rows: Tensor, codes: Tensor, codebook: Tensor, counts: Tensor) -> Tensor:
    empty = (counts == 0).nonzero().squeeze(1)
    if empty.numel() == 0:
        return codebook
    error = (rows.double() - codebook[codes].double()).square().sum(1)
    error, far = error.sort(descending=True, stable=True)
    far = far[: empty.numel()][error[: empty.numel()] > 0]
    codebook = codebook.clone()
    codebook[empty[: far.numel()]] = rows[far]
    return codebook
