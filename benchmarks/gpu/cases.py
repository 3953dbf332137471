"""The cases of the GPU benchmarks: inputs, levels and checks of each operation, mostly shared with the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import unitok_kernels as uk
from benchmarks import inputs, peers
from benchmarks.checks import ChainCheck, CloseCheck, InertiaCheck
from benchmarks.harness import Level, WrongResultError
from benchmarks.ops import bench_codeword_statistics as statistics
from benchmarks.ops import bench_hsic, bench_kmeans, bench_sinkhorn_assign
from benchmarks.ops.bench_moe_residual_encode import SHARED_WEIGHT, MixtureCheck
from benchmarks.ops.bench_residual_decode import with_gradient
from unitok_kernels import backends

SHAPES = {  # N, D, K, L
    "64k x 32, K=256": (inputs.ROWS["64k"], 32, 256, 4),
    "1M x 32, K=256": (inputs.ROWS["1M"], 32, 256, 4),
    "150k x 128, K=1024": (150_000, 128, 1024, 8),
}
TOYS = {"100 x 8, K=16": (100, 8, 16, 2)}
PEERS = {
    "faiss": "faiss-gpu",
    "flash_kmeans": "flash-kmeans",
    "vector_quantize_pytorch": "vector-quantize-pytorch",
    "rectokens": "rectokens",
}


@dataclass(frozen=True)
class Case:
    """One job: its levels, ours first.

    Attributes:
        operation: name of the job.
        name: its sizes.
        levels: the ways to do the job.
        inputs: of every level's call.
        check: called with a level and its result; raises WrongResultError.
        flops: of one call in the plain form; None if memory is the limit.
    """

    operation: str
    name: str
    levels: list[Level]
    inputs: tuple[Any, ...]
    check: Callable[[Level, Any], None]
    flops: float | None = None


def missing(dry: bool) -> list[str]:
    """Say which peers are missing, and why."""
    notes = [f"{name}: not installed" for module, name in PEERS.items() if not peers.library(module)]
    if peers.library("faiss") and not hasattr(peers.library("faiss"), "StandardGpuResources"):
        notes.append("faiss-gpu: the faiss that is installed has no GPU support")
    return [*notes, "peers that need a device: this is a dry run"] if dry else notes


def cases(dry: bool) -> Iterator[Case | str]:
    """Make the cases one by one; a line of text instead if we have no kernel for the operation."""
    device = "cpu" if dry else "cuda"
    for make, shapes in MAKERS.items():
        if not ours(make.__name__, print, device):
            yield f"{make.__name__}: no kernel of ours for this device"
            continue
        for name, shape in TOYS.items() if dry else ((name, SHAPES[name]) for name in shapes):
            yield make(name, shape, device)


def ours(operation: str, call: Callable[..., Any], device: str) -> list[Level]:
    """Make one level per backend of ours that has the operation on the device."""
    levels = []
    for backend in ("cuda", "triton"):  # the one that a call gets by default comes first
        try:
            backends.choose(operation, backend, torch.device(device), False)
        except ValueError:
            continue
        levels.append(Level(f"ours, {backend}", partial(call, backend=backend)))
    return levels


def compiled(function: Callable[..., Any], device: str) -> Level:
    torch.compiler.reset()
    how = {"backend": "eager"} if device == "cpu" else {}  # so that the dry run needs no C++ compiler
    return Level("torch.compile", torch.compile(function, dynamic=False, **how), compiled=True)


def iterations_of(device: str) -> int:
    """Return the iterations of k-means and Sinkhorn; in the dry run two, as the interpreter takes .1 s for each."""
    return 20 if device == "cuda" else 2


@cache
def _faiss() -> tuple[Any, Any] | None:
    faiss = peers.library("faiss")
    if faiss is None or not hasattr(faiss, "StandardGpuResources"):
        return None
    import faiss.contrib.torch_utils  # from now on faiss searches accept tensors

    return faiss, faiss.StandardGpuResources()


def nearest_faiss(r: Tensor, c: Tensor) -> Tensor:
    faiss, resources = _faiss()
    return faiss.knn_gpu(resources, r, c, 1)[1][:, 0]


@cache
def _rectokens() -> Callable[[Tensor, Tensor], Tensor] | None:
    before = torch.get_float32_matmul_precision()
    module = peers.library("rectokens.ops.nn_quantize") if peers.library("rectokens") else None
    torch.set_float32_matmul_precision(before)  # importing it allows tf32 in all products
    return None if module is None else module.nearest_neighbor_quantize


def searches(device: str) -> list[Level]:
    """Return the peers' levels for one codebook."""
    levels = [
        Level("torch eager", peers.nearest_expanded),
        Level("torch eager, cdist", peers.nearest_cdist),
        compiled(peers.nearest_expanded, device),
    ]
    if device == "cuda":
        levels += [Level("faiss knn_gpu", nearest_faiss)] if _faiss() else []
        levels += [Level("rectokens", search)] if (search := _rectokens()) else []
    return levels


