"""Checks of the items that `Tokenizer` is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitok.config import UniTokConfig
from unitok.numerics import embeddings
from unitok_kernels import checks

Rows = Tensor | np.ndarray[Any, Any]


def checked_domains(domains: Mapping[str, Rows]) -> dict[str, Tensor]:
    """Check the domains that `fit` was given: at least one row each, all of one width.

    Args:
        domains: name -> (N_k, D_in) float embeddings.

    Returns:
        dict: name -> (N_k, D_in) float32 on the CPU.

    Raises:
        ValueError: no domain, an empty one, different widths, NaN or infinity.
        TypeError: an entry is neither a tensor nor an array of floats.
    """
    if not domains:
        checks.fail("fit", "domains", "at least one domain", 0, "Pass a dict of name -> embeddings.")
    parts = {name: checked_rows("fit", f"domains[{name!r}]", x) for name, x in domains.items()}
    first, width = next((name, x.shape[1]) for name, x in parts.items())
    for name, x in parts.items():
        checks.at_least("fit", f"domains[{name!r}]'s rows", len(x), 1, "Leave empty domains out.")
        checks.same("fit", f"domains[{name!r}]", x.shape[1], f"domains[{first!r}]", width, "width")
    return parts


def check_experts(config: UniTokConfig, num_experts: int, num_items: int) -> None:
    """Refuse to fit more experts than items, or more experts per item than there are."""
    step = "Use fewer experts, or give more items."
    checks.at_least("fit", "the number of items", num_items, num_experts, step)
    if config.top_k > max(num_experts, 1):
        rule = f"at most the number of experts, {num_experts}"
        checks.fail("fit", "config.top_k", rule, config.top_k, "Lower it.")


def checked_rows(what: str, name: str, x: Rows) -> Tensor:
    """Check item embeddings, and return them as a tensor.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        x: (N, D_in) float embeddings, a tensor or an array.

    Returns:
        Tensor: (N, D_in) float32 on the CPU.

    Raises:
        ValueError: not a matrix; NaN or infinity (with the row).
        TypeError: neither a tensor nor an array of floats.
    """
    if isinstance(x, np.ndarray):
        array = embeddings(what, name, x)
        return torch.from_numpy(array if array.flags.writeable else array.copy())  # a file's memory map is not
    checks.tensors(what, **{name: x})
    checks.floating(what, name, x, "(N, D_in)")
    rows = x.detach().float().cpu()
    checks.finite(what, name, rows, "Remove or repair that row.")
    return rows
