"""ResidualVQ: a chain of codebooks, like vector-quantize-pytorch's layer of that name."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitok_kernels import checks
from unitok_kernels.nn import distributed, layout
from unitok_kernels.nn.chain import Call, Chain
from unitok_kernels.nn.codebook import Codebook
from unitok_kernels.nn.config import ResidualVQConfig, configured
from unitok_kernels.nn.portable import Exportable
from unitok_kernels.nn.regularizers import directional, orthogonality
from unitok_kernels.ops.common import wide
from unitok_kernels.ops.residual_decode import residual_decode


class Level(nn.Module):
    """One level's codebook, at the place it has in vector-quantize-pytorch's state dict."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self._codebook = codebook

    @property
    def codebook(self) -> Tensor:
        """Codewords (K, D)."""
        return self._codebook.embed[0]


class ResidualVQ(Exportable):
    """Quantise rows by a chain of codebooks; each level quantises what the one before it left.

    Options, defaults, results and state dict are those of vector-quantize-pytorch; `ResidualVQConfig` lists them. The
    codes of all levels come from one call. Then all codebooks learn, each from the inputs of its level.

    Args:
        config: a ResidualVQConfig, without other options.
        options: see `ResidualVQConfig`.

    Raises:
        ValueError: options that don't fit each other.
        TypeError: an option that is unknown or not supported.

    Source:
        Zeghidour et al., "SoundStream", arXiv 2107.03312, algorithm 1.
    """

    def __init__(self, config: ResidualVQConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = configured(ResidualVQConfig, config, options)
        self.config, self.num_quantizers, self.codebook_dim = config, len(config.sizes), config.width
        self.has_projections = config.width != config.dim
        self.project_in = nn.Linear(config.dim, config.width) if self.has_projections else nn.Identity()
        self.project_out = nn.Linear(config.width, config.dim) if self.has_projections else nn.Identity()
        first = Codebook(config, config.sizes[0])
        rest = [first if config.shared_codebook else Codebook(config, size) for size in config.sizes[1:]]
        self.layers = nn.ModuleList([Level(book) for book in (first, *rest)])

    @property
    def _chain(self) -> Chain:
        """The chain of the present codebooks: a model may tie layers by giving one layer the codebook of another."""
        return Chain([level._codebook for level in self.layers], self.config)  # type: ignore[misc]

    @property
    def _first(self) -> Tensor:
        """Codewords of the first level."""
        return self.layers[0]._codebook.embed  # type: ignore[union-attr, return-value]

    @property
    def codebook_size(self) -> int:
        """Codewords of the first level."""
        return self.config.sizes[0]

    @property
    def codebooks(self) -> Tensor | tuple[Tensor, ...]:
        """Codewords (L, K, D), or a tuple of (K, D) if the levels differ in size."""
        books = tuple(book.embed[0] for book in self._chain.books)
        return torch.stack(books) if len({*self.config.sizes}) == 1 else books

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Look up the codewords of each level.

        Args:
            indices: (B, ..., L) int64; -1 gives zeros; fewer levels than the layer has are taken as the first ones.

        Returns:
            Tensor: (L, B, ..., D).

        Raises:
            ValueError: there are more levels than the layer has, or a code isn't one of its level.
            TypeError: `indices` isn't an integer tensor.
        """
        indices, levels = layout.indices(self.config.layer, indices), self.num_quantizers
        given = F.pad(self._flat(indices), (0, levels - indices.shape[-1]), value=-1)
        rows = [
            residual_decode(codes[:, None], book.embed[:1], **layout.decoding(self.config))
            for book, codes in zip(self._chain.books, given.unbind(1), strict=True)
        ]
        return torch.stack(rows).view(levels, *indices.shape[:-1], self.codebook_dim)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """Decode indices: the sum of each row's codewords, projected out.

        Args:
            indices: (B, ..., L) int64, as in `get_codes_from_indices`.

        Returns:
            Tensor: (B, ..., D).

        Raises:
            ValueError: there are more levels than the layer has, or a code isn't one of its level.
            TypeError: `indices` isn't an integer tensor.
        """
        indices = layout.indices(self.config.layer, indices)
        if len({*self.config.sizes}) == 1:
            codes = self._flat(indices)
            tables = self._chain.tables()[: codes.shape[1]]
            decoded = residual_decode(codes, tables, **layout.decoding(self.config))
        else:  # each level checks its own codes
            levels = self.get_codes_from_indices(indices)
            decoded = wide(levels).sum(0).to(levels.dtype)
        return self.project_out(decoded.view(*indices.shape[:-1], self.codebook_dim))

    def _flat(self, indices: Tensor) -> Tensor:
        """Rows of codes (N, L)."""
        if (got := indices.shape[-1]) > self.num_quantizers:
            rule = f"of at most {self.num_quantizers} levels"
            checks.fail(self.config.layer, "indices", rule, got, "Leave out the others.")
        return indices.reshape(-1, got)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lens: Tensor | None = None,
        return_all_codes: bool = False,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
        beam_size: int | None = None,
        rand_quantize_dropout_fixed_seed: int | None = None,
    ) -> Any:
        """Quantise rows.

        Args:
            x: (B, T, D) or (B, D) float; (B, D, T), (B, D, H, W) or (B, D, T, H, W) by the layer's options.
            mask: (B, T) bool, True where a row counts.
            lens: (B,) int, how many rows count.
            return_all_codes: append each level's codewords.
            sample_codebook_temp: overrides the layer's.
            freeze_codebook: overrides the layer's.
            beam_size: overrides the layer's.
            rand_quantize_dropout_fixed_seed: seed that decides which levels are dropped; None draws at random.

        Returns:
            tuple: quantized, like x; indices (B, T, L) int64, -1 at padding and dropped levels; losses (L,), 0 in
            evaluation; with `return_all_codes`, (L, B, T, D).

        Raises:
            ValueError: a shape or a value doesn't fit.
            TypeError: an argument has the wrong type.
        """
        checks.tensors(self.config.layer, x=x)
        layout.call_settings(self.config.layer, sample_codebook_temp, beam_size, rand_quantize_dropout_fixed_seed)
        cut = self.draw_cut(x.device, rand_quantize_dropout_fixed_seed)
        return self.quantize(x, mask, lens, return_all_codes, sample_codebook_temp, freeze_codebook, beam_size, cut)

    def quantize(
        self,
        x: Tensor,
        mask: Tensor | None,
        lens: Tensor | None,
        return_all_codes: bool,
        sample_codebook_temp: float | None,
        freeze_codebook: bool | None,
        beam_size: int | None,
        cut: Tensor | int | None,
    ) -> Any:
        """Quantise rows as `forward` does, and drop the levels after `cut`.

        Args:
            x: as in `forward`.
            mask: as in `forward`.
            lens: as in `forward`.
            return_all_codes: as in `forward`.
            sample_codebook_temp: as in `forward`.
            freeze_codebook: as in `forward`.
            beam_size: as in `forward`.
            cut: the last level that isn't dropped, as a tensor () or a number; None drops none.

        Returns:
            tuple: as `forward` gives it.

        Raises:
            ValueError: a shape or a value doesn't fit.
            TypeError: an argument has the wrong type.
        """
        config = self.config
        rows = layout.channels_last(x, config, self._first)
        mask = layout.mask_of(rows, mask, lens, config.layer)
        default = config.beam_size if self.training or config.eval_beam_size is None else config.eval_beam_size
        call = Call(
            self.training,
            None if mask is None else mask.reshape(-1),
            config.sample_codebook_temp if sample_codebook_temp is None else sample_codebook_temp,
            default if beam_size is None else beam_size,
            config.score_weights,
            cut,
            config.freeze_codebook if freeze_codebook is None else freeze_codebook,
        )
        inner = layout.projected(rows, self.project_in, config.layer)
        flat = inner.reshape(-1, config.width)
        quantized, codes, errors = self._chain(flat, call)
        if config.diveq and self.training:
            quantized = directional(flat, quantized, config.directional_reparam_variance)
        quantized = self.project_out(quantized.view(inner.shape)).to(x.dtype)
        if mask is not None:
            padding = torch.zeros_like(rows) if config.return_zeros_for_masked_padding else rows
            quantized = torch.where(mask[..., None], quantized, padding)
        indices = codes.view(*rows.shape[:-1], self.num_quantizers)
        weight = 0.0 if config.diveq else config.commitment_weight
        weight = weight or float(not self.training)  # in evaluation, a beam's errors are reported without a weight then
        losses = layout.with_gradients(self._regularised(weight * errors, codes), self.training)
        result = (layout.channels_back(quantized, x, config), indices, losses)
        return (*result, self.get_codes_from_indices(indices)) if return_all_codes else result

    def _regularised(self, losses: Tensor, codes: Tensor) -> Tensor:
        config = self.config
        if not self.training or config.orthogonal_reg_weight <= 0:
            return losses
        only, most = config.orthogonal_reg_active_codes_only, config.orthogonal_reg_max_codes
        parts = [
            orthogonality(book.embed, codes[:, level] if only else None, most)
            for level, book in enumerate(self._chain.books)
        ]
        return losses + config.orthogonal_reg_weight * torch.stack(parts)

    def draw_cut(self, device: torch.device, seed: int | None = None) -> Tensor | int | None:
        """Draw the last level that isn't dropped, the same on every rank.

        Args:
            device: where it is drawn, so that nothing waits for it.
            seed: decides it, on the host; None draws at random.

        Returns:
            Tensor: () int64, a number where there is a seed; None where no level is dropped.
        """
        config, levels = self.config, self.num_quantizers
        if not (self.training and config.drops):
            return None
        first, multiple = config.quantize_dropout_cutoff_index, config.quantize_dropout_multiple_of
        if seed is not None:
            drawn: Any = random.Random(seed).randrange(first, levels)
        else:
            number = distributed.uniform((1,), device, distributed.is_synced(config.sync_codebook))[0]
            drawn = first + (number * (levels - first)).long().clamp(max=levels - first - 1)
        drawn = (drawn + multiple) // multiple * multiple - 1
        return drawn.clamp(max=levels - 1) if isinstance(drawn, Tensor) else min(drawn, levels - 1)

    def extra_repr(self) -> str:
        """Sizes in the module's printed form."""
        return f"dim={self.config.dim}, codebook_sizes={self.config.sizes}"
