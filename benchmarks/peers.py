"""Alternatives to our operations: the usual torch code, and other libraries.

Each is a function of a case's inputs. What a library can prepare once, such as its copy of the codebooks, is prepared
before timing. The chains return only codes; ours also return `quantized` and `level_error`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from rich import print as say
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Level

COMMITMENT = 0.25  # the weight of the commitment term, everywhere

Nearest = Callable[[Tensor, Tensor], Tensor]
Chain = Callable[[Tensor, Tensor], Tensor]


@cache
def library(name: str) -> ModuleType | None:
    """Import a library to compare with; if it is missing, say so and return None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        say(f"[dim]{name} is not installed: it is left out[/]")
        return None


def nearest_expanded(r: Tensor, c: Tensor) -> Tensor:
    """The usual torch code, in the expanded form."""
    return ((c * c).sum(1) - 2 * r @ c.t()).argmin(1)


def nearest_cdist(r: Tensor, c: Tensor) -> Tensor:
    """The usual torch code, with cdist."""
    return torch.cdist(r, c).argmin(1)


def nearest_faiss(r: Tensor, c: Tensor) -> Tensor:
    """A flat faiss index, built in the call."""
    index = library("faiss").IndexFlatL2(c.shape[1])
    index.add(c.numpy())
    return torch.from_numpy(index.search(r.numpy(), 1)[1][:, 0])


def chain(nearest: Nearest) -> Chain:
    """Make a residual chain from a search of one codebook."""

    def encode(z: Tensor, codebooks: Tensor) -> Tensor:
        residual, codes = z, []
        for codebook in codebooks:
            code = nearest(residual, codebook)
            residual = residual - codebook[code]
            codes.append(code)
        return torch.stack(codes, 1)

    return encode


def faiss_residual_quantizer(codebooks: Tensor) -> Chain:
    """faiss.ResidualQuantizer with beam 1, which makes it the greedy chain."""
    faiss = library("faiss")
    levels, size, width = codebooks.shape
    bits = (size - 1).bit_length()
    quantizer = faiss.ResidualQuantizer(width, levels, bits)
    quantizer.max_beam_size, quantizer.is_trained = 1, True
    faiss.copy_array_to_vector(codebooks.numpy().ravel(), quantizer.codebooks)

    def encode(z: Tensor, codebooks: Tensor) -> Tensor:
        packed = quantizer.compute_codes(z.numpy())
        return torch.from_numpy(faiss.unpack_bitstrings(packed, levels, bits)).long()

    return encode


