"""The network: encoder, router, quantizer and decoder.

Importing this package imports no torch; `UniTokModel` is loaded when it is first used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["UniTokModel"]


def __getattr__(name: str) -> Any:
    if name == "UniTokModel":
        from unitok.model.network import UniTokModel

        return UniTokModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
