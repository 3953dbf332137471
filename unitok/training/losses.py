"""The losses of UniTok: reconstruction, quantisation and mutual-information calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import unitok_kernels as uk
from unitok.config import LossWeights, UniTokConfig
from unitok.model.network import ModelOutput

_FEWEST_ROWS = 4  # with fewer, an estimate of HSIC is meaningless
_FEWEST_EQUAL = 16  # with fewer it is mostly bias, and small groups would bring that bias to all domains
_TINY = 1e-8  # keeps sqrt's gradient finite at 0; far below the chance variation of estimates on 32 rows


class Calibration(NamedTuple):
    """The calibration loss and its parts.

    Attributes:
        loss: scalar, over the domains that have an estimate.
        values: (num_domains,) HSIC of each domain, NaN if the domain was dropped.
        variance: scalar, Var_k[I_k].
    """

    loss: Tensor
    values: Tensor
    variance: Tensor


class Losses(NamedTuple):
    """The losses of a batch, each a scalar in squared units of x or z; only `total` is weighted."""

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
    """Make the latents of all domains depend equally, and strongly, on their embeddings.

    "paper":      L_mi = Var_k[I_k] - beta Mean_k[I_k],  I_k = HSIC(x_k, z_k) over the rows of domain k
    "variation":  L_mi = sqrt(Var_k[J_k]) / Mean_k[J_k],  J_k the mean of HSIC over groups of m rows of domain k

    Var divides by the number of domains. The estimate has a bias of about .16 / n on n MiniLM embeddings. At 50 rows
    that is as large as the value itself, so I_k depends on the number of rows as much as on the domain. J_k has the
    same bias in all domains, since m is the smallest number of rows of any domain in the batch; its loss has no scale.
    Domains with fewer than 4 rows (16 for "variation") are dropped: their value is NaN.

    Args:
        x: (N, D_in) float; gets no gradient.
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
    """Split each domain's rows into groups of `size`, without the remainder: the rows, and the group of each."""
    rows = domains.argsort(stable=True)
    owner = domains[rows]
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[owner]
    groups = counts // size
    whole = place < (groups * size)[owner]
    return rows[whole], ((groups.cumsum(0) - groups)[owner] + place // size)[whole]


def losses(x: Tensor, output: ModelOutput, domains: Tensor, num_domains: int, config: UniTokConfig) -> Losses:
    """Compute all losses of a batch.

    L = w_rec L_rec + w_rq L_rq + w_mi L_mi.

    Args:
        x: (N, D_in) float32.
        output: the model's output for x.
        domains: (N,) int64.
        num_domains: number of domains.
        config: gives the weights, and bandwidth and form of the calibration.

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
