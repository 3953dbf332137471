"""The operations in plain torch, for exporters that know nothing else: ONNX, and through it onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Give the `torch.ops.unitok_kernels` that evaluation uses as functions of operations that exporters know.

    Scores are float64, so codes equal those of the kernels except for ties within 1e-12. The last bits of an error may
    differ, and nothing is checked for NaN.

    Returns:
        dict: operation -> function, as `torch.export.ExportedProgram.run_decompositions` takes it.
    """
    known = torch.ops.unitok_kernels
    return {
        known.nearest_codeword.default: _nearest_codeword,
        known.residual_decode.default: _residual_decode,
        known.residual_encode.default: _residual_encode,
        known.residual_straight_through.default: _residual_straight_through,
    }


def to_onnx(module: nn.Module, arguments: tuple[Any, ...], *, dynamic_shapes: Any = None, **options: Any) -> Any:
    """Export a module with drop-in layers in evaluation to ONNX.

    Args:
        module: a layer, or a model that contains layers; the modes of its parts are restored afterwards.
        arguments: example inputs.
        dynamic_shapes: as `torch.export.export` takes it.
        options: options of `torch.onnx.export`.

    Returns:
        torch.onnx.ONNXProgram: call `save` on it.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
    finally:
        for part, was_training in modes:
            part.training = was_training
    table = {**torch.export.default_decompositions(), **decompositions()}
    return torch.onnx.export(program.run_decompositions(table), dynamo=True, **options)


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    table = codebook.double()
    return (table.square().sum(1) - 2 * (x.double() @ table.t())).argmin(1)


def _nearest_codeword(x: Tensor, codebook: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    codes = _nearest(x.float(), codebook.float())
    distance = (x.float() - codebook.float()[codes]).square().sum(1)
    return codes, distance, torch.zeros(2, dtype=torch.int64)


def _residual_encode(z: Tensor, codebooks: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual, quantized, codes, errors = z.float(), torch.zeros_like(z, dtype=torch.float32), [], []
    for codebook in codebooks.float().unbind():
        codes.append(_nearest(residual, codebook))
        codeword = codebook[codes[-1]]
        residual, quantized = residual - codeword, quantized + codeword
        errors.append(residual.square().mean())
    return (
        torch.stack(codes, 1),
        quantized.to(z.dtype),
        torch.stack(errors),
        torch.zeros(2, dtype=torch.int64),
    )


def _residual_decode(codes: Tensor, codebooks: Tensor, *_: Any) -> Tensor:
    total = torch.zeros(codes.shape[0], codebooks.shape[2])
    for code, codebook in zip(codes.unbind(1), codebooks.float().unbind(), strict=True):
        total = total + torch.where(code[:, None] >= 0, codebook[code.clamp(min=0)], 0.0)
    return total.to(codebooks.dtype)


def _residual_straight_through(
    z: Tensor, codes: Tensor, codebooks: Tensor, estimator: str = "straight", cosine: bool = False, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Without statistics, since evaluation needs none."""
    residual, errors = z.float(), []
    for code, codebook in zip(codes.unbind(1), codebooks.float().unbind(), strict=True):
        x = torch.nn.functional.normalize(residual, eps=1e-6) if cosine else residual
        has = code[:, None] >= 0
        codeword = torch.where(has, codebook[code.clamp(min=0)], 0.0)
        count = (has.sum() * z.shape[1]).clamp(min=1)
        errors.append(torch.where(has, x - codeword, 0.0).square().sum() / count)
        residual = residual - codeword
    nothing = torch.zeros(0, dtype=torch.int64)
    return _residual_decode(codes, codebooks).to(z.dtype), torch.stack(errors), nothing.float(), nothing
