"""Compiles the GPU kernels without a GPU, holds them to budgets and predicts their times."""
