"""The losses of UniTok: reconstruction, quantisation and mutual-information calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import unitok_kernels as uk
from unitok.config import LossWeights, UniTokConfig
from unitok.model import ModelOutput

_FEWEST_ROWS = 4  # under these an estimate of HSIC says nothing
_FEWEST_EQUAL = 16  # and under these it is mostly bias, which groups of that size would bring to all domains
_TINY = 1e-8  # far below the variation that estimates on 32 rows have by chance; keeps sqrt's gradient finite at 0


class Calibration(NamedTuple):
    """The calibration loss and what it is made of.

    Attributes:
        loss: scalar, over the domains that were estimated.
        values: (num_domains,) HSIC of each domain, NaN where it was dropped.
        variance: scalar, Var_k[I_k].
    """

    loss: Tensor
    values: Tensor
    variance: Tensor


class Losses(NamedTuple):
    """The losses of a batch, each a scalar in squared units of x or z, unweighted but for `total`."""

    total: Tensor
    reconstruction: Tensor
    quantisation: Tensor
    calibration: Calibration


def reconstruction_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared distance between rows and their reconstruction.

    L_rec = mean_n |x_n - x_hat_n|^2.

    Args:
        x: (N, D_in) float.
        x_hat: (N, D_in) float.

    Returns:
        Tensor: scalar, in squared units of x, summed over D_in; 0 where N = 0.

    Source:
        UniTok, arXiv 2511.12922.
    """
    return (x - x_hat).square().sum() / max(len(x), 1)


def calibration_loss(
    x: Tensor,
    z: Tensor,
    domains: Tensor,
    num_domains: int,
    *,
    form: str = UniTokConfig.calibration,
    beta: float = LossWeights.beta,
    bandwidth: float | str = "median",
    normalised: bool = False,
) -> Calibration:
    """Keep the domains' latents equally, and highly, informative of their items.

    "paper":      L_mi = Var_k[I_k] - beta Mean_k[I_k],  I_k = HSIC(x_k, z_k) over the rows of domain k
    "variation":  L_mi = sqrt(Var_k[J_k]) / Mean_k[J_k],  J_k the mean of HSIC over groups of m rows of domain k

    Var divides by the number of domains. The estimate's bias goes with 1 / n: .16 / n on MiniLM embeddings, which at 50
    rows is as much as the value itself, so that I_k compares numbers of rows as much as domains. J_k has one bias for
    all, as m is the fewest rows that a domain has in the batch, and its loss has no scale. Domains of fewer than 4 rows
    (16 for "variation") are dropped: their value is NaN.

    Args:
        x: (N, D_in) float; constant.
        z: (N, D) float; gets the gradient.
        domains: (N,) int64 in 0 .. num_domains - 1.
        num_domains: number of domains.
        form: "paper" | "variation".
        beta: weight of the mean in "paper".
        bandwidth: sigma of the kernels, or "median".
        normalised: use CKA in place of the raw estimate.

    Returns:
        Calibration: loss, the domains' values, and their variance.

    Raises:
        ValueError: shapes or values don't fit; see `unitok_kernels.hsic`.

    Source:
        UniTok, arXiv 2511.12922, for "paper"; Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt
        norms", 2005, for the bias.
    """
    counts = torch.bincount(domains, minlength=num_domains)
    kept = counts >= (_FEWEST_ROWS if form == "paper" else _FEWEST_EQUAL)
    if form == "paper" or not kept.any():
        estimates = uk.hsic(x, z, domains, num_segments=num_domains, bandwidth=bandwidth, normalised=normalised)
    else:
        size = int(counts[kept].min())
        rows, groups = _equal_groups(domains, counts, size)
        per_domain = counts // size
        total = int(per_domain.sum())
        found = uk.hsic(x[rows], z[rows], groups, num_segments=total, bandwidth=bandwidth, normalised=normalised)
        owners = torch.repeat_interleave(per_domain)
        estimates = found.new_zeros(num_domains).index_add(0, owners, found) / per_domain.clamp(min=1)
    count = kept.sum().clamp(min=1)
    mean = torch.where(kept, estimates, 0).sum() / count
    variance = torch.where(kept, (estimates - mean).square(), 0).sum() / count
    loss = variance - beta * mean if form == "paper" else (variance / mean.square().clamp(min=_TINY) + _TINY).sqrt()
    return Calibration(loss, torch.where(kept, estimates, torch.nan).detach(), variance)


def _equal_groups(domains: Tensor, counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut each domain's rows into groups of `size`, leaving a rest out: the rows, and the group of each."""
    rows = domains.argsort(stable=True)
    owner = domains[rows]
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[owner]
    groups = counts // size
    whole = place < (groups * size)[owner]
    return rows[whole], ((groups.cumsum(0) - groups)[owner] + place // size)[whole]


def losses(x: Tensor, output: ModelOutput, domains: Tensor, num_domains: int, config: UniTokConfig) -> Losses:
    """Put the losses of a batch together.

    L = w_rec L_rec + w_rq L_rq + w_mi L_mi.

    Args:
        x: (N, D_in) float32.
        output: what the model made of it.
        domains: (N,) int64.
        num_domains: number of domains.
        config: weights, bandwidth and form of the calibration.

    Returns:
        Losses: the total and its parts. With a weight of 0, L_mi is measured without a gradient.

    Source:
        UniTok, arXiv 2511.12922.
    """
    weights = config.weights
    reconstruction = reconstruction_loss(x, output.x_hat)
    calibrated = calibration_loss(
        x,
        output.z if weights.calibration else output.z.detach(),
        domains,
        num_domains,
        form=config.calibration,
        beta=weights.beta,
        bandwidth=config.bandwidth,
        normalised=config.normalised_hsic,
    )
    quantisation = output.quantized.loss
    total = (
        weights.reconstruction * reconstruction
        + weights.quantisation * quantisation
        + weights.calibration * calibrated.loss
    )
    return Losses(total, reconstruction, quantisation, calibrated)
