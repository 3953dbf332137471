"""A loss that keeps codewords orthogonal, and noisy gradients to codewords."""

from __future__ import annotations

import torch
from torch import Tensor

from unitok_kernels.nn.codebook import unit


def orthogonality(embed: Tensor, codes: Tensor | None, most: int | None) -> Tensor:
    """Measure how far codewords are from orthogonal.

    1/H sum_h mean_ij cos(c_i, c_j)^2 - 1/n over n codewords.

    Args:
        embed: (H, K, D).
        codes: take only the codewords with these codes; None takes all.
        most: draw at most so many of them; None takes all.

    Returns:
        Tensor: scalar, without a unit.

    Source:
        Shin et al., "Translation-equivariant image quantizer", arXiv 2112.00384, eq. 2.
    """
    heads, size, _ = embed.shape
    kept = torch.ones(size, device=embed.device)
    if codes is not None:  # a mask of all codewords: asking how many are used would wait for the device
        index = torch.where(codes < 0, size, codes).flatten()
        kept = torch.zeros(size + 1, device=embed.device).index_fill_(0, index, 1.0)[:size]
    if most is not None and most < size:
        keys = torch.where(kept > 0, torch.rand(size, device=embed.device), 2.0)
        kept = kept * (keys.argsort().argsort() < most)
    count = kept.sum().clamp(min=1)
    directions = unit(embed.float()) * kept[:, None]
    return (directions @ directions.transpose(1, 2)).square().sum() / (heads * count**2) - 1 / count


def directional(x: Tensor, quantized: Tensor, variance: float) -> Tensor:
    """Step from x in a noisy direction, as far as its codeword is: so codewords get gradients through the distance.

    x + sg(v / |v|) |q - x|,  v = q - x + noise.

    Args:
        x: (N, D) float.
        quantized: (N, D), with gradients to codebooks.
        variance: variance of the noise, per value.

    Returns:
        Tensor: (N, D).

    Source:
        Vali et al., "DiVeQ: differentiable vector quantization using the reparameterization trick", 2025, figure 1.
    """
    step = quantized - x
    noisy = unit(step + variance**0.5 * torch.randn_like(step)).detach()
    return x + noisy * torch.linalg.vector_norm(step, dim=-1, keepdim=True)