def residual_vq(codebooks: Tensor, device: str = "cpu") -> Chain:
    """ResidualVQ of vector-quantize-pytorch in eval mode."""
    levels, size, width = codebooks.shape
    module = library("vector_quantize_pytorch").ResidualVQ(dim=width, num_quantizers=levels, codebook_size=size).eval()
    for layer, codebook in zip(module.layers, codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
        layer._codebook.initted.data.fill_(True)
    module = module.to(device)

    @torch.no_grad()
    def encode(z: Tensor, codebooks: Tensor) -> Tensor:
        return module(z[None])[1][0]

    return encode


def searches() -> list[Level]:
    """Return the levels for one codebook."""
    levels = [
        Level("torch eager", nearest_expanded),
        Level("torch eager, cdist", nearest_cdist),
        Level("torch.compile", compiled(nearest_expanded), compiled=True),
    ]
    return levels + ([Level("faiss IndexFlatL2", nearest_faiss)] if library("faiss") else [])


def chains(codebooks: Tensor) -> list[Level]:
    """Return the levels for a chain of codebooks."""
    levels = [
        Level("torch eager", chain(nearest_expanded)),
        Level("torch eager, cdist", chain(nearest_cdist)),
        Level("torch.compile", compiled(chain(nearest_expanded)), compiled=True),
    ]
    if library("faiss"):
        levels.append(Level("faiss IndexFlatL2 per level", chain(nearest_faiss)))
        levels.append(Level("faiss ResidualQuantizer", faiss_residual_quantizer(codebooks)))
    if library("vector_quantize_pytorch"):
        levels.append(Level("vector-quantize-pytorch", residual_vq(codebooks)))
    return levels


def compiled(function: Callable) -> Callable:
    """Compile for fixed sizes, as a loop over equal batches does; nothing is kept from the previous case."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def routed(
    z: Tensor, codebooks: Tensor, expert_ids: Tensor, weights: Tensor, shared: Tensor | None, shared_weight: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Routed experts and a shared one in the usual torch code: a loop over the experts, with a mask for each."""
    encode = chain(nearest_expanded)
    codes = expert_ids.new_empty(*expert_ids.shape, codebooks.shape[1])
    combined = torch.zeros_like(z)
    for expert, tables in enumerate(codebooks):
        rows, slots = (expert_ids == expert).nonzero(as_tuple=True)
        codes[rows, slots] = found = encode(z[rows], tables)
        combined.index_add_(0, rows, weights[rows, slots, None] * decoded(found, tables))
    if shared is None:
        return codes, combined, None
    shared_codes = encode(z, shared)
    return codes, combined + shared_weight * decoded(shared_codes, shared), shared_codes


def dense_mixture(
    z: Tensor, codebooks: Tensor, probs: Tensor, shared: Tensor, routed_weight: float, shared_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The `public_code` preset: every level of one chain is a mixture of all experts' codewords."""
    residual, quantized, emitted, shared_codes = z, torch.zeros_like(z), [], []
    for level, table in enumerate(shared):
        shared_codes.append(nearest_expanded(residual, table))
        mixture, codes = shared_weight * table[shared_codes[-1]], []
        for expert in range(len(codebooks)):
            codes.append(nearest_expanded(residual, codebooks[expert, level]))
            mixture = mixture + routed_weight * probs[:, expert, None] * codebooks[expert, level][codes[-1]]
        residual, quantized = residual - mixture, quantized + mixture
        emitted.append(torch.stack(codes, 1))
    return torch.stack(emitted, 2), quantized, torch.stack(shared_codes, 1)


def decoded(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Sum the codewords of a chain."""
    return sum(codebook[code] for code, codebook in zip(codes.unbind(1), codebooks, strict=True))


def decoded_by_embedding(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The same with F.embedding, whose gradient sums rows faster than that of indexing."""
    return sum(F.embedding(code, codebook) for code, codebook in zip(codes.unbind(1), codebooks, strict=True))


def chain_loss(z: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Codebook and commitment loss of a chain, with gradients by autograd."""
    residual, loss = z, z.new_zeros(())
    for code, codebook in zip(codes.unbind(1), codebooks, strict=True):
        codeword = codebook[code]
        loss = loss + (residual.detach() - codeword).square().sum()
        loss = loss + COMMITMENT * (residual - codeword.detach()).square().sum()
        residual = residual - codeword.detach()
    return loss / max(len(z), 1)


def quantised_with_loss(z: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A chain of a training step: codes, the sum of codewords, and the summed loss, with gradients by autograd."""
    residual, quantized, loss, codes = z, torch.zeros_like(z), z.new_zeros(()), []
    for codebook in codebooks:
        codes.append(nearest_expanded(residual.detach(), codebook.detach()))
        codeword = codebook[codes[-1]]
        loss = loss + (residual.detach() - codeword).square().sum()
        loss = loss + COMMITMENT * (residual - codeword.detach()).square().sum()
        residual, quantized = residual - codeword.detach(), quantized + codeword.detach()
    return torch.stack(codes, 1), quantized, loss


def hsic_matrix(x: Tensor, z: Tensor) -> Tensor:
    """HSIC of one segment in matrix form: trace(U H V H) / (n - 1)^2, with the same median bandwidth as ours."""
    u, v = _gaussian(x), _gaussian(z)
    u = u - u.mean(0) - u.mean(1, keepdim=True) + u.mean()
    return (u * v).sum() / (len(x) - 1) ** 2


def _gaussian(x: Tensor) -> Tensor:
    x = x - x.detach().mean(0)  # at an offset, the expanded form loses digits
    norms = x.square().sum(1)
    squared = (norms[:, None] + norms - 2 * x @ x.T).clamp(min=0)
    stride = -(-len(x) // 1024)
    some = squared.detach()[::stride, ::stride].clone().fill_diagonal_(0)
    return torch.exp(squared / (-2 * some[some > 0].median()))
