"""VectorQuantize: one codebook, or one per head, like vector-quantize-pytorch's layer of that name."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unitok_kernels import checks
from unitok_kernels.nn import layout
from unitok_kernels.nn.chain import Call, Chain
from unitok_kernels.nn.codebook import Codebook, unit
from unitok_kernels.nn.config import VectorQuantizeConfig, configured
from unitok_kernels.nn.portable import Exportable
from unitok_kernels.nn.regularizers import directional, orthogonality
from unitok_kernels.ops.residual_decode import residual_decode


class LossBreakdown(NamedTuple):
    """The parts of the loss: scalars without their weights."""

    commitment: Tensor
    codebook_diversity: Tensor
    orthogonal_reg: Tensor
    inplace_optimize: Tensor


class VectorQuantize(Exportable):
    """Quantise rows by a codebook that learns by moving averages or by gradients.

    Options, defaults, results and state dict are those of vector-quantize-pytorch; `VectorQuantizeConfig` lists them.

    Args:
        dim: D, width of the rows; or a VectorQuantizeConfig, without other options.
        codebook_size: K.
        options: see `VectorQuantizeConfig`.

    Raises:
        ValueError: options that don't fit each other.
        TypeError: an option that is unknown or not supported.

    Source:
        van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1.
    """

    def __init__(
        self, dim: int | VectorQuantizeConfig | None = None, codebook_size: int | None = None, **options: Any
    ) -> None:
        super().__init__()
        config = None
        if isinstance(dim, VectorQuantizeConfig):
            config = dim
        elif dim is not None:
            options["dim"] = dim
        if codebook_size is not None:
            options["codebook_size"] = codebook_size
        config = configured(VectorQuantizeConfig, config, options)
        self.config, self.dim, self.heads, self.codebook_size = config, config.dim, config.heads, config.codebook_size
        inner = config.width * config.heads
        self.has_projections = inner != config.dim
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(config.dim, inner)
            if config.layernorm_after_project_in:
                self.project_in = nn.Sequential(self.project_in, nn.LayerNorm(inner))
            self.project_out = nn.Linear(inner, config.dim)
        books = config.heads if config.separate_codebook_per_head else 1
        self._codebook = Codebook(config, config.codebook_size, books)

    @property
    def _chains(self) -> list[Chain]:
        """A chain per codebook, of the present one: a model may tie layers by giving one the codebook of another."""
        return [Chain([self._codebook], self.config, head) for head in range(len(self._codebook.embed))]

    @property
    def codebook(self) -> Tensor:
        """Codewords (K, D), or (H, K, D) if each head has its own."""
        embed = self._codebook.embed
        return embed if self.config.separate_codebook_per_head else embed[0]

    @codebook.setter
    def codebook(self, codewords: Tensor) -> None:
        with torch.no_grad():
            self.codebook.copy_(codewords)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Look codewords up.

        Args:
            indices: (B, ...) int64, of the shape that `forward` gives, heads last if there are several; -1 gives
                zeros.

        Returns:
            Tensor: (B, ..., H * D), with the channels where the input has them.

        Raises:
            ValueError: a code isn't one of the codebook.
            TypeError: `indices` isn't an integer tensor.
        """
        indices = layout.indices(self.config.layer, indices)
        embed, separate = self._codebook.embed, self.config.separate_codebook_per_head
        codes = indices if self.heads > 1 else indices[..., None]
        parts = [
            residual_decode(
                codes[..., head].reshape(-1, 1),
                embed[head if separate else 0][None],
                **layout.decoding(self.config),
            )
            for head in range(codes.shape[-1])
        ]
        found = torch.cat(parts, 1).view(*codes.shape[:-1], self.heads * self.config.width)
        moved = self.config.accept_image_fmap or self.config.accept_3d_fmap or not self.config.channel_last
        return found.movedim(-1, 1) if moved else found

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """Decode indices: the result of `get_codes_from_indices`, projected out.

        Args:
            indices: as in `get_codes_from_indices`.

        Returns:
            Tensor: (B, ..., D), with the channels where the input has them.

        Raises:
            ValueError: a code isn't one of the codebook.
            TypeError: `indices` isn't an integer tensor.
        """
        codes = self.get_codes_from_indices(indices)
        moved = self.config.accept_image_fmap or self.config.accept_3d_fmap or not self.config.channel_last
        return self.project_out(codes.movedim(1, -1)).movedim(-1, 1) if moved else self.project_out(codes)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
    ) -> Any:
        """Quantise rows.

        Args:
            x: (B, T, D) or (B, D) float; (B, D, T), (B, D, H, W) or (B, D, T, H, W) by the layer's options.
            mask: (B, T) bool, True where a row counts.
            lens: (B,) int, how many rows count.
            sample_codebook_temp: overrides the layer's.
            freeze_codebook: overrides the layer's.
            return_loss_breakdown: append a LossBreakdown.

        Returns:
            tuple: quantized, like x; indices (B, T) int64, heads last if there are several, -1 at padding; loss,
            a scalar, 0 in evaluation.

        Raises:
            ValueError: a shape or a value doesn't fit.
            TypeError: an argument has the wrong type.
        """
        config = self.config
        layout.call_settings(config.layer, sample_codebook_temp)
        rows = layout.channels_last(x, config, self._codebook.embed)
        mask = layout.mask_of(rows, mask, lens, config.layer)
        frozen = config.freeze_codebook if freeze_codebook is None else freeze_codebook
        temperature = config.sample_codebook_temp if sample_codebook_temp is None else sample_codebook_temp
        inner = layout.projected(rows, self.project_in, config.layer)
        heads = inner.reshape(-1, self.heads, config.width)
        valid = None if mask is None else mask.reshape(-1)
        if config.separate_codebook_per_head:
            call = Call(self.training, valid, temperature, is_frozen=frozen)
            found = [chain(heads[:, head], call) for head, chain in enumerate(self._chains)]
            quantized = torch.stack([part.quantized for part in found], 1)
            codes = torch.cat([part.codes for part in found], 1)
            error = torch.cat([part.level_error for part in found]).mean()
        else:
            valid = (
                None if valid is None else valid.repeat_interleave(self.heads, output_size=heads.shape[0] * self.heads)
            )
            call = Call(self.training, valid, temperature, is_frozen=frozen)
            quantized, codes, errors = self._chains[0](heads.flatten(0, 1), call)
            error = errors.sum()
        if config.directional_reparam and self.training and heads.requires_grad:
            start = unit(heads) if config.use_cosine_sim else heads
            quantized = directional(start, quantized.view_as(heads), config.directional_reparam_variance)
        quantized = self.project_out(quantized.reshape(inner.shape)).to(x.dtype)
        indices = codes.view(rows.shape[:-1] if self.heads == 1 else (*rows.shape[:-1], self.heads))
        if mask is not None:
            padding = torch.zeros_like(rows) if config.return_zeros_for_masked_padding else rows
            quantized = torch.where(mask[..., None], quantized, padding)
        parts = self._losses(error, indices)
        loss = config.commitment_weight * parts.commitment + config.orthogonal_reg_weight * parts.orthogonal_reg
        loss = layout.with_gradients(loss, self.training)
        result = (layout.channels_back(quantized, x, config), indices, loss)
        return (*result, parts) if return_loss_breakdown else result

    def _losses(self, error: Tensor, indices: Tensor) -> LossBreakdown:
        """Collect the parts of the loss; a part that is off or has no weight is 0."""
        config, zero = self.config, torch.zeros((), device=error.device)
        commits = self.training and config.commitment_weight > 0 and not config.is_directional
        orthogonal = zero
        if self.training and config.orthogonal_reg_weight > 0:
            if config.orthogonal_reg_active_codes_only and config.separate_codebook_per_head:
                step = "Every head has its own codewords."
                checks.fail(config.layer, "orthogonal_reg_active_codes_only", "False beside several books", True, step)
            active = indices if config.orthogonal_reg_active_codes_only else None
            orthogonal = orthogonality(self._codebook.embed, active, config.orthogonal_reg_max_codes)
        return LossBreakdown(error if commits else zero, zero, orthogonal, zero)

    def extra_repr(self) -> str:
        """Sizes in the module's printed form."""
        return f"dim={self.dim}, codebook_size={self.codebook_size}, heads={self.heads}"
