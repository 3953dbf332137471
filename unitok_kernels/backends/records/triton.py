"""Triton kernels for CUDA tensors; in Triton's interpreter for others, which tests ask for."""

from __future__ import annotations

import importlib.util
import os

from unitok_kernels.backends.record import Backend


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'unitok-kernels[gpu]')"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    if _interpreted():
        return None
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA device, and TRITON_INTERPRET=1 is not set"


BACKEND = Backend(
    name="triton", preference=20, missing=_missing, devices=("cuda",), on_host=_interpreted, joins_graphs=True
)
