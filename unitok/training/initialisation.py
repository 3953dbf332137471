"""Initial router and codebooks (domain means, k-means on each residual chain), and revival of unused codewords."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import unitok_kernels as uk
from unitok.model.mixture import DenseMixtureVQ
from unitok.model.network import UniTokModel
from unitok.model.views import DomainViews
from unitok.numerics import check_latents
from unitok.training.monitor import Snapshot
from unitok_kernels import checks

MOST_ROWS = 20_000  # k-means on more rows takes longer, for the same codebooks
_ITERATIONS = 10


def kmeans_chain(residual: Tensor, num_levels: int, codebook_size: int, seed: int) -> Tensor:
    """Cluster rows, subtract the centres, and cluster again: one codebook per level.

    Args:
        residual: (N, D) float32, N >= 1; if N < codebook_size, the missing rows are drawn near the others.
        num_levels: L.
        codebook_size: K.
        seed: seed of k-means and of the draws.

    Returns:
        Tensor: codebooks (L, K, D) float32.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(residual) > MOST_ROWS:
        residual = residual[torch.randperm(len(residual), generator=generator)[:MOST_ROWS]]
    codebooks = []
    for level in range(num_levels):
        rows = residual
        if (missing := codebook_size - len(rows)) > 0:
            copies = rows[torch.randint(len(rows), (missing,), generator=generator)]
            noise = torch.randn(copies.shape, generator=generator) * rows.std(0, correction=0)
            rows = torch.cat([rows, copies + 0.1 * noise])
        codebook, codes = uk.kmeans(rows, codebook_size, iterations=_ITERATIONS, seed=seed + level)
        residual = residual - codebook[codes[: len(residual)]]
        codebooks.append(codebook)
    return torch.stack(codebooks)


@torch.no_grad()
def place_router(
    model: UniTokModel, z: Tensor, domains: Tensor, num_domains: int, seed: int, experts: Tensor | None = None
) -> None:
    """Make the router a nearest-mean classifier.

    logit_e = -|z - m_e|^2 / 2 tau, up to a term that all experts share. m_e is the mean of domain e; tau is the mean
    squared distance of a row from its mean, per dimension. If experts and domains differ in number, m_e is a k-means
    centre at first, and later the mean of the rows of expert e. An expert without rows gets the mean of all rows.

    Args:
        model: its router is overwritten; a model without a router is not changed.
        z: (N, D) float32 latents.
        domains: (N,) int64.
        num_domains: number of domains.
        seed: of k-means.
        experts: (N,) int64, the top expert of each row; None the first time.
    """
    if model.router is None:
        return
    count = model.router.out_features
    if count == num_domains:
        experts = domains
    elif experts is None:
        _, experts = uk.kmeans(z, count, iterations=20, seed=seed)
    sums, counts = uk.codeword_statistics(z, experts, count)
    centers = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), z.mean(0))
    tau = (z - centers[experts]).square().mean()
    if tau <= 1e-6 * centers.square().mean():  # all rows are at their centres: their distances give no scale
        tau = centers.square().mean().clamp(min=1e-12)
    model.router.weight.copy_(centers / tau)
    model.router.bias.copy_(-centers.square().sum(1) / (2 * tau))


@torch.no_grad()
def start_codebooks(model: UniTokModel, z: Tensor, seed: int) -> None:
    """Initialise every codebook by k-means on the residuals that it will quantise.

    Args:
        model: its codebooks are overwritten; its router assigns rows to experts.
        z: (N, D) float32 latents.
        seed: of k-means.
    """
    quantizer = model.quantizer
    _, levels, size, _ = quantizer.codebooks.shape
    routed = z
    if quantizer.shared_codebooks is not None:
        quantizer.shared_codebooks.copy_(kmeans_chain(z, levels, size, seed))
        if quantizer.shared == "first":
            routed = z - uk.residual_encode(z, quantizer.shared_codebooks).quantized
    experts = model.route(None if model.router is None else model.router(z), z).experts[:, 0]
    for expert in range(len(quantizer.codebooks)):
        rows = routed if isinstance(quantizer, DenseMixtureVQ) else routed[experts == expert]
        if len(rows) == 0:  # an expert without rows still gets a usable codebook
            rows = routed
        quantizer.codebooks[expert].copy_(kmeans_chain(rows, levels, size, seed + 100 * (expert + 1)))


