"""Layers around the operations, and adapters for other libraries' models."""

from unitok_kernels.nn.adapters import Replacement, replace_quantizers, restore_quantizers
from unitok_kernels.nn.config import GroupedResidualVQConfig, ResidualVQConfig, VectorQuantizeConfig
from unitok_kernels.nn.grouped import GroupedResidualVQ
from unitok_kernels.nn.moe_residual_vq import MoEResidualOutput, MoEResidualVQ
from unitok_kernels.nn.portable import decompositions, to_onnx
from unitok_kernels.nn.residual_vq import ResidualVQ
from unitok_kernels.nn.vector_quantize import VectorQuantize

__all__ = [
    "GroupedResidualVQ",
    "GroupedResidualVQConfig",
    "MoEResidualOutput",
    "MoEResidualVQ",
    "Replacement",
    "ResidualVQ",
    "ResidualVQConfig",
    "VectorQuantize",
    "VectorQuantizeConfig",
    "decompositions",
    "replace_quantizers",
    "restore_quantizers",
    "to_onnx",
]


def __dir__() -> list[str]:
    return sorted(__all__)
