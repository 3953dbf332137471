"""Our layers beside vector-quantize-pytorch's: the same state, input and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unitok_kernels.helpers.codebooks import books
from unitok_kernels import nn
from unitok_kernels.nn import distributed

theirs = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch isn't installed")

NEAR = 2e-5  # of the largest value: float32 sums in another order, over 20 steps


def close(found: Any, expected: Any, what: str) -> None:
    """Hold tensors, lists of them and None to be alike."""
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), what
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            close(one, other, f"{what} {number}")
    elif expected is None or found is None:
        assert found is expected, what
    else:
        assert found.shape == expected.shape, what
        assert found.dtype == expected.dtype, what
        off = (found.double() - expected.double()).abs().max().item() if expected.numel() else 0.0
        assert off <= NEAR * max(1.0, expected.double().abs().max().item()), f"{what} is {off:.1e} off"


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """Their layer and ours, in one state."""
    torch.manual_seed(0)
    peer = getattr(theirs, kind)(**options)
    own = getattr(nn, kind)(**options)
    assert list(own.state_dict()) == list(peer.state_dict())
    own.load_state_dict(peer.state_dict(), strict=True)
    return peer, own


def numbers(shape: tuple[int, ...], device: Any, synced: bool) -> Tensor:
    """In place of our draws: a row for each codeword in the order of the batch."""
    return torch.linspace(0, 0.999, shape[-1]).expand(shape)


def drawn_rows(samples: Tensor, size: int) -> Tensor:
    """The rows (1, K, D) of (1, N, D) that our layers take by `numbers`."""
    draw = distributed.draw_rows(numbers((size,), None, False), samples.shape[1], None, False)
    return samples[:, draw.row]


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`same_draws(layer)`: k-means starts and revivals of their layer draw what ours do."""
    monkeypatch.setattr(distributed, "uniform", numbers)

    def inject(layer: Any) -> None:
        for book in books(layer):

            def revived(samples: Tensor, count: int, book: Any = book) -> Tensor:
                return drawn_rows(samples, book.codebook_size)[:, book.cluster_size[0] < book.threshold_ema_dead_code]

            book.sample_fn, book.replace_sample_fn = drawn_rows, revived

    return inject


def batch(step: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Input and upstream gradient of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def trained(
    layers: tuple[Any, Any], shape: tuple[int, ...], *, steps: int = 20, draws: bool = False, **call: Any
) -> None:
    """Train both layers on the same batches; everything agrees at every step."""
    pairs = [
        (layer, torch.optim.SGD(parameters, lr=1e-3) if (parameters := list(layer.parameters())) else None)
        for layer in layers
    ]
    for step in range(steps):
        x, upstream = batch(step, *shape)
        results = []
        for layer, optimizer in pairs:
            torch.manual_seed(step)
            rows = x.clone().requires_grad_()
            quantized, indices, loss, *rest = layer(rows, **call)
            weights = torch.arange(1.0, loss.numel() + 1).view_as(loss)
            layer.zero_grad()
            ((quantized * upstream).sum() + (loss * weights).sum()).backward()
            gradients = [parameter.grad for parameter in layer.parameters()]
            results.append((indices, [quantized, loss, *rest], [rows.grad, *gradients]))
            if optimizer is not None:
                optimizer.step()
        (peer_codes, peer_values, peer_gradients), (codes, values, gradients) = results
        assert torch.equal(codes, peer_codes), f"codes of step {step}"
        close(values, peer_values, f"step {step}, value")
        close(gradients, peer_gradients, f"step {step}, gradient")
        peer_state, state = (layer.state_dict() for layer in layers)
        for name, value in peer_state.items():
            close(state[name], value, f"step {step}, {name}")


def evaluated(layers: tuple[Any, Any], shape: tuple[int, ...], *, decodes: bool = True, **call: Any) -> None:
    """Both give the same results in evaluation, and decode them alike."""
    x, _ = batch(99, *shape)
    (peer, own) = (layer.eval() for layer in layers)
    with torch.no_grad():
        expected, found = peer(x, **call), own(x, **call)
        assert torch.equal(found[1], expected[1])
        close(found, expected, "evaluation, value")
        if decodes and not call:
            close(own.get_output_from_indices(found[1]), peer.get_output_from_indices(expected[1]), "output")
            close(own.get_codes_from_indices(found[1]), peer.get_codes_from_indices(expected[1]), "codes")