@torch.no_grad()
def add_expert(
    what: str,
    model: UniTokModel,
    x: Tensor,
    seed: int,
    views: DomainViews | None = None,
    vectors: Tensor | None = None,
) -> int:
    """Give a model one more expert, with codebooks by k-means on the residuals of a domain's items.

    Args:
        what: the operation that a message names.
        model: gets the expert; nothing else of it changes.
        x: (N, D_in) float32, at least one row.
        seed: of k-means.
        views: the domain's views, which the model gets, too.
        vectors: (N, W) float32, those of the items, as `DomainViews.joined` gives them.

    Returns:
        int: the expert.

    Raises:
        ValueError: the preset has no separate chain for each expert; an item is so large that its latents overflow.
    """
    quantizer, config = model.quantizer, model.config
    if isinstance(quantizer, DenseMixtureVQ) or model.router is None:
        rule = f"'frozen' where no expert has a chain of its own (preset {config.preset!r}"
        rule += f", num_experts {config.num_experts})"
        checks.fail(what, "mode", rule, "'new_expert'", "Use it, or fit anew with the domain.")
    z, _ = model.encode(x)
    check_latents(what, z.numpy())
    shared = quantizer.shared_codebooks
    base = torch.zeros_like(z) if shared is None else uk.residual_encode(z, shared).quantized
    rows = z - base if quantizer.shared == "first" else z
    if views is not None and vectors is not None:
        views.measure(rows, vectors, config.view_weight)
        columns = views.beside(vectors).columns
        alone = torch.cat([rows, torch.zeros_like(columns)], 1)
        # Once more without vectors: so there are codewords for items that have none, as new ones.
        rows = torch.cat([torch.cat([rows, columns], 1), alone[columns.any(1)]])
    chain = kmeans_chain(rows, config.num_levels, config.codebook_size, seed)
    quantizer.codebooks = nn.Parameter(torch.cat([quantizer.codebooks, chain[None, :, :, : config.codebook_dim]]))
    model.mean_shared = torch.cat([model.mean_shared, base.mean(0, keepdim=True)])
    if views is not None:
        views.codebooks = chain[:, :, config.codebook_dim :].clone()
        model.views.append(views)
    return model.num_experts - 1


@torch.no_grad()
def revive_codewords(model: UniTokModel, seen: Snapshot, seed: int) -> int:
    """Move codewords that no item uses to residuals of random items of their expert.

    Args:
        model: its codebooks are changed in place; a dense mixture, whose experts have no own chain, is not changed.
        seen: the training items, as the model encodes them now.
        seed: of the draws.

    Returns:
        int: the number of codewords moved.
    """
    quantizer = model.quantizer
    if isinstance(quantizer, DenseMixtureVQ):
        return 0
    generator = torch.Generator().manual_seed(seed)
    routed, revived = seen.z, 0
    shared, shared_codes = quantizer.shared_codebooks, seen.quantized.shared_codes
    if shared is not None and shared_codes is not None:
        if quantizer.shared == "first":
            routed = seen.z - uk.residual_decode(shared_codes, shared)
        revived += _revive_chain(shared, seen.z, shared_codes, generator)
    for expert, codebooks in enumerate(quantizer.codebooks):
        rows, slots = (seen.routing.experts == expert).nonzero(as_tuple=True)
        if len(rows):
            revived += _revive_chain(codebooks, routed[rows], seen.quantized.codes[rows, slots], generator)
    return revived


def _revive_chain(codebooks: Tensor, residual: Tensor, codes: Tensor, generator: torch.Generator) -> int:
    revived = 0
    for codebook, code in zip(codebooks, codes.unbind(1), strict=True):
        following = residual - codebook[code]
        dead = (torch.bincount(code, minlength=len(codebook)) == 0).nonzero().squeeze(1)
        drawn = torch.randperm(len(residual), generator=generator)[: len(dead)]
        codebook[dead[: len(drawn)]] = residual[drawn]
        residual, revived = following, revived + len(drawn)
    return revived
