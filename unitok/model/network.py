"""UniTokModel: encoder, router, quantizer, decoder."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unitok_kernels as uk
from unitok.config import PRESETS, UniTokConfig
from unitok.ids.semantic_ids import SemanticIds
from unitok.model.mixture import DenseMixtureVQ
from unitok.model.views import DomainViews
from unitok_kernels.nn import MoEResidualOutput, MoEResidualVQ
from unitok_kernels.ops.ordered_linear import ordered_linear

_BLOCK_ROWS = 1024  # rows that are encoded at a time


class Routing(NamedTuple):
    """The experts that the router chose for rows.

    Attributes:
        probs: (N, E), softmax over the experts.
        experts: (N, S) int64, the most probable first; ties take the lowest index.
        weights: (N, S), factors of their chains.
    """

    probs: Tensor
    experts: Tensor
    weights: Tensor


class ModelOutput(NamedTuple):
    """The model's output for a batch, as a training step needs it.

    Attributes:
        z: (N, D) latents.
        x_hat: (N, D_in) reconstruction.
        routing: experts and weights.
        quantized: codes, z_hat and the quantisation loss.
    """

    z: Tensor
    x_hat: Tensor
    routing: Routing
    quantized: MoEResidualOutput


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        linear = nn.Linear(wide, narrow)
        nn.init.orthogonal_(linear.weight, math.sqrt(2))  # with torch's default a deep MLP needs many more epochs
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class UniTokModel(nn.Module):
    """The network of UniTok.

    z = encoder(x);  p = softmax(W z + b);  z_hat from the chains of the top experts and the shared one;
    x_hat = decoder(z_hat).

    Args:
        input_dim: D_in, width of the item embeddings.
        num_experts: E; 0 is the single-codebook RQ-VAE, without router and shared expert.
        config: the settings.

    Raises:
        ValueError: top_k exceeds the number of experts.

    Source:
        UniTok, arXiv 2511.12922.
    """

    def __init__(self, input_dim: int, num_experts: int, config: UniTokConfig) -> None:
        super().__init__()
        if config.top_k > max(num_experts, 1):
            raise ValueError(
                f"UniTokModel: top_k must be at most num_experts = {num_experts}, got {config.top_k}. Lower it."
            )
        self.config, self.input_dim, self.preset = config, input_dim, PRESETS[config.preset]
        widths = (input_dim, *config.encoder_widths, config.codebook_dim)
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.router = nn.Linear(config.codebook_dim, num_experts) if num_experts else None
        sizes = (config.codebook_dim, max(num_experts, 1), config.num_levels, config.codebook_size)
        self.quantizer: MoEResidualVQ | DenseMixtureVQ
        if num_experts and self.preset.dense:
            self.quantizer = DenseMixtureVQ(
                *sizes,
                routed_weight=self.preset.routed_scale,
                shared_weight=self.preset.shared_weight,
                commitment_weight=config.weights.commitment,
            )
        else:
            self.quantizer = MoEResidualVQ(
                *sizes,
                shared=self.preset.shared if num_experts else "none",
                shared_weight=self.preset.shared_weight,
                commitment_weight=config.weights.commitment,
            )

        self.views = nn.ModuleList()  # of the domains that have some: see `DomainViews`

        # Training means, used by `latents` for what an ID does not contain.
        self.mean_weights: Tensor
        self.mean_shared: Tensor
        self.register_buffer("mean_weights", torch.ones(config.top_k))
        self.register_buffer("mean_shared", torch.zeros(self.num_experts, config.codebook_dim))

    @property
    def num_experts(self) -> int:
        """Number of experts with codebooks, including those of added domains."""
        return int(self.quantizer.codebooks.shape[0])

    @property
    def routable_experts(self) -> int:
        """Number of experts that the router chooses among; 0 without a router."""
        return 0 if self.router is None else self.router.out_features

    @property
    def viewed(self) -> dict[str, DomainViews]:
        """The views of the domains that have some, by their names."""
        return {views.domain: views for views in self.views if isinstance(views, DomainViews)}

    def route(self, logits: Tensor | None, z: Tensor, probs: Tensor | None = None) -> Routing:
        """Choose experts by the router's logits.

        Args:
            logits: (N, E) float, or None for the single codebook.
            z: (N, D); gives the number of rows, the dtype and the device.
            probs: (N, E), the softmax of the logits if the caller already has it.

        Returns:
            Routing: probabilities, experts and weights in z's dtype.
        """
        if logits is None:
            ones = z.new_ones(len(z), 1)
            return Routing(ones, torch.zeros_like(ones, dtype=torch.int64), ones)
        probs = F.softmax(logits, 1) if probs is None else probs
        experts = logits.sort(dim=1, descending=True, stable=True).indices[:, : self.config.top_k]
        top = probs.gather(1, experts)
        if self.preset.renormalise:
            top = top / top.sum(1, keepdim=True)
        return Routing(probs.to(z.dtype), experts, (self.preset.routed_scale * top).to(z.dtype))

    def quantize(self, z: Tensor, routing: Routing) -> MoEResidualOutput:
        """Quantise latents by the chains of their experts.

        Args:
            z: (N, D) float32.
            routing: experts and weights of the rows.

        Returns:
            MoEResidualOutput: codes, z_hat and the quantisation loss.
        """
        if isinstance(self.quantizer, DenseMixtureVQ):
            return self.quantizer(z, routing.experts, routing.probs)
        return self.quantizer(z, routing.experts, routing.weights)

    def forward(self, x: Tensor) -> ModelOutput:
        """Encode, route, quantise and decode a batch.

        Args:
            x: (N, D_in) float32.

        Returns:
            ModelOutput: latents, reconstruction, routing and codes.
        """
        z = self.encoder(x)
        routing = self.route(None if self.router is None else self.router(z), z)
        quantized = self.quantize(z, routing)
        return ModelOutput(z, self.decoder(quantized.quantized), routing, quantized)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode rows so that a row's result doesn't depend on its batch.

        A BLAS matrix product rounds differently for different batch sizes. Here each sum has a fixed order, whatever
        the batch, the instruction set and the number of threads, and z is rounded once, from float64; the router reads
        the rounded z. See `unitok_kernels.ops.ordered_linear`. Without the native module, the reference's sums are
        exact, so that their order can't matter.

        Args:
            x: (N, D_in) float32 or float64.

        Returns:
            tuple: z (N, D) float32, and the router's logits (N, E) float64, or None without a router.
        """
        layers = [m for m in self.encoder if isinstance(m, nn.Linear)]
        z = x.new_empty(len(x), self.config.codebook_dim, dtype=torch.float32)
        for start in range(0, len(x), _BLOCK_ROWS):
            hidden = x[start : start + _BLOCK_ROWS]
            for layer in layers:
                hidden = ordered_linear(hidden, layer.weight, layer.bias, relu=layer is not layers[-1])
            z[start : start + _BLOCK_ROWS] = hidden
        return z, None if self.router is None else ordered_linear(z, self.router.weight, self.router.bias)

    def codewords(self, codes: Tensor, experts: Tensor) -> Tensor:
        """Sum the codewords of one expert's chain for each row.

        Args:
            codes: (N, L) int64; -1 adds nothing.
            experts: (N,) int64; a row of -1 gives zeros.

        Returns:
            Tensor: (N, D) float32.
        """
        num_experts, levels, size, width = self.quantizer.codebooks.shape
        table = self.quantizer.codebooks.transpose(0, 1).reshape(levels, num_experts * size, width)
        named = (codes >= 0) & (experts[:, None] >= 0)
        return uk.residual_decode(torch.where(named, experts[:, None] * size + codes, -1), table)

    def last_residual(self, z: Tensor, routing: Routing, quantized: MoEResidualOutput) -> Tensor:
        """Return what the top expert's last level quantises.

        Args:
            z: (N, D) float32 latents.
            routing: experts of the rows.
            quantized: codes of the rows.

        Returns:
            Tensor: (N, D) float32.
        """
        if isinstance(self.quantizer, DenseMixtureVQ):
            return self.quantizer.last_residual(z, routing.probs)
        shared_codebooks, shared_codes = self.quantizer.shared_codebooks, quantized.shared_codes
        if self.quantizer.shared == "first" and shared_codebooks is not None and shared_codes is not None:
            z = z - uk.residual_decode(shared_codes, shared_codebooks)
        codes = quantized.codes[:, 0].clone()
        codes[:, -1] = -1
        return z - self.codewords(codes, routing.experts[:, 0])

    @torch.no_grad()
    def remember_means(self, routing: Routing, quantized: MoEResidualOutput) -> None:
        """Store the mean weight of each slot and the mean shared vector of each expert, for `latents`.

        Args:
            routing: experts and weights of the items that the model was fitted on.
            quantized: codes of those items.
        """
        weights = routing.weights.mean(0)
        if self.preset.dense:  # the experts that an ID doesn't name have the rest of the mixture's weight
            weights *= self.preset.routed_scale / weights.sum()
        self.mean_weights.copy_(weights)
        if quantized.shared_codes is not None and self.quantizer.shared_codebooks is not None:
            shared = uk.residual_decode(quantized.shared_codes, self.quantizer.shared_codebooks)
            sums, counts = uk.codeword_statistics(shared, routing.experts[:, 0], self.num_experts)
            self.mean_shared.copy_(sums / counts[:, None].clamp(min=1))

    @torch.no_grad()
    def latents(self, ids: SemanticIds) -> Tensor:
        """Rebuild z_hat from IDs.

        An ID doesn't contain the router's weights: their training means are used. If the shared codes are missing, a
        parallel shared chain is replaced by the top expert's chain, which approximates the same z, and a shared chain
        that comes first by the training mean of the expert's rows. The first slot gets the weight of missing slots.

        Args:
            ids: N semantic IDs.

        Returns:
            Tensor: (N, D) float32.
        """
        top = self.codewords(ids.codes, ids.experts[:, 0])
        routed = self.mean_weights.sum() * top
        if ids.slot_codes is not None:
            slots = zip(self.mean_weights, ids.slot_codes.unbind(1), ids.experts.unbind(1), strict=True)
            mixed = torch.stack([weight * self.codewords(codes, experts) for weight, codes, experts in slots]).sum(0)
            added = ids.experts[:, :1] >= self.routable_experts  # an added domain's expert has the weight of all slots
            routed = torch.where(added & (self.router is not None), routed, mixed)
        shared_codebooks = self.quantizer.shared_codebooks
        if shared_codebooks is None:
            return routed
        told = ids.shared_codes is not None
        shared = uk.residual_decode(ids.shared_codes, shared_codebooks) if ids.shared_codes is not None else top
        if self.quantizer.shared == "first":
            return routed + (shared if told else uk.residual_decode(ids.experts[:, :1], self.mean_shared[None]))
        return routed + self.preset.shared_weight * shared
