"""GroupedResidualVQ: a chain of codebooks for each group of features."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from unitok_kernels import checks
from unitok_kernels.nn import layout
from unitok_kernels.nn.config import GroupedResidualVQConfig, ResidualVQConfig, configured
from unitok_kernels.nn.portable import Exportable
from unitok_kernels.nn.residual_vq import ResidualVQ


class GroupedResidualVQ(Exportable):
    """Cut the features into groups, and quantise each group by its own `ResidualVQ`.

    Args:
        config: a GroupedResidualVQConfig, without other options.
        options: see `GroupedResidualVQConfig`.

    Raises:
        ValueError: options that don't fit each other.
        TypeError: an option that is unknown or not supported.

    Source:
        Yang et al., "HiFi-Codec", arXiv 2305.02765.
    """

    def __init__(self, config: GroupedResidualVQConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = configured(GroupedResidualVQConfig, config, options)
        self.config, self.dim, self.groups = config, config.dim, config.groups
        given = {field.name: getattr(config, field.name) for field in fields(ResidualVQConfig)}
        group = dataclasses.replace(ResidualVQConfig(**given), dim=config.dim // config.groups)
        self.rvqs = nn.ModuleList([ResidualVQ(group) for _ in range(config.groups)])

    def _chains(self) -> list[ResidualVQ]:
        return cast("list[ResidualVQ]", list(self.rvqs))

    @property
    def split_dim(self) -> int:
        """The dimension of x that holds the features."""
        moved = self.config.accept_image_fmap or self.config.accept_3d_fmap or not self.config.channel_last
        return 1 if moved else -1

    @property
    def codebooks(self) -> Tensor | tuple[tuple[Tensor, ...], ...]:
        """Codewords (G, L, K, D); if the levels differ in size, a tuple per group of each level's (K, D)."""
        groups = [group.codebooks for group in self._chains()]
        tensors = [books for books in groups if isinstance(books, Tensor)]
        return torch.stack(tensors) if tensors else tuple(books for books in groups if isinstance(books, tuple))

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Look up the codewords of each group and level.

        Args:
            indices: (G, B, ..., L) int64, each group's as in `ResidualVQ.get_codes_from_indices`.

        Returns:
            Tensor: (G, L, B, ..., D).

        Raises:
            ValueError: there aren't indices for each group, more levels than the layer has, or a code of none of them.
            TypeError: `indices` isn't an integer tensor.
        """
        given = zip(self._chains(), self._by_group(indices), strict=True)
        return torch.stack([group.get_codes_from_indices(i) for group, i in given])

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """Decode indices: the groups' outputs side by side.

        Args:
            indices: (G, B, ..., L) int64, each group's as in `ResidualVQ.get_codes_from_indices`.

        Returns:
            Tensor: (B, ..., D).

        Raises:
            ValueError: there aren't indices for each group, more levels than the layer has, or a code of none of them.
            TypeError: `indices` isn't an integer tensor.
        """
        given = zip(self._chains(), self._by_group(indices), strict=True)
        return torch.cat([group.get_output_from_indices(i) for group, i in given], -1)

    def _by_group(self, indices: Tensor) -> Tensor:
        checks.same(
            self.config.layer,
            "indices",
            len(layout.indices(self.config.layer, indices)),
            "groups",
            self.groups,
            "length",
        )
        return indices

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        return_all_codes: bool = False,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
    ) -> Any:
        """Quantise rows.

        Args:
            x: as `ResidualVQ.forward` takes it.
            mask: (B, T) bool, True where a row counts.
            lens: (B,) int, how many rows count.
            return_all_codes: append each level's codewords.
            sample_codebook_temp: overrides the layer's.
            freeze_codebook: overrides the layer's.

        Returns:
            tuple: quantized, like x; indices (G, B, T, L); losses (G, L); with `return_all_codes`, (G, L, B, T, D).

        Raises:
            ValueError: a shape or a value doesn't fit.
            TypeError: an argument has the wrong type.
        """
        layout.channels_last(x, self.config, self._chains()[0]._first)
        layout.call_settings(self.config.layer, sample_codebook_temp)
        cut = self._chains()[0].draw_cut(x.device)  # all groups drop the same levels
        parts = [
            group.quantize(part, mask, lens, return_all_codes, sample_codebook_temp, freeze_codebook, None, cut)
            for group, part in zip(self._chains(), x.chunk(self.groups, self.split_dim), strict=True)
        ]
        quantized, *rest = zip(*parts, strict=True)
        return torch.cat(quantized, self.split_dim), *(torch.stack(values) for values in rest)
