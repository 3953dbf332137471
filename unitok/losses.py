"""The losses of UniTok: reconstruction, quantisation and mutual-information calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import unitok_kernels as uk
from unitok.config import LossWeights, UniTokConfig
from unitok.model import ModelOutput

_FEWEST_ROWS = 4  # under these an estimate of HSIC says nothing


class Calibration(NamedTuple):
    """The calibration loss and what it is made of.

    Attributes:
        loss: scalar, Var_k[I_k] - beta Mean_k[I_k] over the domains that were estimated.
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
    beta: float = LossWeights.beta,
    bandwidth: float | str = "median",
    normalised: bool = False,
) -> Calibration:
    """Keep the domains' latents equally and highly informative of their items.

    L_mi = Var_k[I_k] - beta Mean_k[I_k],  I_k = HSIC(x_k, z_k) over the rows of domain k; Var divides by the number of
    domains. A domain with fewer than 4 rows in the batch is dropped: its value is NaN.

    Args:
        x: (N, D_in) float; constant.
        z: (N, D) float; gets the gradient.
        domains: (N,) int64 in 0 .. num_domains - 1.
        num_domains: number of domains.
        beta: weight of the mean.
        bandwidth: sigma of the kernels, or "median".
        normalised: use CKA in place of the raw estimate.

    Returns:
        Calibration: loss, the domains' values, and their variance.

    Raises:
        ValueError: shapes or values don't fit; see `unitok_kernels.hsic`.

    Source:
        UniTok, arXiv 2511.12922.
    """
    estimates = uk.hsic(x, z, domains, num_segments=num_domains, bandwidth=bandwidth, normalised=normalised)
    kept = torch.bincount(domains, minlength=num_domains) >= _FEWEST_ROWS
    count = kept.sum().clamp(min=1)
    mean = torch.where(kept, estimates, 0).sum() / count
    variance = torch.where(kept, (estimates - mean).square(), 0).sum() / count
    return Calibration(variance - beta * mean, torch.where(kept, estimates, torch.nan).detach(), variance)


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
