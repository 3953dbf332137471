"""How certain the difference of two recommenders is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unitok_kernels import checks

RESAMPLES = 10_000
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True)
class Difference:
    """How one recommender differs from another on the same queries.

    Attributes:
        mean: of the differences.
        low: of the 95 % interval.
        high: of the 95 % interval.
        p: two-sided, of the mean being 0; at least 1 / resamples.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(differences: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Estimate how certain a mean difference is, by resampling the queries.

    A resample is Q draws with replacement; p = 2 min(share of resampled means <= 0, share >= 0).

    Args:
        differences: (Q,) float64, of a metric between two recommenders, query by query.
        resamples: B.
        seed: of the draws.

    Returns:
        The mean, the interval between the 2.5th and the 97.5th percentile of the resampled means, and p.

    Raises:
        TypeError: differences that are no tensor, or a number that is no integer.
        ValueError: no queries, or no resamples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Koehn, EMNLP 2004.
    """
    checks.tensors("paired_bootstrap", differences=differences)
    checks.whole("paired_bootstrap", resamples=resamples, seed=seed)
    return resampled("paired_bootstrap", differences, resamples, seed)


def resampled(what: str, differences: Tensor, resamples: int, seed: int) -> Difference:
    """`paired_bootstrap`, for the operation that a message names."""
    if not len(differences) or resamples < 1:
        got = f"{len(differences)} and {resamples}"
        raise ValueError(f"{what}: queries and resamples must be at least 1, got {got}. Pass some of each.")
    # Most differences are 0, so a resample is a multinomial draw of how often each distinct value occurs.
    values, counts = np.unique(differences.numpy(), return_counts=True)
    generator, total = np.random.default_rng(seed), len(differences)
    at_once = max(1, _DRAWN_AT_ONCE // len(values))
    blocks = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = np.concatenate([generator.multinomial(total, counts / total, size) @ values for size in blocks]) / total
    low, high = np.quantile(means, (0.025, 0.975))
    p = 2 * min((means <= 0).sum(), (means >= 0).sum()) / resamples
    return Difference(float(differences.mean()), float(low), float(high), float(np.clip(p, 1 / resamples, 1)))
