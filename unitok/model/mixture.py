"""DenseMixtureVQ: the quantizer of the paper's public code, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import unitok_kernels as uk
from unitok_kernels.nn import MoEResidualOutput


class DenseMixtureVQ(nn.Module):
    """One chain, each level of which is a mixture of all experts' codewords.

    m_l = routed_weight sum_e p_e c_{e,l} + shared_weight c_{shared,l};  r_{l+1} = r_l - m_l, each c the nearest
    codeword to r_l in its own codebook. The emitted code is the top expert's. The loss is that of the mixture.

    Args:
        dim: D, width of the rows.
        num_experts: E.
        num_levels: L.
        codebook_size: K.
        routed_weight: weight of the experts' mixture.
        shared_weight: weight of the shared expert.
        commitment_weight: weight of the commitment term.

    Source:
        The equations of UniTok's public code (arXiv 2511.12922).
    """

    shared = "parallel"

    def __init__(
        self,
        dim: int,
        num_experts: int,
        num_levels: int,
        codebook_size: int,
        *,
        routed_weight: float,
        shared_weight: float,
        commitment_weight: float,
    ) -> None:
        super().__init__()
        self.routed_weight, self.shared_weight = routed_weight, shared_weight
        self.commitment_weight = commitment_weight
        shape = (num_levels, codebook_size, dim)
        self.codebooks = nn.Parameter(torch.randn(num_experts, *shape) / codebook_size)
        self.shared_codebooks = nn.Parameter(torch.randn(*shape) / codebook_size)

    def forward(self, z: Tensor, expert_ids: Tensor, probs: Tensor) -> MoEResidualOutput:
        """Quantise rows.

        Args:
            z: (N, D) float.
            expert_ids: (N, S) int64; the experts whose codes are emitted.
            probs: (N, E) float; the experts' weights in the mixture.

        Returns:
            MoEResidualOutput: codes (N, S, L), shared codes, the straight-through mixture and its loss.
        """
        residual, quantized = z, torch.zeros_like(z)
        loss = z.new_zeros(())
        emitted, shared_codes, errors = [], [], []
        for level in range(self.codebooks.shape[1]):
            fixed = residual.detach()
            mixture, codes, shared_code = self._level(level, fixed, probs)
            emitted.append(codes.gather(1, expert_ids))
            shared_codes.append(shared_code)
            missed = (fixed - mixture).square().sum(1).mean() if len(z) else loss
            strayed = (residual - mixture.detach()).square().sum(1).mean() if len(z) else loss
            loss = loss + missed + self.commitment_weight * strayed
            residual, quantized = residual - mixture.detach(), quantized + mixture
            errors.append(residual.detach().square().mean() if len(z) else loss.detach())
        return MoEResidualOutput(
            z + quantized - z.detach(),
            torch.stack(emitted, 2),
            torch.stack(shared_codes, 1),
            loss,
            torch.stack(errors),
        )

    def last_residual(self, z: Tensor, probs: Tensor) -> Tensor:
        """Return what the last level quantises: (N, D), (N, E) -> (N, D)."""
        for level in range(self.codebooks.shape[1] - 1):
            z = z - self._level(level, z, probs)[0]
        return z

    def _level(self, level: int, residual: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix one level's nearest codewords: the mixture (N, D), all experts' codes (N, E), the shared codes (N,)."""
        shared_code = uk.nearest_codeword(residual, self.shared_codebooks[level]).codes
        mixture = self.shared_weight * self.shared_codebooks[level][shared_code]
        codes = []
        for expert, codebook in enumerate(self.codebooks[:, level]):  # a fixed order: no row depends on its batch
            codes.append(uk.nearest_codeword(residual, codebook).codes)
            mixture = mixture + self.routed_weight * probs[:, expert, None] * codebook[codes[-1]]
        return mixture, torch.stack(codes, 1), shared_code
