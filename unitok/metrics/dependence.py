"""How strongly the latents depend on the embeddings: HSIC, comparable between domains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unitok_kernels import hsic

_LEAST, _MOST = 32, 512  # rows per domain that HSIC is estimated on


@torch.no_grad()
def equal_hsic(
    x: Tensor, z: Tensor, domains: Tensor, names: Sequence[str], most: int = _MOST, *, normalised: bool = False
) -> dict[str, float]:
    """Measure each domain's HSIC on the same number of rows.

    The estimate has a bias of the order of 1/n: estimates are comparable only if they use equally many rows.

    Args:
        x: (N, D_in) float32.
        z: (N, D) float32 latents.
        domains: (N,) int64.
        names: names of the domains.
        most: most rows per domain.
        normalised: scale HSIC to lie between 0 and 1 (CKA). HSIC itself grows with how clustered the embeddings are,
            whatever the latents keep of them; this doesn't.

    Returns:
        dict: name -> HSIC on as many strided rows as the smallest domain of at least 32 has; smaller domains are left
        out.

    Source:
        Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", 2005, for the bias; Kornblith
        et al., "Similarity of neural network representations revisited", 2019, for CKA.
    """
    members = [rows for k in range(len(names)) if len(rows := (domains == k).nonzero().squeeze(1)) >= _LEAST]
    if not members:
        return {}
    count = min(most, *map(len, members))
    rows = torch.cat([m[:: len(m) // count][:count] for m in members])
    values = hsic(x[rows], z[rows], domains[rows], num_segments=len(names), normalised=normalised).tolist()
    measured = set(domains[rows].tolist())
    return {name: values[k] for k, name in enumerate(names) if k in measured}
