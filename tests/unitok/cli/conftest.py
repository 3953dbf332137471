"""A small catalogue, a tokenizer of it and its table of IDs, made by the commands themselves, once a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unitok.cli.runs import DOMAINS, TINY, unitok
from unitok.data import generate_catalogue


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="package")
def catalogue(home: Path) -> Path:
    generate_catalogue(home / "catalogue", items_per_domain=60, width=32, domains=DOMAINS)
    return home / "catalogue"


@pytest.fixture(scope="package")
def fitted(home: Path, catalogue: Path) -> Path:
    unitok("fit", catalogue, "--out", home / "fitted", "--epochs", 3, *TINY)
    return home / "fitted"


@pytest.fixture(scope="package")
def table(home: Path, catalogue: Path, fitted: Path) -> Path:
    unitok("tokenize", fitted, catalogue, "--out", home / "ids.parquet")
    return home / "ids.parquet"


@pytest.fixture
def domain(tmp_path: Path, catalogue: Path) -> Path:
    """A domain of one's own to spoil."""
    shutil.copytree(catalogue / "beauty", tmp_path / "beauty")
    return tmp_path / "beauty"
