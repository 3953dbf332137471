"""pack_codebooks: schema, checks, fake kernel and the public function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unitok_kernels import backends, checks
from unitok_kernels.ops.registry import define

OP = "pack_codebooks"
_SHAPES = {2: "(K, D)", 3: "(L, K, D)"}


class PackedCodebooks(NamedTuple):
    """Result of `pack_codebooks`; operations take it instead of the codebooks.

    Attributes:
        codebooks: the tensor that was packed; gradients go to it.
        packed: (..., words) int64, for codebooks (..., K, D); no words if the backend doesn't pack.
    """

    codebooks: Tensor
    packed: Tensor


def parts(codebooks: Any) -> tuple[Any, Tensor | None]:
    """Split an argument into codebooks and their packing, None if they aren't packed."""
    return codebooks if isinstance(codebooks, PackedCodebooks) else (codebooks, None)


def check_packed(operation: str, name: str, codebooks: Tensor, packed: Tensor | None) -> None:
    """Check that a packing fits these codebooks."""
    if packed is None:
        return
    if packed.dtype != torch.int64 or packed.shape[:-1] != codebooks.shape[:-2]:
        leading = "".join(f"{size}, " for size in codebooks.shape[:-2])
        rule, got = f"int64 of shape ({leading}words), as {name} is packed", f"{packed.dtype} {tuple(packed.shape)}"
        checks.fail(operation, f"packed {name}", rule, got, "Pack them by pack_codebooks.")
    checks.one_device(operation, **{name: codebooks, f"packed_{name}": packed})


def _check(codebooks: Tensor) -> None:
    checks.floating(OP, "codebooks", codebooks, _SHAPES.get(codebooks.dim(), "(E, L, K, D)"))
    checks.not_empty(OP, "codebooks", codebooks, "ELKD"[-codebooks.dim() :])


def _fake(codebooks: Tensor, chosen: str) -> Tensor:
    words = backends.kernels(OP, chosen).words(codebooks) if backends.records()[chosen].reads_packed else 0
    return codebooks.new_empty(*codebooks.shape[:-2], words, dtype=torch.int64)


_operation = define(
    OP, "(Tensor codebooks, str? backend=None) -> Tensor", check=_check, fake=_fake, sized_by_backend=True
)


@backends.documented(OP)
def pack_codebooks(codebooks: Tensor, *, backend: str | None = None) -> PackedCodebooks:
    """Pack codebooks into the form that searches read, once for many calls.

    c' = c - m about a centre m, in steps of max |c'| / 32639, written in two digits, 256 H + L; and |c'|^2.

    If you search the same codebooks repeatedly, pass the result to `nearest_codeword`, `residual_encode` and
    `moe_residual_encode` instead of the codebooks: otherwise they pack them in every call. The result does not follow
    the codebooks. After they change, also in place, pack them again, or results are wrong. Only {packing} packs; the
    other backends use the codebooks inside, and so does {packing} if another backend made the result.

    Args:
        codebooks: (K, D), (L, K, D) or (E, L, K, D) float; the result keeps them, too.
        backend: {backends}; the one that will run the searches.

    Returns:
        PackedCodebooks: the codebooks, and the packing in about 6 bytes per value.

    Raises:
        ValueError: shapes don't fit; the backend can't run the call.
        TypeError: codebooks aren't a tensor or have the wrong dtype.

    Source:
        csrc/cuda/packed.cuh derives the digits and bounds what they leave out.
    """
    checks.tensors(OP, codebooks=codebooks)
    checks.settings(OP, check_finite=None, backend=backend)
    return PackedCodebooks(codebooks, _operation(codebooks, backend))
