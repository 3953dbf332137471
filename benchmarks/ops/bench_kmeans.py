"""kmeans from the same start: Lloyd, and balanced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import InertiaCheck, WrongResultError, inertia
from benchmarks.harness import Level, ours

ITERATIONS = 20
Clustering = Callable[[Tensor, Tensor], Any]


def lloyd(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return uk.kmeans(x, len(start), iterations=ITERATIONS, seed=0, init=start)


def balanced(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return uk.kmeans(x, len(start), iterations=ITERATIONS, seed=0, init=start, balanced=True)


def faiss_kmeans(x: Tensor, start: Tensor) -> tuple[Tensor, None]:
    settings = {"niter": ITERATIONS, "min_points_per_centroid": 1, "max_points_per_centroid": len(x)}
    clustering = peers.library("faiss").Kmeans(x.shape[1], len(start), **settings)
    clustering.train(x.numpy(), init_centroids=start.numpy())
    return torch.from_numpy(clustering.centroids), None


def sklearn_lloyd(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    settings = {"n_init": 1, "max_iter": ITERATIONS, "tol": 0.0, "algorithm": "lloyd"}
    with threadpool_limits(torch.get_num_threads()):
        found = KMeans(len(start), init=start.numpy(), **settings).fit(x.numpy())
    return torch.from_numpy(found.cluster_centers_), torch.from_numpy(found.labels_).long()


def constrained(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    least, most = bounds(x, start)
    settings = {"n_init": 1, "max_iter": ITERATIONS, "tol": 0.0, "n_jobs": 1}  # a job runs one start, and there is one
    found = peers.library("k_means_constrained").KMeansConstrained(
        len(start), size_min=least, size_max=most, init=start.numpy(), **settings
    )
    found.fit(x.numpy())
    return torch.from_numpy(found.cluster_centers_).float(), torch.from_numpy(found.labels_).long()


def torch_lloyd(x: Tensor, start: Tensor, iterations: int = ITERATIONS) -> tuple[Tensor, Tensor]:
    codebook = start
    for _ in range(iterations):
        codes = peers.nearest_expanded(x, codebook)
        counts = codes.bincount(minlength=len(start))
        sums = torch.zeros_like(start).index_add_(0, codes, x)
        codebook = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), codebook)
    return codebook, peers.nearest_expanded(x, codebook)


def bounds(x: Tensor, start: Tensor) -> tuple[int, int]:
    """Return the fewest and most rows of a cluster that `balanced` allows."""
    return len(x) // (2 * len(start)), -(-2 * len(x) // len(start))


@pytest.mark.parametrize("rows", [pytest.param(100_000, id="100k")])
def test_lloyd(race, rows: int) -> None:
    x = inputs.clusters(rows, 32, 400)
    start = inputs.distinct_rows(x, 256)
    check = InertiaCheck(x, torch_lloyd(x.double(), start.double())[0].float())
    flops = 2.0 * rows * 256 * 32 * ITERATIONS
    levels = [*ours("kmeans", lloyd, flops=flops, budget=15), Level("torch eager", torch_lloyd, budget=15)]
    if peers.library("faiss"):
        levels.append(Level("faiss Kmeans", faiss_kmeans, budget=15))
    if peers.library("sklearn"):
        levels.append(Level("scikit-learn KMeans, lloyd", sklearn_lloyd, budget=15))
    race(
        "kmeans",
        "100k x 32, K=256, 20 iterations",
        levels,
        (x, start),
        small=(x[:2000], start),
        check=check,
        flops=flops,
    )


@pytest.mark.slow
def test_balanced(race) -> None:
    x = inputs.clusters(20_000, 32, 64, skew=1.5)
    start = inputs.distinct_rows(x, 64)
    least, most = bounds(x, start)
    reached: dict[str, float] = {}

    def check(level: Level, result: Any) -> None:
        codebook, codes = result
        counts = codes.bincount(minlength=len(start))
        if int(counts.min()) < least or int(counts.max()) > most:
            raise WrongResultError(f"{level.name}: {int(counts.min())} to {int(counts.max())} rows per cluster")
        reached[level.name] = inertia(x, codebook, codes)
        best = reached.get("k-means-constrained", reached[level.name])
        for name, value in reached.items():
            if value > 1.03 * best:
                raise WrongResultError(f"{name}: inertia {value / best:.3f} x that of k-means-constrained")

    levels = ours("kmeans", balanced)
    if peers.library("k_means_constrained"):
        levels.append(Level("k-means-constrained", constrained))
    race(
        "kmeans",
        "20k x 32, K=64, balanced, skewed",
        levels,
        (x, start),
        small=(x[:1000], start),
        check=check,
    )