def chains(codebooks: Tensor, device: str) -> list[Level]:
    """Return the peers' levels for a chain of codebooks."""
    eager = peers.chain(peers.nearest_expanded)
    levels = [Level("torch eager", eager), compiled(eager, device)]
    if device == "cuda":
        levels += [Level("faiss knn_gpu per level", peers.chain(nearest_faiss))] if _faiss() else []
        levels += [Level("rectokens per level", peers.chain(search))] if (search := _rectokens()) else []
    if peers.library("vector_quantize_pytorch"):
        levels.append(Level("vector-quantize-pytorch", peers.residual_vq(codebooks.cpu(), device)))
    return levels


def residual_encode(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, levels = shape
    z, books = inputs.normal(rows, width).to(device), inputs.codebooks(levels, size, width).to(device)
    fast = [
        Level(f"{level.name}, fast", partial(level.call, precision="fast"))
        for level in ours("residual_encode", uk.residual_encode, device)
    ]
    kept = uk.pack_codebooks(books)
    packed = [Level("ours, packed", lambda z, _: uk.residual_encode(z, kept))] if kept.packed.numel() else []
    every = [*ours("residual_encode", uk.residual_encode, device), *packed, *fast, *chains(books, device)]
    right = ChainCheck(z, books)

    def check(level: Level, result: Any) -> None:
        right(Level("fast", level.call) if level.name.endswith("fast") else level, result)

    return Case("residual_encode", f"{name}, L={levels}", every, (z, books), check, 2.0 * rows * width * size * levels)


def nearest_codeword(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, _ = shape
    x, book = inputs.normal(rows, width).to(device), inputs.normal(size, width, seed=1).to(device)

    def codes(x: Tensor, book: Tensor, backend: str) -> Tensor:
        return uk.nearest_codeword(x, book, backend=backend).codes

    right = ChainCheck(x, book[None])
    every = [*ours("nearest_codeword", codes, device), *searches(device)]
    check = lambda level, found: right(level, found[:, None])  # noqa: E731
    return Case("nearest_codeword", name, every, (x, book), check, 2.0 * rows * width * size)


def moe_residual_encode(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, levels = shape
    experts = 8
    z, books = inputs.normal(rows, width).to(device), inputs.codebooks(experts, levels, size, width).to(device)
    shared = inputs.codebooks(levels, size, width, seed=4).to(device)
    top, ids = F.softmax(z @ (0.5 * inputs.normal(experts, width, seed=5)).to(device).T, 1).max(1, keepdim=True)

    def encode(z: Tensor, books: Tensor, ids: Tensor, weights: Tensor, backend: str) -> tuple[Tensor, ...]:
        found = uk.moe_residual_encode(z, books, ids, weights, shared, SHARED_WEIGHT, backend=backend)
        return found.codes, found.combined, found.shared_codes

    def eager(z: Tensor, books: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return peers.routed(z, books, ids, weights, shared, SHARED_WEIGHT)

    every = [*ours("moe_residual_encode", encode, device), Level("torch eager, a loop over experts", eager)]
    check = MixtureCheck(z, books, ids, 0.5 * top, shared)
    case = f"{name}, L={levels}, E={experts}, top-1 + shared"
    flops = 4.0 * rows * width * size * levels
    return Case("moe_residual_encode", case, every, (z, books, ids, 0.5 * top), check, flops)


def residual_decode(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, levels = shape
    books, gradient = inputs.codebooks(levels, size, width).to(device), inputs.normal(rows, width, seed=6).to(device)
    codes = torch.randint(size, (rows, levels), generator=torch.Generator().manual_seed(7)).to(device)

    def decode(codes: Tensor, books: Tensor, gradient: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return with_gradient(partial(uk.residual_decode, backend=backend))(codes, books, gradient)

    every = [
        *ours("residual_decode", decode, device),
        Level("torch eager, indexing", with_gradient(peers.decoded)),
        Level("torch eager, F.embedding", with_gradient(peers.decoded_by_embedding)),
    ]
    check = CloseCheck(with_gradient(peers.decoded)(codes, books.double(), gradient.double()))
    return Case("residual_decode", f"{name}, L={levels}, forward + backward", every, (codes, books, gradient), check)


def codeword_statistics(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, _ = shape
    x = inputs.normal(rows, width).to(device)
    codes = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(7)).to(device)
    every = [
        *ours("codeword_statistics", uk.codeword_statistics, device),
        Level("torch eager, index_add_", statistics.by_index_add),
        Level("torch eager, scatter_add_", statistics.by_scatter_add),
    ]
    check = CloseCheck(statistics.by_index_add(x.double(), codes, size))
    return Case("codeword_statistics", name, every, (x, codes, size), check)


def kmeans(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, _ = shape
    x = inputs.clusters(rows, width, size + size // 2)
    start = inputs.distinct_rows(x, size).to(device)
    x, iterations = x.to(device), iterations_of(device)
    check = InertiaCheck(x, bench_kmeans.torch_lloyd(x.double(), start.double(), iterations)[0].float())

    def lloyd(x: Tensor, start: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return uk.kmeans(x, size, iterations=iterations, seed=0, init=start, backend=backend)

    def faiss_gpu(x: Tensor, start: Tensor) -> tuple[Tensor, None]:
        settings = {"niter": iterations, "min_points_per_centroid": 1, "max_points_per_centroid": rows}
        clustering = _faiss()[0].Kmeans(width, size, gpu=True, **settings)
        clustering.train(host, init_centroids=host_start)
        return torch.as_tensor(clustering.centroids, device=device), None

    def flash(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        search = peers.library("flash_kmeans").batch_kmeans_Euclid
        codes, codebook, _ = search(x[None], size, max_iters=iterations, init_centroids=start[None])
        return codebook[0], codes[0]

    host, host_start = x.cpu().numpy(), start.cpu().numpy()
    every = [
        *ours("kmeans", lloyd, device),
        Level("torch eager", partial(bench_kmeans.torch_lloyd, iterations=iterations)),
    ]
    if device == "cuda":
        every += [Level("faiss Kmeans, rows from the host", faiss_gpu)] if _faiss() else []
        every += [Level("flash-kmeans", flash)] if peers.library("flash_kmeans") else []
    flops = 2.0 * rows * width * size * iterations
    return Case("kmeans", f"{name}, {iterations} iterations", every, (x, start), check, flops)


def hsic(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, inner, outer = (8192, 384, 32) if device == "cuda" else (60, 20, 8)
    x = F.normalize(inputs.clusters(rows, inner, 50), dim=1)
    z = (x @ inputs.normal(inner, outer, seed=8) + 0.5 * inputs.normal(rows, outer, seed=9)).to(device)
    x, segments = x.to(device), torch.zeros(rows, dtype=torch.int64, device=device)

    def tiles(x: Tensor, z: Tensor, segments: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        value = uk.hsic(x, z, segments, num_segments=1, backend=backend)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    exact = CloseCheck(bench_hsic.matrix(x.double(), z.double(), segments), 1e-5)
    loose = CloseCheck(exact.expected, 1e-3)  # the sums of float32 matrices cancel
    check = lambda level, found: (exact if level.name.startswith("ours") else loose)(level, found)  # noqa: E731
    every = [*ours("hsic", tiles, device), Level("torch, matrix form", bench_hsic.matrix)]
    flops = 2.0 * rows**2 * (inner + 2 * outer)
    return Case("hsic", f"n={rows}, {inner} and {outer}, forward + backward", every, (x, z, segments), check, flops)


def sinkhorn_assign(name: str, shape: tuple[int, ...], device: str) -> Case:
    rows, width, size, _ = shape
    x = inputs.clusters(rows, width, size, skew=1.0).to(device)
    book = inputs.normal(size, width, seed=2).to(device)
    iterations = iterations_of(device)
    plan = bench_sinkhorn_assign.scores(x.double(), book.double(), iterations)
    best = plan.max(1).values

    def check(level: Level, codes: Any) -> None:
        lost = (best - plan.gather(1, codes[:, None]).squeeze(1)).max().item()
        if not lost <= 1e-3:  # in log P: the largest error of float32 potentials
            raise WrongResultError(f"{level.name}: a row's code has exp(-{lost:.1e}) of the largest mass in its row")

    assign = partial(uk.sinkhorn_assign, epsilon=bench_sinkhorn_assign.EPSILON, iterations=iterations)
    matrix = partial(bench_sinkhorn_assign.matrix, iterations=iterations)
    every = [*ours("sinkhorn_assign", assign, device), Level("torch eager, matrix form", matrix)]
    return Case("sinkhorn_assign", f"{name}, {iterations} iterations", every, (x, book), check)


SMALL, LONG, WIDE = SHAPES
MAKERS: dict[Callable[..., Case], tuple[str, ...]] = {
    residual_encode: (SMALL, LONG, WIDE),
    moe_residual_encode: (SMALL, LONG),
    nearest_codeword: (SMALL, LONG, WIDE),
    kmeans: (LONG, WIDE),
    hsic: (SMALL,),  # has its own sizes
    sinkhorn_assign: (SMALL,),
    residual_decode: (SMALL, LONG, WIDE),
    codeword_statistics: (SMALL, LONG, WIDE),
}
