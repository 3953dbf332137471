"""torch.vmap: each entry of a batch gets what a call of its own gives, statistics and gradients too, and no warning."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels import nn

Z, CODEBOOKS = normal(3, 10, 4), normal(2, 8, 4, seed=1)
CODES = torch.arange(30).view(3, 10, 1).expand(3, 10, 2) % 8
CALLS = {
    "residual_encode": (lambda z: tuple(uk.residual_encode(z, CODEBOOKS)), Z),
    "nearest_codeword": (lambda z: tuple(uk.nearest_codeword(z, CODEBOOKS[0])), Z),
    "residual_decode": (lambda codes: uk.residual_decode(codes, CODEBOOKS), CODES),
    "residual_loss": (lambda z: uk.residual_loss(z, CODES[0], CODEBOOKS), Z),
    "hsic": (lambda z: uk.hsic(z, Z[0], torch.zeros(10).long(), num_segments=1), Z),
    "ResidualVQ": (nn.ResidualVQ(dim=4, num_quantizers=2, codebook_size=8).eval(), Z),
    "VectorQuantize": (nn.VectorQuantize(4, 8, codebook_dim=2).eval(), Z),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_entry_gets_what_a_call_of_its_own_gets(name, capfd):
    call, x = CALLS[name]
    found = torch.vmap(call)(x)
    inner = torch.vmap(call, in_dims=1)(x.transpose(0, 1))
    assert "batching rule" not in capfd.readouterr().err  # torch writes there if one is missing
    for place, one in enumerate(x):
        expected = call(one)
        for together, last, alone in zip(*map(_parts, (found, inner, expected)), strict=True):
            torch.testing.assert_close(together[place], alone, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(last[place], alone, rtol=1e-6, atol=1e-6)


def test_codebooks_and_gradients_have_a_batch_too():
    books = torch.stack([CODEBOOKS, 2 * CODEBOOKS, -CODEBOOKS])
    found = torch.vmap(lambda z, c: uk.residual_encode(z, c).codes)(Z, books)
    assert torch.equal(found, torch.stack([uk.residual_encode(z, c).codes for z, c in zip(Z, books, strict=True)]))
    together, alone = (Z.clone().requires_grad_() for _ in range(2))
    torch.vmap(lambda z: uk.residual_loss(z, CODES[0], CODEBOOKS))(together).sum().backward()
    sum(uk.residual_loss(z, CODES[0], CODEBOOKS) for z in alone).backward()
    torch.testing.assert_close(together.grad, alone.grad)


def test_a_batch_of_nothing_is_refused():
    with raises("residual_decode: the vmapped dimension must be of size 1 at least, got 0"):
        torch.vmap(lambda codes: uk.residual_decode(codes, CODEBOOKS))(CODES[:0])


def _parts(result):
    return (result,) if isinstance(result, torch.Tensor) else result
