"""What the Triton kernels share: device code, launches, tile sizes and autotuning."""
