"""What records of backends with a native module share."""

from __future__ import annotations

import importlib
import importlib.util


def unbuilt(module: str, remedy: str) -> str | None:
    """Say why a native module can't be loaded, and what builds it; None where it can."""
    if importlib.util.find_spec(module) is None:
        return f"the native module {module} is not built ({remedy})"
    try:
        importlib.import_module(module)
    except ImportError as error:
        if str(error).startswith(module):  # its own refusal, in a sub-interpreter
            return str(error).rstrip(".")
        return f"the native module {module} can't be loaded: {error} ({remedy})"  # of another Python or C library
    return None
