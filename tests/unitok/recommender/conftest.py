"""What the recommender's tests share: a small generated domain, and the histories of its users."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generated domain of 200 items and 300 users."""
    from unitok.data import generate_catalogue

    path = tmp_path_factory.mktemp("catalogue")
    generate_catalogue(path, domains=["beauty"], items_per_domain=200, width=16)
    return path / "beauty"
