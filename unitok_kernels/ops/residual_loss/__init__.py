"""The loss that trains codebooks and commits the encoder to them."""

from unitok_kernels.ops.residual_loss.op import moe_residual_loss, residual_loss

__all__ = ["moe_residual_loss", "residual_loss"]
