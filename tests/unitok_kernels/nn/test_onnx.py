"""An ONNX model of a layer gives equal codes, and exporting leaves the layer's modes as they were."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.unitok_kernels.helpers.oracle import normal
from unitok_kernels.nn import GroupedResidualVQ, ResidualVQ, VectorQuantize, to_onnx

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason=f"{name} isn't installed")

CHAIN = {"dim": 16, "codebook_size": 32, "num_quantizers": 3}
LAYERS = {
    "cosine": lambda: VectorQuantize(16, 32, use_cosine_sim=True),
    "sizes, narrow": lambda: ResidualVQ(dim=16, codebook_size=(8, 32), codebook_dim=8),
    "learnt": lambda: ResidualVQ(**CHAIN, learnable_codebook=True, ema_update=False),
    "groups": lambda: GroupedResidualVQ(**CHAIN, groups=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_gives_equal_codes(name, tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    layer, path = LAYERS[name](), tmp_path / "layer.onnx"
    rows = {0: torch.export.Dim.STATIC, 1: torch.export.Dim("time", min=2), 2: torch.export.Dim.STATIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        to_onnx(layer, (normal(2, 20, 16),), dynamic_shapes=(rows,), verbose=False).save(path)
    assert layer.training
    layer.eval()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for time in (20, 300):
        x = normal(2, time, 16, seed=time)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = layer(x)
        assert torch.equal(torch.from_numpy(found[1]), expected[1])
        torch.testing.assert_close(torch.from_numpy(found[0]), expected[0].detach())


def test_each_part_of_a_model_gets_its_mode_back():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(20).eval(), ResidualVQ(**CHAIN))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        to_onnx(model, (normal(2, 20, 16),), verbose=False)
    assert [part.training for part in model] == [False, True]
