"""An ONNX model of a layer gives equal codes, and exporting leaves the layer's modes as they were."""

from __future__ import annotations

import importlib.util
import io
import warnings

import pytest
import torch

from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels.nn import GroupedResidualVQ, MoEResidualVQ, ResidualVQ, VectorQuantize, to_onnx

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


@pytest.mark.parametrize("name", LAYERS)
def test_the_older_exporter_gives_equal_codes(name):
    import onnxruntime

    torch.manual_seed(0)
    layer, file, x = LAYERS[name]().eval(), io.BytesIO(), normal(2, 20, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        torch.onnx.export(layer, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {1: "time"}})
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for time in (20, 300):
        x = normal(2, time, 16, seed=time)
        quantized, codes, _ = layer(x)
        found = session.run(None, {"x": x.numpy()})
        assert torch.equal(torch.from_numpy(found[1]), codes)
        torch.testing.assert_close(torch.from_numpy(found[0]), quantized.detach())


def test_torch_s_own_export_takes_a_layer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        layer = torch.nn.Sequential(ResidualVQ(**CHAIN)).eval()
        program = torch.onnx.export(layer, (normal(2, 20, 16),), dynamo=True, verbose=False)
    assert {node.domain for node in program.model.graph} == {""}  # standard operations alone


def test_what_has_no_form_in_onnx_is_named_and_to_onnx_with_it():
    layer, x = MoEResidualVQ(4, 2, 1, 8).eval(), (normal(5, 4), torch.zeros(5, 1).long(), torch.ones(5, 1))
    message = "moe_residual_encode: what is exported to ONNX must be among .* got moe.* see unitok_kernels.nn.to_onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        with raises(message):
            torch.onnx.export(layer, x, io.BytesIO(), dynamo=False)
        with raises("to_onnx: module must be made of .*, got unitok_kernels.moe_residual_encode"):
            to_onnx(layer, x, verbose=False)


def test_an_export_without_onnx_says_what_brings_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises("to_onnx: onnx and onnxscript must be installed, got no onnx and no onnxscript", ImportError):
        to_onnx(ResidualVQ(**CHAIN), (normal(2, 20, 16),))
    with raises("to_onnx: arguments must be a tuple, got Tensor", TypeError):
        to_onnx(ResidualVQ(**CHAIN), normal(2, 20, 16))


def test_each_part_of_a_model_gets_its_mode_back():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(20).eval(), ResidualVQ(**CHAIN))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        to_onnx(model, (normal(2, 20, 16),), verbose=False)
    assert [part.training for part in model] == [False, True]
