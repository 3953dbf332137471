"""What all tests share: the real data, where there are any, and a fixed number of threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def torch_threads() -> None:
    # Two on every machine: no result hangs on its size, and what races with a second thread can show.
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def real_catalogue() -> Path:
    """The folder of real catalogues: UNITOK_DATA, or shared/data beside the repository."""
    named = os.environ.get("UNITOK_DATA")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data in {path}: set UNITOK_DATA to their folder")
    return path
