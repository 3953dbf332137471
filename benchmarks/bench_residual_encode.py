"""residual_encode beside what a user could pick instead; a time is taken only after the results agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk

SHAPES = {"64k x 32, K=256, L=4": (65_536, 32, 256, 4), "4k x 128, K=1024, L=8": (4_096, 128, 1024, 8)}


def eager(z: Tensor, codebooks: Tensor) -> Tensor:
    """The usual torch code: expanded squared distances, argmin, gather, subtract."""
    residual, codes = z, []
    for codebook in codebooks:
        code = ((codebook * codebook).sum(1) - 2 * residual @ codebook.T).argmin(1)
        residual = residual - codebook[code]
        codes.append(code)
    return torch.stack(codes, 1)


def faiss_flat(z: Tensor, codebooks: Tensor) -> Tensor:
    """faiss, one flat index a level."""
    faiss = pytest.importorskip("faiss")
    residual, codes = z, []
    for codebook in codebooks:
        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(codebook.numpy())
        code = torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0])
        residual = residual - codebook[code]
        codes.append(code)
    return torch.stack(codes, 1)


def ours(z: Tensor, codebooks: Tensor) -> Tensor:
    """The operation on the backend that the machine gets."""
    return uk.residual_encode(z, codebooks).codes


@pytest.mark.parametrize("encode", [ours, eager, faiss_flat], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_residual_encode(
    benchmark: Callable[..., Tensor], encode: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int, int]
) -> None:
    rows, width, size, levels = shape
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, width, generator=generator)
    codebooks = torch.randn(levels, size, width, generator=generator) * 0.5 ** torch.arange(levels)[:, None, None]
    expected = uk.residual_encode(z, codebooks, backend="reference").codes
    # float32 forms may lose near ties, and a row that differs once differs on every later level
    assert (encode(z, codebooks) == expected).all(1).float().mean() > 0.999
    benchmark.pedantic(encode, args=(z, codebooks), rounds=7, warmup_rounds=1)
