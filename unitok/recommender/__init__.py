"""The next item: sequence models over semantic IDs, their baselines, and one evaluation for all of them.

Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitok.recommender.histories import Histories, Queries, Recommender

_HOME = {
    "Histories": "histories",
    "Queries": "histories",
    "Recommender": "histories",
}

__all__ = ["Histories", "Queries", "Recommender"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
