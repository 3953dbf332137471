"""What is promised holds where empty memory is poisoned, too, as in the tests of the kernels."""

from __future__ import annotations

from tests.unitok_kernels.conftest import poisoned_memory

__all__ = ["poisoned_memory"]
