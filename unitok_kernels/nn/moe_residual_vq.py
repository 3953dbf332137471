"""MoEResidualVQ: residual quantisation by routed experts and a shared one, with any router."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import unitok_kernels as uk
from unitok_kernels import backends, checks
from unitok_kernels.ops.common import PRECISIONS
from unitok_kernels.rules import names_unknown

ARRANGEMENTS = ("parallel", "first", "none")


class MoEResidualOutput(NamedTuple):
    """What the layer returns.

    Attributes:
        quantized: (N, D), with straight-through gradients to z and to expert_weights.
        codes: (N, S, L) int64, of the routed experts.
        shared_codes: (N, L) int64, or None without a shared expert.
        loss: scalar, the codebook and commitment loss of all chains that were used.
        level_error: (L,) float32, mean over rows, slots and D of r_{l+1}^2 of the routed experts.
    """

    quantized: Tensor
    codes: Tensor
    shared_codes: Tensor | None
    loss: Tensor
    level_error: Tensor


@backends.documented("residual_encode", "moe_residual_encode", "residual_loss")
class MoEResidualVQ(nn.Module):
    """Quantise rows by the residual chains of the experts that a router picks.

    shared="parallel": quantized = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z).
    shared="first": the experts quantise r = z - sg(Q_shared(z)); quantized = Q_shared(z) + sum_s w_s Q_{e_s}(r).
    shared="none": only the experts.
    Codebooks learn only from `loss`; the straight-through estimate treats them as constants.

    Args:
        dim: D, width of the rows.
        num_experts: E, at least 1.
        num_levels: L, codebooks per chain.
        codebook_size: K, codewords per codebook.
        shared: "parallel" | "first" | "none".
        shared_weight: weight of the shared chain under "parallel".
        commitment_weight: weight of the commitment term of the loss.
        precision: "exact" | "fast"; see `nearest_codeword`.
        check_finite: as in `moe_residual_encode`, for all operations of the layer.
        backend: {backends}, for all operations of the layer.

    Raises:
        ValueError: a size is below 1, or `shared` or `precision` is unknown.
        TypeError: an argument has the wrong type.

    Source:
        UniTok (TokenMoE), arXiv 2511.12922.
    """

    @names_unknown("MoEResidualVQ")
    def __init__(
        self,
        dim: int,
        num_experts: int,
        num_levels: int = 4,
        codebook_size: int = 256,
        *,
        shared: str = "parallel",
        shared_weight: float = 1.0,
        commitment_weight: float = 0.25,
        precision: str = "exact",
        check_finite: bool | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_experts": num_experts, "num_levels": num_levels, "codebook_size": codebook_size}
        checks.whole("MoEResidualVQ", **sizes)
        checks.number("MoEResidualVQ", shared_weight=shared_weight, commitment_weight=commitment_weight)
        checks.settings("MoEResidualVQ", check_finite=check_finite, backend=backend, precision=precision)
        for name, size in sizes.items():
            checks.at_least("MoEResidualVQ", name, size, 1, "Pass a positive size.")
        checks.one_of("MoEResidualVQ", "shared", shared, ARRANGEMENTS)
        checks.one_of("MoEResidualVQ", "precision", precision, PRECISIONS)
        self.shared, self.shared_weight, self.commitment_weight = shared, shared_weight, commitment_weight
        self.precision, self.check_finite, self.backend = precision, check_finite, backend
        shape = (num_levels, codebook_size, dim)
        self.codebooks = nn.Parameter(torch.randn(num_experts, *shape) / codebook_size)
        self.shared_codebooks = None if shared == "none" else nn.Parameter(torch.randn(*shape) / codebook_size)

    def forward(self, z: Tensor, expert_ids: Tensor, expert_weights: Tensor) -> MoEResidualOutput:
        """Quantise rows.

        Args:
            z: (N, D) float.
            expert_ids: (N, S) integer in 0 .. E - 1.
            expert_weights: (N, S) float.

        Returns:
            MoEResidualOutput: the quantised rows, codes and loss.

        Raises:
            ValueError: shapes or values don't fit.
        """
        common: dict[str, Any] = {"check_finite": self.check_finite, "backend": self.backend}
        encoding = {**common, "precision": self.precision}
        learning = {**common, "commitment_weight": self.commitment_weight}
        codebooks = self.codebooks.detach()
        if self.shared_codebooks is None or self.shared == "parallel":
            fixed = None if self.shared_codebooks is None else self.shared_codebooks.detach()
            found = uk.moe_residual_encode(
                z, codebooks, expert_ids, expert_weights, fixed, self.shared_weight, **encoding
            )
            quantized, shared_codes, routed = found.combined, found.shared_codes, z
        else:
            shared_codes, base, _ = uk.residual_encode(z, self.shared_codebooks, **encoding)
            base = base.detach()
            routed = z - base
            found = uk.moe_residual_encode(routed, codebooks, expert_ids, expert_weights, **encoding)
            quantized = base + found.combined
        loss = uk.moe_residual_loss(routed, found.codes, self.codebooks, expert_ids, **learning)
        if self.shared_codebooks is not None and shared_codes is not None:
            loss = loss + uk.residual_loss(z, shared_codes, self.shared_codebooks, **learning)
        return MoEResidualOutput(quantized, found.codes, shared_codes, loss, found.level_error)

    def extra_repr(self) -> str:
        """Sizes in the module's printed form."""
        num_experts, num_levels, codebook_size, dim = self.codebooks.shape
        sizes = f"dim={dim}, num_experts={num_experts}, num_levels={num_levels}, codebook_size={codebook_size}"
        return f"{sizes}, shared={self.shared!r}"
