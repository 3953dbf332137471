"""What records of backends with a native module share."""

from __future__ import annotations

import importlib
import importlib.util


def unbuilt(module: str) -> str | None:
    """Say why a native module can't be loaded; None where it can."""
    if importlib.util.find_spec(module) is None:
        return f"the native module {module} is not built"
    try:
        importlib.import_module(module)
    except ImportError as error:  # built for another Python or C library
        return f"the native module {module} can't be loaded: {error}"
    return None
