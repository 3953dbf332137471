"""Plain torch: every operation, on every device; the truth that the other backends are held to."""

from __future__ import annotations

from unitok_kernels.backends.record import Backend


def _missing() -> None:
    return None


BACKEND = Backend(name="reference", preference=0, missing=_missing, takes_float64=True)
