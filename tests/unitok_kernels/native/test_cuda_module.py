"""What is the CUDA kernels' own, on a device or, where UNITOK_CUDA_EMULATED names their module, on the host."""

from __future__ import annotations

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import integers, normal
from unitok_kernels import backends

DEVICE = "cpu" if backends.emulated() else "cuda"
pytestmark = [pytest.mark.skipif(not backends.available()["cuda"], reason="the CUDA kernels can't run here")]
if DEVICE == "cuda":
    pytestmark.append(pytest.mark.gpu)


def decoded(codes, codebooks, gradient):
    """Quantized rows and the codebooks' gradient."""
    codebooks = codebooks.detach().requires_grad_()
    quantized = uk.residual_decode(codes, codebooks, backend="cuda")
    quantized.backward(gradient)
    return quantized.detach(), codebooks.grad


def unaligned(x):
    """The same values at an address that is no multiple of 16."""
    place = x.new_empty(x.numel() + 1)[1:].view(x.shape)
    return place.copy_(x)


def test_a_launch_that_is_refused_names_operation_shape_and_error():
    codes = torch.zeros(1, 70_000, dtype=torch.int64, device=DEVICE)
    said = (
        r"^residual_decode_backward: N = 1, L = 70000, K = 1, D = 2, on CUDA device 0: "
        r"invalid (configuration )?argument\. `unitok doctor` says"
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match=said):
            torch.ops.unitok_kernels.residual_decode_backward(torch.ones(1, 2, device=DEVICE), codes, 1, "cuda")
    # The error is not left for the next call.
    assert uk.residual_decode(codes[:, :1], torch.ones(1, 1, 2, device=DEVICE), backend="cuda").tolist() == [[1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_do_not_hang_on_alignment(dtype):
    codes, codebooks = integers(6, 700, 2, low=-1).to(DEVICE), (normal(2, 6, 16) * 100).to(DEVICE, dtype)
    x = (normal(700, 16, seed=1) * 1e3).exp2().clamp(max=6e4).to(DEVICE, dtype)
    expected = [*decoded(codes, codebooks, x), *uk.codeword_statistics(x, codes[:, 0], 6, backend="cuda")]
    found = [
        *decoded(codes, unaligned(codebooks), unaligned(x)),
        *uk.codeword_statistics(unaligned(x), codes[:, 0], 6, backend="cuda"),
    ]
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


def test_what_is_too_long_for_the_kernels_goes_to_the_reference(monkeypatch):
    from unitok_kernels.ops.codeword_statistics import cuda as statistics
    from unitok_kernels.ops.residual_decode import cuda as decoding

    x, codes, codebooks = normal(40, 3).to(DEVICE), integers(5, 40, 2).to(DEVICE), normal(2, 5, 3).to(DEVICE)
    expected = [*decoded(codes, codebooks, x), *uk.codeword_statistics(x, codes[:, 0], 5, backend="cuda")]
    for module in (statistics, decoding):
        monkeypatch.setattr(module, "MOST", 39)
        monkeypatch.setattr(module, "workspace", None)
    found = [*decoded(codes, codebooks, x), *uk.codeword_statistics(x, codes[:, 0], 5, backend="cuda")]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("rows", "width", "codewords"), [(300, 65, 70), (1, 128, 5), (200, 128, 300)])
def test_products_by_warpgroups_and_by_warps_give_equal_bits(rows, width, codewords, monkeypatch):
    """wgmma, where the device has it, and mma.sync."""
    import unitok_kernels._cuda as module

    monkeypatch.setenv("UNITOK_WGMMA", "1")
    if not module.by_warpgroups(width, 0):
        pytest.skip("needs compute capability 9.0 and its code")
    assert not module.by_warpgroups(64, 0)
    z, codebooks = normal(rows, width).to(DEVICE), (normal(2, codewords, width, seed=1) / 2).to(DEVICE)
    experts, ids = codebooks[:, None].contiguous(), integers(2, rows, 2).to(DEVICE)

    def found():
        chain = uk.residual_encode(z, codebooks, backend="cuda", stats=True)
        mixture = uk.moe_residual_encode(z, experts, ids, ids.float(), codebooks, 0.5, backend="cuda", stats=True)
        nearest = uk.nearest_codeword(z, codebooks[0], backend="cuda")
        return [x for result in (chain, mixture, nearest) for x in result if isinstance(x, torch.Tensor)]

    by_warpgroups = found()
    monkeypatch.delenv("UNITOK_WGMMA")
    assert not module.by_warpgroups(width, 0)
    assert len(by_warpgroups) >= 10
    for one, two in zip(by_warpgroups, found(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a device")
def test_calls_stand_in_a_cuda_graph():
    x, codes = normal(5000, 32).to(DEVICE), integers(64, 5000, 4).to(DEVICE)
    codebooks = normal(4, 64, 32).to(DEVICE)

    def step():
        backward = torch.ops.unitok_kernels.residual_decode_backward(x, codes, 64, "cuda")
        statistics = uk.codeword_statistics(x, codes[:, 0].contiguous(), 64, backend="cuda")
        return uk.residual_decode(codes, codebooks, backend="cuda"), backward, *statistics

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    x.copy_(normal(5000, 32, seed=1))
    codes.copy_(integers(64, 5000, 4, seed=1))
    graph.replay()
    for one, two in zip(found, step(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(DEVICE == "cpu" or torch.cuda.device_count() < 2, reason="needs two devices")
def test_the_device_of_the_tensors_is_used_and_the_current_one_kept():
    codes, codebooks = integers(5, 40, 2), normal(2, 5, 3)
    expected = uk.residual_decode(codes, codebooks)
    with torch.cuda.device(0):
        assert torch.equal(
            uk.residual_decode(codes.to("cuda:1"), codebooks.to("cuda:1"), backend="cuda").cpu(), expected
        )
        assert torch.cuda.current_device() == 0
