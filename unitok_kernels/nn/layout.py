"""Inputs and outputs of a layer: where channels and padding are, and whether a loss has gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unitok_kernels import checks
from unitok_kernels.nn.config import CodebookOptions


def channels_last(x: Tensor, options: CodebookOptions, codebook: Tensor) -> Tensor:
    """Move the channels of an input to its last dimension, and check its dtype, device and shape."""
    checks.tensors(options.layer, x=x)
    if x.dtype not in checks.FLOATS:
        rule = "float32, float16, bfloat16 or float64"
        checks.fail(options.layer, "x", rule, x.dtype, "Convert it with x.float().", TypeError)
    if x.device != codebook.device:
        step = f"Move it with x.to({str(codebook.device)!r}), or the layer."
        checks.fail(options.layer, "x", f"on {codebook.device}, as the layer is", x.device, step)
    ranks = {4: "(B, D, H, W)"} if options.accept_image_fmap else {5: "(B, D, T, H, W)"}
    is_map = options.accept_image_fmap or options.accept_3d_fmap
    if is_map and x.ndim not in ranks:
        checks.fail(options.layer, "x", f"of shape {ranks.popitem()[1]}", tuple(x.shape), "Reshape it.")
    if x.ndim < 2:
        checks.fail(options.layer, "x", "of shape (B, D) or more", tuple(x.shape), "Add a dimension.")
    rows = x.movedim(1, -1) if _is_moved(x, options) else x
    checks.same(options.layer, "x", rows.shape[-1], "dim", options.dim, "width")
    return rows


def channels_back(y: Tensor, x: Tensor, options: CodebookOptions) -> Tensor:
    """Move the channels of an output to where the input x has them."""
    return y.movedim(-1, 1) if _is_moved(x, options) else y


def _is_moved(x: Tensor, options: CodebookOptions) -> bool:
    is_map = options.accept_image_fmap or options.accept_3d_fmap
    return is_map or (not options.channel_last and x.ndim > 2)


def projected(rows: Tensor, projection: nn.Module, layer: str) -> Tensor:
    """Project rows; where torch refuses their dtype, say what it should be."""
    try:
        return projection(rows)
    except RuntimeError:
        weight = next(projection.parameters(), rows)
        if rows.dtype != weight.dtype:
            step = "Convert one of them, or use torch.autocast."
            checks.fail(layer, "x", f"{weight.dtype}, as the layer's projection is", rows.dtype, step, TypeError)
        raise


def call_settings(layer: str, temperature: object, beam: object = None, seed: object = None) -> None:
    """Check the types of numbers that a call can set."""
    if temperature is not None and not isinstance(temperature, Tensor):
        checks.number(layer, sample_codebook_temp=temperature)
    for name, value in (("beam_size", beam), ("rand_quantize_dropout_fixed_seed", seed)):
        if value is not None:
            checks.whole(layer, **{name: value})


def indices(layer: str, value: Tensor) -> Tensor:
    """Check that indices are an integer tensor."""
    checks.tensors(layer, indices=value)
    if value.dtype not in checks.INTEGERS:
        step = "Convert them with indices.long()."
        checks.fail(layer, "indices", "an integer tensor", value.dtype, step, TypeError)
    return value


def mask_of(rows: Tensor, mask: Tensor | None, lens: Tensor | None, layer: str) -> Tensor | None:
    """Give the mask (B, T) of rows (B, T, D) from a call's mask or lengths; True means that a row counts."""
    if mask is not None and lens is not None:
        checks.fail(layer, "lens", "left out beside mask", "both", "Give one of them.")
    given = {name: value for name, value in (("mask", mask), ("lens", lens)) if value is not None}
    checks.tensors(layer, **given)
    checks.one_device(layer, x=rows, **given)
    if lens is not None:
        if rows.ndim < 3 or lens.shape != rows.shape[:1]:
            checks.fail(
                layer, "lens", "of shape (B,), beside x of shape (B, T, D)", tuple(lens.shape), "Give one per sequence."
            )
        mask = torch.arange(rows.shape[1], device=rows.device) < lens[:, None]
    if mask is not None and mask.shape != rows.shape[:-1]:
        checks.fail(layer, "mask", f"of shape {tuple(rows.shape[:-1])}", tuple(mask.shape), "Give one value per row.")
    if mask is not None and mask.dtype != torch.bool:
        checks.fail(layer, "mask", "of bools", mask.dtype, "Convert it with mask.bool().", TypeError)
    return mask


def decoding(options: CodebookOptions) -> dict[str, Any]:
    """The settings that a layer passes to `residual_decode`."""
    return {"check_finite": options.check_finite, "backend": options.backend}


def with_gradients(loss: Tensor, training: bool) -> Tensor:
    """Allow backward on a training loss even if nothing in it learns, as vector-quantize-pytorch does."""
    asks = training and torch.is_grad_enabled() and not loss.requires_grad
    return loss.requires_grad_() if asks and not torch.compiler.is_compiling() else loss
