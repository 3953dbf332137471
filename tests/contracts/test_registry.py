"""What torch sees of every operation."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal

OPERATIONS = [
    "codeword_statistics",
    "hsic",
    "kmeans",
    "moe_residual_encode",
    "moe_residual_loss",
    "nearest_codeword",
    "pack_codebooks",
    "residual_decode",
    "residual_encode",
    "residual_loss",
    "sinkhorn_assign",
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_registered_with_a_backend_argument(name):
    operation = getattr(torch.ops.unitok_kernels, name).default
    last = operation._schema.arguments[-1]
    assert (last.name, last.default_value) == ("backend", None)
    assert torch.Tag.pt2_compliant_tag in operation.tags
    assert callable(getattr(uk, name))


def test_defaults_and_keywords_work_through_torch_ops():
    z, codebooks = normal(5, 3), normal(2, 4, 3)
    plain = torch.ops.unitok_kernels.residual_encode(z, codebooks)
    named = torch.ops.unitok_kernels.residual_encode(z, codebooks, stats=True, backend="reference")
    assert len(plain) == len(named) == 4
    assert all(torch.equal(plain[i], named[i]) for i in range(2))  # codes and quantized: the same on every backend


def test_operations_without_a_gradient_hand_out_none():
    # torch's fallback would mark the outputs as differentiable and then give no gradient, with a warning at most.
    z, codebooks, codes = normal(5, 3).requires_grad_(), normal(2, 4, 3).requires_grad_(), integers(4, 5)
    results = [
        *uk.nearest_codeword(z, codebooks[0]),
        *uk.residual_encode(z, codebooks),
        *uk.codeword_statistics(z, codes, 4),
        *uk.kmeans(z, 2, iterations=1, seed=0),
        uk.sinkhorn_assign(z, codebooks[0], epsilon=0.1, iterations=2),
    ]
    assert not any(result.requires_grad for result in results)
