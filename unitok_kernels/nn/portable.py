"""The operations in plain torch, for exporters that know nothing else: ONNX, and through it onnxruntime."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unitok_kernels import checks
from unitok_kernels.ops.registry import PLAIN


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Give the `torch.ops.unitok_kernels` that evaluation uses as functions of operations that exporters know.

    Scores are float64, so codes equal those of the kernels except for ties within 1e-12. The last bits of an error may
    differ, and nothing is checked for NaN.

    Returns:
        dict: operation -> function, as `torch.export.ExportedProgram.run_decompositions` takes it.
    """
    return {getattr(torch.ops.unitok_kernels, name).default: function for name, function in PLAIN.items()}


class Exportable(nn.Module):
    """A layer that `torch.onnx.export(..., dynamo=False)` takes.

    That exporter passes the defaults of keyword-only arguments by position. The base class of torch runs this method in
    place of `forward` while it traces.
    """

    def _slow_forward(self, *arguments: Any, **keywords: Any) -> Any:
        parameters = inspect.signature(self.forward).parameters.values()
        by_position = [p.default for p in parameters if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
        defaults = [p.default for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY]
        rest = arguments[len(by_position) :]
        if torch.onnx.is_in_onnx_export() and all(map(_is_default, rest, defaults)):
            arguments = arguments[: len(by_position)]
        return super()._slow_forward(*arguments, **keywords)


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, Tensor) and value.dim() == 0 and value.item() == default)


def to_onnx(module: nn.Module, arguments: tuple[Any, ...], *, dynamic_shapes: Any = None, **options: Any) -> Any:
    """Export a module with drop-in layers in evaluation to ONNX.

    Args:
        module: a layer, or a model that contains layers; the modes of its parts are restored afterwards.
        arguments: example inputs.
        dynamic_shapes: as `torch.export.export` takes it.
        options: options of `torch.onnx.export`.

    Returns:
        torch.onnx.ONNXProgram: call `save` on it.

    Raises:
        ImportError: onnx or onnxscript isn't installed.
        TypeError: `module` isn't a module, or `arguments` no tuple.
        ValueError: an operation has no form in ONNX; those of `MoEResidualVQ` have none.
    """
    checks.typed("to_onnx", "module", module, (nn.Module,), "a torch.nn.Module")
    checks.typed("to_onnx", "arguments", arguments, (tuple,), "a tuple")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        step = "Install them: pip install 'unitok-kernels[onnx]'."
        checks.fail("to_onnx", "onnx and onnxscript", "installed", f"no {' and no '.join(missing)}", step, ImportError)
    modes = [(part, part.training) for part in module.modules()]
    try:
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
    finally:
        for part, was_training in modes:
            part.training = was_training
    program = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    for node in program.graph.nodes:
        if str(node.target).startswith("unitok_kernels."):
            rule = f"made of {', '.join(PLAIN)} and torch's operations"
            checks.fail("to_onnx", "module", rule, node.target, "Export the rest of the model.")
    return torch.onnx.export(program, dynamo=True, **options)


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    table = codebook.double()
    return (table.square().sum(1) - 2 * (x.double() @ table.t())).argmin(1)


def _nearest_codeword(x: Tensor, codebook: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    codes = _nearest(x.float(), codebook.float())
    distance = (x.float() - codebook.float()[codes]).square().sum(1)
    return codes, distance, codes.new_zeros(2)


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
        codes[0].new_zeros(2),
    )


def _residual_decode(codes: Tensor, codebooks: Tensor, *_: Any) -> Tensor:
    total = codebooks.new_zeros(codes.shape[0], codebooks.shape[2], dtype=torch.float32)
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
    nothing = codes.new_zeros(0)
    return _residual_decode(codes, codebooks).to(z.dtype), torch.stack(errors), nothing.float(), nothing


PLAIN.update(
    nearest_codeword=_nearest_codeword,
    residual_decode=_residual_decode,
    residual_encode=_residual_encode,
    residual_straight_through=_residual_straight_through,
)
